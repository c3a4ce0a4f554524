package job

import (
	"fmt"
	"reflect"
	"slices"
	"strings"

	"github.com/onestep-go/onestep/internal/quote"
	"github.com/onestep-go/onestep/models/network"
	"github.com/onestep-go/onestep/training/dataset"
)

// user is a part of a run that declares which options it reads: its method, its network, its distance, its data. An option
// that no part of a kind declares is read by every run.
type user struct {
	what  string   // "the method ct"
	uses  []string // options by the names of their flags
	kind  []string // what any of its kind uses
	other func(option string) []string
}

// users lists the parts that are known: the network is not before the model that the run starts from has been read.
func (o Train) users() []user {
	var list []user
	if m, err := methodNamed(o.Method); err == nil {
		u := user{what: "the method " + m.name, uses: m.uses()}
		for _, other := range methods {
			u.kind = append(u.kind, other.uses()...)
		}
		u.other = func(option string) (names []string) {
			for _, other := range methods {
				if slices.Contains(other.uses(), option) {
					names = append(names, other.name)
				}
			}
			return names
		}
		list = append(list, u)
	}
	name := o.Network
	if name == "" && !o.starts() && o.Teacher == "" {
		name = Networks()[0]
	}
	if p, err := networkNamed(name); err == nil {
		u := user{what: "the network " + p.Name, uses: networkOptions(p)}
		presets := network.Presets()
		for _, other := range presets {
			u.kind = append(u.kind, networkOptions(other)...)
		}
		u.other = func(option string) (names []string) {
			for _, other := range presets {
				if slices.Contains(networkOptions(other), option) {
					names = append(names, other.Name)
				}
			}
			return names
		}
		list = append(list, u)
	}
	distance := user{what: "the distance " + o.Distance, kind: []string{"lpips", "lpips-resize"}, other: func(string) []string { return []string{lpipsName} }}
	if o.Distance == lpipsName {
		distance.uses = distance.kind
	}
	data := user{what: "--data " + o.Data, kind: []string{"data-dir"}, other: func(string) []string { return dataset.Looked() }}
	if slices.Contains(dataset.Looked(), o.Data) {
		data.uses = data.kind
	}
	return append(list, distance, data)
}

// uses lists the options that the method reads and some other method does not.
func (m method) uses() []string {
	all := slices.Clone(m.options)
	if !m.stages {
		all = append(all, "lr-decay")
	}
	if m.guidable {
		all = append(all, "label-dropout")
	}
	return all
}

// Unused says why the run does not use an option, by the name of its flag; "" where it does.
func (o Train) Unused(option string) string {
	for _, u := range o.users() {
		if slices.Contains(u.kind, option) && !slices.Contains(u.uses, option) {
			return fmt.Sprintf("--%s: %s does not use it, only %s", option, quote.Text(u.what), strings.Join(u.other(option), ", "))
		}
	}
	return ""
}

// used refuses options that have another value than their default and are not used.
func (o Train) used() error {
	v, def := reflect.ValueOf(o), reflect.ValueOf(DefaultTrain())
	for i := range v.NumField() {
		name, _, _ := strings.Cut(v.Type().Field(i).Tag.Get("json"), ",")
		if name == "-" || reflect.DeepEqual(v.Field(i).Interface(), def.Field(i).Interface()) {
			continue
		}
		if why := o.Unused(dashes(name)); why != "" {
			return usage("%s", why)
		}
	}
	return nil
}
