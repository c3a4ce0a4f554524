package unet2d

import (
	"maps"
	"math"
	"slices"
	"strings"

	"github.com/onestep-go/onestep/torch/nn"
)

// plan is what a configuration builds, in the order of a forward pass.
type plan struct {
	down []stage
	mid  []unit
	up   []stage
}

// stage is a level in one direction.
type stage struct {
	traits
	units     []unit
	channels  int // of its result
	resamples bool
	groups    int     // of the norms of a residual block that resamples
	scale     float64 // of its residual sum
}

// unit is a residual block and the attention after it.
type unit struct {
	in, out             int // channels
	skip                int // of in: the channels of the skip connection
	groupsIn, groupsOut int
	scale               float64 // factor of the residual sums

	attends         bool
	place           int // the attention's number in its level
	groupsAttention int // 0: no norm
}

// quarter is the number of groups of norms that are not configured.
func quarter(channels int) int { return max(1, min(channels/4, 32)) }

// groups returns the groups of a norm over that many channels.
func (c Config) groups(channels int) int {
	if c.NormGroups > 0 {
		return c.NormGroups
	}
	return quarter(channels)
}

// groupsOut returns the groups of the last norm.
func (c Config) groupsOut() int { return c.groups(c.Channels[0]) }

// The constants of NCSN++'s blocks.
const (
	skipScale  = math.Sqrt2 / 2
	skipGroups = 32 // of the norm before attention
)

func (c Config) plan() (p plan) {
	n, ch := len(c.Channels), c.Channels[0]
	skips := []int{ch}
	for i, out := range c.Channels {
		st := c.stage(downs[c.Down[i]], c.DownType, out, i < n-1)
		for j := range c.Layers {
			u := c.unit(st.traits, ch, 0, out)
			u.attends, u.place = st.attends, j
			st.units = append(st.units, u)
			skips = append(skips, out)
			ch = out
		}
		if st.resamples {
			skips = append(skips, out)
		}
		p.down = append(p.down, st)
	}
	if !c.NoMid {
		first := unit{in: ch, out: ch, groupsIn: c.groups(ch), groupsOut: c.groups(ch), scale: 1 / c.MidScale}
		second := first
		first.attends, first.groupsAttention = !c.NoMidAttention, c.groups(ch)
		if c.MidGroups != 0 {
			first.groupsAttention = max(0, c.MidGroups)
		}
		p.mid = []unit{first, second}
	}
	for i := range n {
		out := c.Channels[n-1-i]
		st := c.stage(ups[c.Up[i]], c.UpType, out, i < n-1)
		for j := range c.Layers + 1 {
			last := len(skips) - 1
			u := c.unit(st.traits, ch, skips[last], out)
			skips = skips[:last]
			u.attends, u.place = st.attends, j
			if st.skip && st.attends { // after the last residual block only
				u.attends, u.place = j == c.Layers, 0
				u.groupsIn = min(ch+u.skip/4, 32) // as in diffusers
			}
			st.units = append(st.units, u)
			ch = out
		}
		p.up = append(p.up, st)
	}
	return p
}

// stage returns a level without its units.
func (c Config) stage(k traits, by Resample, out int, resamples bool) stage {
	st := stage{traits: k, channels: out, resamples: resamples, groups: c.groups(out), scale: 1}
	if k.attends && !k.skip {
		st.resnet = by == Resnet
	}
	if k.skip {
		st.groups, st.scale = quarter(out), skipScale
	}
	return st
}

// unit returns a residual block of a level with those traits; attention is left to the caller.
func (c Config) unit(k traits, ch, skip, out int) unit {
	in := ch + skip
	if k.skip {
		return unit{in: in, skip: skip, out: out, groupsIn: quarter(in), groupsOut: quarter(out), scale: skipScale, groupsAttention: skipGroups}
	}
	return unit{in: in, skip: skip, out: out, groupsIn: c.groups(in), groupsOut: c.groups(out), scale: 1, groupsAttention: c.groups(out)}
}

// Shapes returns the names and shapes of the network's tensors without allocating them.
func (c Config) Shapes() []nn.Shape {
	return nn.Shapes(func(p nn.Path) { (&UNet2D{config: c.WithDefaults()}).build(p) })
}

// Count returns the number of the network's weights without allocating them.
func (c Config) Count() int { return nn.Count(c.Shapes()) }

// known lists the types of blocks.
func known(all map[Block]traits) string {
	var words []string
	for _, b := range slices.Sorted(maps.Keys(all)) {
		words = append(words, string(b))
	}
	return strings.Join(words, ", ")
}
