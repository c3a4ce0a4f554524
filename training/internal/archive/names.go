package archive

import (
	"fmt"
	"path"
	"regexp"
	"slices"
	"strconv"
	"strings"

	"github.com/onestep-go/onestep/internal/quote"
	"github.com/onestep-go/onestep/training/internal/imagefile"
)

// MemberName splits the name of a shard's member into the sample's key, the field (input in s0.input.jpg, "" if there is none) and the
// extension in lower case. Parts that begin with a digit belong to the key, as in img_0.5.jpg. ok is false for members that belong to no
// sample, such as README, .DS_Store and files that macOS adds.
func MemberName(name string) (key, field, ext string, ok bool) {
	dir, base := path.Split(name)
	if slices.ContainsFunc(strings.Split(strings.TrimSuffix(dir, "/"), "/"), func(d string) bool { return d != "." && imagefile.Hidden(d) }) {
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

// maxShards is the limit for the number of files in a pattern.
const maxShards = 100_000

// Expand lists the paths that a pattern with braces stands for, as in shells and WebDataset: {000..127} and {a,b}.
func Expand(pattern string) ([]string, error) {
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
			return nil, fmt.Errorf("{%s}: want two numbers in ascending order, such as {000..127}, and at most %d files", quote.Text(inside), maxShards)
		}
		words = nil
		for n := a; n <= b; n++ {
			words = append(words, fmt.Sprintf("%0*d", len(first), n))
		}
	}
	var all []string
	for _, w := range words {
		rest, err := Expand(pattern[at[1]:])
		if err != nil {
			return nil, err
		}
		for _, r := range rest {
			if all = append(all, pattern[:at[0]]+w+r); len(all) > maxShards {
				return nil, fmt.Errorf("the pattern stands for more than %d files, the limit", maxShards)
			}
		}
	}
	return all, nil
}

// IsPattern reports whether a path has braces that [Expand] expands.
func IsPattern(path string) bool { return braces.MatchString(path) }

// IsShard reports whether a file is a shard, by its name.
func IsShard(name string) bool {
	name = strings.ToLower(name)
	return strings.HasSuffix(name, ".tar") || strings.HasSuffix(name, ".tar.gz") || strings.HasSuffix(name, ".tgz")
}
