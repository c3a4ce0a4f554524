package dataset

import (
	"fmt"
	"path/filepath"
	"slices"
	"strconv"
	"strings"

	"github.com/onestep-go/onestep/internal/plainfile"
)

// idxClasses names the classes of an IDX file's labels, which go up to top: after the characters in the file that EMNIST (Cohen et al.
// 2017) has for it, emnist-letters-mapping.txt and the like, or by their numbers. Labels that start above 0, as those of EMNIST's letters,
// are counted from 0, since a class without images would be learned as one of noise; the note says so.
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
		note = fmt.Sprintf("no image has a label below %d: the labels %d to %d are the classes 0 to %d", first, first, top, top-int(first))
	}
	return classes, note
}

// mappingBeside reads which character each label is: lines of a label and the codes of characters, of which the first counts. A line
// that is not one names nothing.
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
