package prompt

import (
	"bufio"
	"errors"
	"fmt"
	"io"
	"strings"
	"unicode/utf8"

	"github.com/onestep-go/onestep/internal/plainfile"
	"github.com/onestep-go/onestep/internal/quote"
)

// What a file of prompts may have.
const (
	maxFile    = 64 << 20 // bytes
	maxLine    = 1 << 20
	maxPrompts = 1_000_000
)

// ReadFile reads prompts from a text file, or a pipe such as a shell's <(command); see [Read].
func ReadFile(path string) ([]string, error) {
	f, err := plainfile.Stream(path)
	if err != nil {
		return nil, err
	}
	defer f.Close()
	all, err := Read(f)
	if err != nil {
		return nil, fmt.Errorf("%s: %w", quote.Path(path), err)
	}
	return all, nil
}

// Read reads prompts from text in UTF-8 with one on each line. Empty lines are left out; a text without any prompt is an error, as is one of more
// than 64 MiB.
func Read(r io.Reader) (all []string, err error) {
	limited := &io.LimitedReader{R: r, N: maxFile + 1}
	lines := bufio.NewScanner(limited)
	lines.Buffer(nil, maxLine)
	n := 1
	for ; lines.Scan(); n++ {
		line := lines.Text()
		if n == 1 {
			line = strings.TrimPrefix(line, "\ufeff") // which some editors put there
		}
		if !utf8.ValidString(line) {
			return nil, fmt.Errorf("line %d is not UTF-8: want a text file in that encoding", n)
		}
		if text := strings.TrimSpace(line); text != "" {
			all = append(all, text)
		}
		if len(all) > maxPrompts {
			return nil, fmt.Errorf("want at most %d prompts", maxPrompts)
		}
	}
	switch err := lines.Err(); {
	case errors.Is(err, bufio.ErrTooLong):
		return nil, fmt.Errorf("line %d is longer than %d MiB: want a prompt on each line", n, maxLine>>20)
	case err != nil:
		return nil, err
	case limited.N <= 0:
		return nil, fmt.Errorf("want at most %d MiB of prompts", maxFile>>20)
	case all == nil:
		return nil, errors.New("it has no prompts")
	}
	return all, nil
}
