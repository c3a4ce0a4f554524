package inception

import (
	"github.com/onestep-go/onestep/torch"
	"github.com/onestep-go/onestep/torch/nn"
)

// build makes the layers, whose names are those of the published files.
func (n *Net) build(p nn.Path) {
	in := 3
	for i, c := range []struct {
		name                         string
		out, kernel, stride, padding int
	}{
		{"Conv2d_1a_3x3", 32, 3, 2, 0}, {"Conv2d_2a_3x3", 32, 3, 1, 0}, {"Conv2d_2b_3x3", 64, 3, 1, 1}, {"Conv2d_3b_1x1", 80, 1, 1, 0}, {"Conv2d_4a_3x3", 192, 3, 1, 0},
	} {
		n.stem[i] = newConv(p.Sub(c.name), in, c.out, [2]int{c.kernel, c.kernel}, c.stride, c.padding)
		in = c.out
	}
	b := builder{in: in}
	for _, next := range []struct {
		name string
		make func(b *builder)
	}{
		{"Mixed_5b", func(b *builder) { b.fine(32) }}, {"Mixed_5c", func(b *builder) { b.fine(64) }}, {"Mixed_5d", func(b *builder) { b.fine(64) }},
		{"Mixed_6a", (*builder).halveFine},
		{"Mixed_6b", func(b *builder) { b.middle(128) }}, {"Mixed_6c", func(b *builder) { b.middle(160) }},
		{"Mixed_6d", func(b *builder) { b.middle(160) }}, {"Mixed_6e", func(b *builder) { b.middle(192) }},
		{"Mixed_7a", (*builder).halveMiddle},
		{"Mixed_7b", func(b *builder) { b.coarse(average) }}, {"Mixed_7c", func(b *builder) { b.coarse(largest) }},
	} {
		b.at, b.block, b.out = p.Sub(next.name), block{}, 0
		next.make(&b)
		n.mixed, b.in = append(n.mixed, b.block), b.out
	}
	n.fc = nn.NewLinear(p.Sub("fc"), Width, Classes)
}

// builder adds branches to a block.
type builder struct {
	at      nn.Path
	in, out int // channels
	block   block
}

// layer is a convolution of a branch.
type layer struct {
	name   string
	out    int
	kernel [2]int
	stride int // 2: without padding; otherwise the size stays
}

// The kernels, of rows and columns.
var (
	one, three, five = [2]int{1, 1}, [2]int{3, 3}, [2]int{5, 5}
	row3, column3    = [2]int{1, 3}, [2]int{3, 1}
	row7, column7    = [2]int{1, 7}, [2]int{7, 1}
)

func (b *builder) conv(in int, l layer) conv {
	padding := l.kernel[0] / 2
	if l.stride == 2 {
		padding = 0
	}
	return newConv(b.at.Sub(l.name), in, l.out, l.kernel, max(l.stride, 1), padding)
}

// add adds a branch of a pool, which may be nil, and layers, the last tails of which have the same input.
func (b *builder) add(pool func(s *torch.Scope, x *torch.Tensor) *torch.Tensor, tails int, layers ...layer) {
	br, in, body := branch{pool: pool}, b.in, len(layers)-tails
	for _, l := range layers[:body] {
		br.convs, in = append(br.convs, b.conv(in, l)), l.out
	}
	for _, l := range layers[body:] {
		br.tails = append(br.tails, b.conv(in, l))
		b.out += l.out
	}
	if tails == 0 {
		b.out += in
	}
	b.block.branches = append(b.block.branches, br)
}

// fine is block A, at 35×35 pixels.
func (b *builder) fine(pooled int) {
	b.add(nil, 0, layer{"branch1x1", 64, one, 1})
	b.add(nil, 0, layer{"branch5x5_1", 48, one, 1}, layer{"branch5x5_2", 64, five, 1})
	b.add(nil, 0, layer{"branch3x3dbl_1", 64, one, 1}, layer{"branch3x3dbl_2", 96, three, 1}, layer{"branch3x3dbl_3", 96, three, 1})
	b.add(average, 0, layer{"branch_pool", pooled, one, 1})
}

// halveFine is block B, to 17×17 pixels.
func (b *builder) halveFine() {
	b.add(nil, 0, layer{"branch3x3", 384, three, 2})
	b.add(nil, 0, layer{"branch3x3dbl_1", 64, one, 1}, layer{"branch3x3dbl_2", 96, three, 1}, layer{"branch3x3dbl_3", 96, three, 2})
	b.add(shrink, 0)
}

// middle is block C, at 17×17 pixels.
func (b *builder) middle(wide int) {
	b.add(nil, 0, layer{"branch1x1", 192, one, 1})
	b.add(nil, 0, layer{"branch7x7_1", wide, one, 1}, layer{"branch7x7_2", wide, row7, 1}, layer{"branch7x7_3", 192, column7, 1})
	b.add(nil, 0, layer{"branch7x7dbl_1", wide, one, 1}, layer{"branch7x7dbl_2", wide, column7, 1}, layer{"branch7x7dbl_3", wide, row7, 1},
		layer{"branch7x7dbl_4", wide, column7, 1}, layer{"branch7x7dbl_5", 192, row7, 1})
	b.add(average, 0, layer{"branch_pool", 192, one, 1})
}

// halveMiddle is block D, to 8×8 pixels.
func (b *builder) halveMiddle() {
	b.add(nil, 0, layer{"branch3x3_1", 192, one, 1}, layer{"branch3x3_2", 320, three, 2})
	b.add(nil, 0, layer{"branch7x7x3_1", 192, one, 1}, layer{"branch7x7x3_2", 192, row7, 1}, layer{"branch7x7x3_3", 192, column7, 1}, layer{"branch7x7x3_4", 192, three, 2})
	b.add(shrink, 0)
}

// coarse is block E, at 8×8 pixels.
func (b *builder) coarse(pool func(s *torch.Scope, x *torch.Tensor) *torch.Tensor) {
	b.add(nil, 0, layer{"branch1x1", 320, one, 1})
	b.add(nil, 2, layer{"branch3x3_1", 384, one, 1}, layer{"branch3x3_2a", 384, row3, 1}, layer{"branch3x3_2b", 384, column3, 1})
	b.add(nil, 2, layer{"branch3x3dbl_1", 448, one, 1}, layer{"branch3x3dbl_2", 384, three, 1}, layer{"branch3x3dbl_3a", 384, row3, 1}, layer{"branch3x3dbl_3b", 384, column3, 1})
	b.add(pool, 0, layer{"branch_pool", 192, one, 1})
}
