// Package recipe trains by the name of a method: it opens the data, makes the network, the teacher, the loss and the optimizer, and runs
// the trainer of package training with them. A [Run] is what onestep train runs, to the same bits, and a run directory of the one can be
// resumed by the other.
//
//	run := recipe.Run{Method: &recipe.ECT{Q: 2}, Init: "runs/edm", Data: "photos/", Resolution: 32, Steps: 20_000, Out: "runs/ect"}
//	result, err := run.Train(ctx)
//
// The zero value of every option is its default: where a zero means something else, the field is a pointer, and new(0.0) is zero. What
// a run chooses by itself, such as the number of noise levels by its length, [Run.Resolve] shows beforehand, and options.json in the run
// directory afterwards. [Run.Plan] also opens the data, and has the card: the loss, its schedules in numbers, and what they can reach.
//
// # Methods
//
// A [Method] is a struct with the options that it reads, and no others. [Named] returns one by its name, and [Run.Set] sets any option by
// its name, for configuration files and tables of experiments:
//
//	method, err := recipe.Named("ict")
//	run := recipe.Run{Method: method, Data: "emoji", Out: "runs/a"}
//	err = run.Set("schedule", "linear")
//
// The tags of the structs' fields are where an option is declared: its name, help, default and range. Flags of the tool, the keys of its
// configuration files and options.json come from them.
//
// A method of a program's own implements [Method] and is used like those of this package, but that [Named] does not know it: the run that
// options are set or read into has it already.
//
// The tags of a field are:
//
//	option   the option's name, in lower case with dashes, such as "label-dropout"; in JSON it is label_dropout
//	help     what it is, in a line
//	default  the value that zero stands for
//	range    the numbers that are allowed, such as "[0,1)" or "(0,]"
//	choices  the values that are allowed, separated by commas
//	value    what a help text calls the value, such as FILE
//
// Fields are of the types int, int64, uint64, float64, bool and string, types made of these, such as type Way string, types that implement
// encoding.TextUnmarshaler, and slices of and pointers to all of them. A pointer tells zero from no value.
//
// # Results
//
// The run directory gets options.json, card.md, stats.jsonl, snapshots with EMA weights (model-STEP.safetensors), which package
// models/checkpoint opens, and checkpoints to resume from (state-STEP.safetensors). On the CPU with one thread (torch.SetThreads) a run
// repeats bit by bit, also in pieces.
//
// Errors that are about an option are an [OptionError].
package recipe
