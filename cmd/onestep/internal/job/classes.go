package job

import (
	"fmt"
	"slices"
	"strconv"
	"strings"

	"github.com/onestep-go/onestep/internal/plural"
	"github.com/onestep-go/onestep/models/checkpoint"
)

// labels returns the labels of the classes that --label names: one, or several separated by commas. A name that contains commas itself, as
// ImageNet's do, may be given alone. note receives a notice where a number is read as a class name.
func labels(text string, d checkpoint.Description, note func(string)) ([]int, error) {
	if text == "" {
		return nil, nil
	}
	words := []string{text}
	if !slices.Contains(d.ClassNames, text) {
		words = strings.Split(text, ",")
	}
	var out []int
	for _, word := range words {
		word = strings.TrimSpace(word)
		if word == "" && d.Network.Classes() > 0 {
			return nil, usage("--label: a class is empty between two commas")
		}
		label, err := d.ClassNamed(word)
		if err != nil {
			return nil, usage("--label: %v", err)
		}
		if n, err := strconv.Atoi(word); err == nil && n != label && note != nil {
			note(fmt.Sprintf("--label %d is read as the class named %d, whose number is %d: classes named by numbers are chosen by name", n, n, label))
		}
		out = append(out, label)
	}
	return out, nil
}

// labels sets Label or Labels from the flag for a model's classes, and returns the labels that the flag names.
func (o *Sample) labels(d checkpoint.Description) ([]int, error) {
	if o.Class == "" && o.Label >= 0 {
		return []int{o.Label}, inClasses(o.Label, d)
	}
	wanted, err := labels(o.Class, d, o.Note)
	if err != nil {
		return nil, err
	}
	if o.Label = Unset; len(wanted) == 1 {
		o.Label = wanted[0]
	} else if o.Labels = wanted; len(wanted) > o.N && o.Note != nil {
		o.Note(fmt.Sprintf("--label lists %s for %s: the first ones are used; --n %d uses all", plural.N(len(wanted), "class"), plural.N(o.N, "image"), len(wanted)))
	}
	return wanted, nil
}

// inClasses refuses a label that a model does not have.
func inClasses(label int, d checkpoint.Description) error {
	switch classes := d.Network.Classes(); {
	case classes == 0:
		return usage("--label: the model has no classes")
	case label >= classes:
		return usage("--label: want 0 to %d, got %d", classes-1, label)
	}
	return nil
}
