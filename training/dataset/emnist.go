package dataset

import (
	"fmt"
	"path/filepath"
	"slices"
	"strconv"
	"strings"

	"github.com/onestep-go/onestep/internal/plainfile"
)

// idxClasses returns the class names for the labels of an IDX file, 0 to top: the characters in EMNIST's mapping file (Cohen et al. 2017),
// such as emnist-letters-mapping.txt, or numbers. If the smallest label is above 0, as in EMNIST's letters, it is subtracted from all labels,
// since a class without images would learn noise; note says so.
func (t *table) idxClasses(images string, top int) (classes []string, note string) {
	classes = numbered(top + 1)
	for label, name := range mappingBeside(images) {
		if label <= top {
			classes[label] = name
		}
	}
	if first := slices.Min(t.labels); first > 0 {
		for i := range t.labels {
			t.labels[i] -= first
		}
		classes = classes[first:]
		note = fmt.Sprintf("no image has a label below %d: labels %d to %d become classes 0 to %d", first, first, top, top-int(first))
	}
	return classes, note
}

// mappingBeside reads the mapping file of a file of images: each line has a label and the code points of its characters, of which the first is
// used. Other lines are ignored.
func mappingBeside(images string) map[int]string {
	dir, name := filepath.Split(images)
	stem := ""
	for _, part := range []string{"-train-", "-test-"} {
		if before, _, ok := strings.Cut(name, part); ok {
			stem = before
		}
	}
	if stem == "" {
		return nil
	}
	data, err := plainfile.Read(dir+stem+"-mapping.txt", maxText)
	if err != nil {
		return nil
	}
	names := map[int]string{}
	for line := range strings.Lines(string(data)) {
		words := strings.Fields(line)
		if len(words) < 2 {
			continue
		}
		label, err := strconv.Atoi(words[0])
		code, err2 := strconv.Atoi(words[1])
		if err == nil && err2 == nil && label >= 0 && code > ' ' && code < 0x10000 && names[label] == "" {
			names[label] = string(rune(code))
		}
	}
	return names
}
