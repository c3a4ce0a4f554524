package checkpoint

import (
	"fmt"
	"slices"
	"strconv"
	"strings"

	"github.com/onestep-go/onestep/internal/quote"
	"github.com/onestep-go/onestep/internal/suggest"
)

// ClassNamed returns the label of a class by its name or number. It tries in turn: a class with exactly this name; a single class whose
// name differs only in case, spaces, hyphens and underscores; a label, if name is a number from 0. So a class whose name is a number takes
// precedence over the label. An error suggests similar names.
func (d Description) ClassNamed(name string) (int, error) {
	n := d.Network.Classes()
	if n == 0 {
		return 0, fmt.Errorf("the model is unconditional: it has no classes")
	}
	if i := slices.Index(d.ClassNames, name); i >= 0 {
		return i, nil
	}
	var alike []int
	for i, c := range d.ClassNames {
		if plainName(c) == plainName(name) {
			alike = append(alike, i)
		}
	}
	if len(alike) == 1 {
		return alike[0], nil
	}
	if label, err := strconv.Atoi(strings.TrimSpace(name)); err == nil {
		if label >= 0 && label < n {
			return label, nil
		}
		return 0, fmt.Errorf("want a class from 0 to %d%s, got %d", n-1, d.someClasses(), label)
	}
	if d.ClassNames == nil {
		return 0, fmt.Errorf("the model has no class names: want a number from 0 to %d, got %s", n-1, quote.Quoted(name))
	}
	if near := d.near(name, alike); near != nil {
		return 0, fmt.Errorf("the model has no class %s: did you mean %s?", quote.Quoted(name), strings.Join(quote.Texts(near), " or "))
	}
	return 0, fmt.Errorf("the model has no class %s: want a number from 0 to %d, or a name%s", quote.Quoted(name), n-1, d.someClasses())
}

// near lists class names that may be meant: the ambiguous ones in alike, similar ones, or names that contain it.
func (d Description) near(name string, alike []int) (near []string) {
	for _, i := range alike {
		near = append(near, d.ClassNames[i])
	}
	if near == nil {
		near = suggest.Near(name, d.ClassNames)
	}
	for _, c := range d.ClassNames {
		if len(near) < 3 && len(plainName(name)) > 2 && !slices.Contains(near, c) && strings.Contains(plainName(c), plainName(name)) {
			near = append(near, c)
		}
	}
	return near
}

// someClasses lists the first class names in parentheses; "" without names.
func (d Description) someClasses() string {
	const most = 10
	names := d.ClassNames
	if len(names) == 0 {
		return ""
	}
	list := strings.Join(quote.Texts(names[:min(len(names), most)]), ", ")
	if more := len(names) - most; more > 0 {
		list += fmt.Sprintf(" and %d more", more)
	}
	return " (" + list + ")"
}

// plainName is a name in lower case without spaces, hyphens and underscores.
func plainName(name string) string {
	return strings.Map(func(r rune) rune {
		if r == ' ' || r == '-' || r == '_' {
			return -1
		}
		return r
	}, strings.ToLower(name))
}
