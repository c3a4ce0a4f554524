package job

import (
	"fmt"
	"strings"

	"github.com/onestep-go/onestep/internal/options"
	"github.com/onestep-go/onestep/models/network"
)

// Networks returns the names of the registered networks.
func Networks() []string {
	var names []string
	for _, p := range network.Presets() {
		names = append(names, p.Name)
	}
	return names
}

// AboutNetworks describes each network in a line.
func AboutNetworks() string {
	var b strings.Builder
	for _, p := range network.Presets() {
		var defaults []string
		for _, o := range options.Of(p.Options()) {
			if o.Default != "" {
				defaults = append(defaults, "--"+o.Name+" "+o.Default)
			}
		}
		fmt.Fprintf(&b, "  %-7s %s; default %s\n", p.Name, p.About, strings.Join(defaults, ", "))
	}
	return b.String()
}

// NetworkOption is an option of one or more networks.
type NetworkOption struct {
	options.Option
	Help string // per network that has it, with defaults
}

// NetworkOptions returns the options of all networks, each once.
func NetworkOptions() []NetworkOption {
	type line struct{ text, names string }
	var all []NetworkOption
	lines := map[string][]line{}
	presets := network.Presets()
	for _, p := range presets {
		for _, o := range options.Of(p.Options()) {
			text := o.Help
			if o.Default != "" {
				text += " (default " + o.Default + ")"
			}
			of := lines[o.Name]
			switch {
			case of == nil:
				all = append(all, NetworkOption{Option: o})
				of = []line{{text, p.Name}}
			case of[len(of)-1].text == text:
				of[len(of)-1].names += ", " + p.Name
			default:
				of = append(of, line{text, p.Name})
			}
			lines[o.Name] = of
		}
	}
	for i, o := range all {
		var texts []string
		for _, l := range lines[o.Name] {
			texts = append(texts, l.names+": "+l.text)
		}
		all[i].Help = strings.Join(texts, "; ")
	}
	return all
}
