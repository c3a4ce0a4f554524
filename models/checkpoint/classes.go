package checkpoint

import (
	"fmt"
	"slices"
	"strconv"
	"strings"

	"github.com/onestep-go/onestep/internal/quote"
	"github.com/onestep-go/onestep/internal/suggest"
)

// ClassNamed returns the label of the class that is meant by a name: that of the class with this name; or else with a name that
// differs in case, spaces, hyphens and underscores alone, if there is one; or else the label that the name is, as a number from 0 on. So a
// class that is called by a number goes before the label. An error lists the names that come close.
func (d Description) ClassNamed(name string) (int, error) {
	n := d.Network.Classes()
	if n == 0 {
		return 0, fmt.Errorf("the model has no classes")
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
		return 0, fmt.Errorf("the model's classes have no names: want a number from 0 to %d, got %s", n-1, quote.Quoted(name))
	}
	if near := d.near(name, alike); near != nil {
		return 0, fmt.Errorf("there is no class %s: did you mean %s?", quote.Quoted(name), strings.Join(quote.Texts(near), " or "))
	}
	return 0, fmt.Errorf("there is no class %s: want a number from 0 to %d, or a name%s", quote.Quoted(name), n-1, d.someClasses())
}

// near lists names of classes that may be meant: those that are alike, those that come close, or those that have it in them.
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

// someClasses lists the first names in parentheses, "" without names.
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

// plainName is a name without what people type in different ways.
func plainName(name string) string {
	return strings.Map(func(r rune) rune {
		if r == ' ' || r == '-' || r == '_' {
			return -1
		}
		return r
	}, strings.ToLower(name))
}
