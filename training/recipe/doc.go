// Package recipe trains a model by the name of a method: it opens the data, creates the network, the teacher, the loss and the optimizer,
// and runs the trainer of package training with them. A [Run] gives the same results, bit by bit, as the command onestep train, and each
// can resume a run directory of the other.
//
//	run := recipe.Run{Method: &recipe.ECT{Q: 2}, Init: "runs/edm", Data: "photos/", Resolution: 32, Steps: 20_000, Out: "runs/ect"}
//	result, err := run.Train(ctx)
//
// The zero value of an option stands for its default. Where zero is a value of its own, the field is a pointer: new(0.0) is zero. Some
// defaults depend on other options, such as the number of noise levels on the number of steps: [Run.Resolve] fills them in, and
// options.json in the run directory records them. [Run.Plan] also opens the data and writes the card: the loss, the values of its
// schedules, and the accuracy that they can reach.
//
// # Methods
//
// A [Method] is a struct with exactly the options that it uses. [Named] returns a method by its name, and [Run.Set] sets any option by its
// name, for configuration files and tables of experiments:
//
//	method, err := recipe.Named("ict")
//	run := recipe.Run{Method: method, Data: "emoji", Out: "runs/a"}
//	err = run.Set("schedule", "linear")
//
// The tags of a struct's fields declare its options: name, help, default and range. The tool's flags, the keys of its configuration files
// and those of options.json come from them.
//
// A program may define a method of its own: a type that implements [Method]. It is used like the methods of this package, except that
// [Named] does not find it: set Run.Method before you set or read options.
//
// The tags of a field are:
//
//	option   the option's name, in lower case with dashes, such as "label-dropout"; in JSON it is label_dropout
//	help     a description in one line
//	default  the value that zero stands for
//	range    the interval of allowed numbers, such as "[0,1)" or "(0,]"
//	choices  the allowed values, separated by commas
//	value    the placeholder for the value in help texts, such as FILE
//
// A field's type is int, int64, uint64, float64, bool or string, a defined type with one of these underlying types, such as type Way
// string, a type that implements encoding.TextUnmarshaler, or a slice of or pointer to one of them. A nil pointer stands for no value.
//
// # Results
//
// The run directory holds options.json, card.md, stats.jsonl, snapshots with EMA weights (model-STEP.safetensors), which package
// models/checkpoint opens, and checkpoints to resume from (state-STEP.safetensors). On the CPU with one thread (torch.SetThreads) results
// are reproducible bit by bit, also when the run is interrupted and resumed.
//
// An error about an option is an [OptionError].
package recipe
