package dataset

import (
	"errors"
	"fmt"
	"path"
	"regexp"
	"slices"
	"strconv"
	"strings"

	"github.com/onestep-go/onestep/internal/quote"
)

// memberName takes a shard's member apart: what names its sample, the field in a name such as s0.input.jpg, "" without one, and
// the extension in lower case. Parts that begin with a digit belong to the sample's name, as in img_0.5.jpg. ok is false for
// members that belong to no sample, as README, .DS_Store and what macOS adds.
func memberName(name string) (key, field, ext string, ok bool) {
	dir, base := path.Split(name)
	if slices.ContainsFunc(strings.Split(strings.TrimSuffix(dir, "/"), "/"), func(d string) bool { return d != "." && hidden(d) }) {
		return "", "", "", false
	}
	parts := strings.Split(base, ".")
	last := len(parts) - 1
	if last < 1 || parts[0] == "" {
		return "", "", "", false
	}
	stem := 1
	for stem < last && parts[stem] != "" && parts[stem][0] >= '0' && parts[stem][0] <= '9' {
		stem++
	}
	return dir + strings.Join(parts[:stem], "."), strings.Join(parts[stem:last], "."), strings.ToLower(parts[last]), true
}

var braces = regexp.MustCompile(`\{([^{}]*)\}`)

// maxShards limits what a pattern may stand for.
const maxShards = 100_000

// expand lists what a pattern in braces stands for, as shells and WebDataset do: {000..127} and {a,b}.
func expand(pattern string) ([]string, error) {
	at := braces.FindStringSubmatchIndex(pattern)
	if at == nil {
		return []string{pattern}, nil
	}
	inside := pattern[at[2]:at[3]]
	words := strings.Split(inside, ",")
	if first, last, ok := strings.Cut(inside, ".."); ok {
		a, errA := strconv.Atoi(first)
		b, errB := strconv.Atoi(last)
		if errA != nil || errB != nil || a < 0 || b < a || b-a >= maxShards {
			return nil, fmt.Errorf("{%s}: want two numbers that ascend, such as {000..127}", quote.Text(inside))
		}
		words = nil
		for n := a; n <= b; n++ {
			words = append(words, fmt.Sprintf("%0*d", len(first), n))
		}
	}
	var all []string
	for _, w := range words {
		rest, err := expand(pattern[at[1]:])
		if err != nil {
			return nil, err
		}
		for _, r := range rest {
			if all = append(all, pattern[:at[0]]+w+r); len(all) > maxShards {
				return nil, errors.New("the pattern stands for too many files")
			}
		}
	}
	return all, nil
}
