package vp8l

import (
	"cmp"
	"container/heap"
	mathbits "math/bits"
	"slices"
)

// Maximum lengths of prefix codes: for symbols, and for code lengths.
const (
	longestCode   = 15
	longestLength = 7
)

// code is a prefix code: for each symbol its length, 0 if unused, and its bits in writing order.
type code struct {
	lengths []int
	words   []uint64
}

// newCode makes a code for symbols with these counts. A code of one symbol has no bits.
func newCode(counts []int, longest int) code {
	c := code{lengthsOf(counts, longest), make([]uint64, len(counts))}
	next := uint64(0)
	for n := 1; n <= longest; n++ {
		next <<= 1
		for symbol, length := range c.lengths {
			if length == n {
				c.words[symbol] = mathbits.Reverse64(next) >> (64 - n)
				next++
			}
		}
	}
	return c
}

// write writes a symbol.
func (c code) write(b *bits, symbol int) {
	if n := c.lengths[symbol]; n > 0 {
		b.write(c.words[symbol], n)
	}
}

// lengthsOf returns the lengths of a Huffman code; the counts are flattened until the lengths fit. A single symbol has length 1.
func lengthsOf(counts []int, longest int) []int {
	counts = slices.Clone(counts)
	for {
		lengths := huffman(counts)
		if slices.Max(lengths) <= longest {
			return lengths
		}
		for i, n := range counts {
			if n > 0 {
				counts[i] = n/2 + 1
			}
		}
	}
}

// node is a leaf or an inner node of a Huffman tree.
type node struct {
	count, symbol int // symbol: -1 for inner nodes
	kids          [2]*node
}

type nodes []*node

func (n nodes) Len() int { return len(n) }
func (n nodes) Less(i, j int) bool {
	return cmp.Or(cmp.Compare(n[i].count, n[j].count), cmp.Compare(n[i].symbol, n[j].symbol)) < 0
}
func (n nodes) Swap(i, j int) { n[i], n[j] = n[j], n[i] }
func (n *nodes) Push(x any)   { *n = append(*n, x.(*node)) }
func (n *nodes) Pop() any {
	last := (*n)[len(*n)-1]
	*n = (*n)[:len(*n)-1]
	return last
}

func huffman(counts []int) []int {
	lengths := make([]int, len(counts))
	var open nodes
	for symbol, count := range counts {
		if count > 0 {
			open = append(open, &node{count: count, symbol: symbol})
		}
	}
	if len(open) == 1 {
		lengths[open[0].symbol] = 1
	}
	heap.Init(&open)
	for len(open) > 1 {
		a, b := heap.Pop(&open).(*node), heap.Pop(&open).(*node)
		heap.Push(&open, &node{count: a.count + b.count, symbol: -1, kids: [2]*node{a, b}})
	}
	var descend func(n *node, depth int)
	descend = func(n *node, depth int) {
		if n.symbol >= 0 {
			lengths[n.symbol] = max(depth, 1)
			return
		}
		descend(n.kids[0], depth+1)
		descend(n.kids[1], depth+1)
	}
	if len(open) > 0 {
		descend(open[0], 0)
	}
	return lengths
}

// lengthOrder is the order in which the code lengths of the code-length code are written.
var lengthOrder = [19]int{17, 18, 0, 1, 2, 3, 4, 5, 16, 6, 7, 8, 9, 10, 11, 12, 13, 14, 15}

// code writes a code for symbols with these counts, and returns it (RFC 9649, 5.2.1 and 5.2.2).
func (b *bits) code(counts []int) code {
	var used []int
	for symbol, n := range counts {
		if n > 0 {
			used = append(used, symbol)
		}
	}
	if len(used) == 0 {
		used = []int{0}
	}
	if len(used) <= 2 && used[len(used)-1] < 256 { // simple codes are written as their symbols
		b.write(1, 1)
		b.write(uint64(len(used)-1), 1)
		b.write(1, 1) // the first symbol has 8 bits
		for _, symbol := range used {
			b.write(uint64(symbol), 8)
		}
		c := newCode(counts, longestCode)
		if len(used) == 1 {
			c.lengths[used[0]] = 0
		}
		return c
	}
	c := newCode(counts, longestCode)
	tokens := runs(c.lengths)
	var often [19]int
	for _, t := range tokens {
		often[t.symbol]++
	}
	b.write(0, 1)
	b.lengths(tokens, often[:])
	return c
}

// lengths writes the lengths of a code, in the code-length code.
func (b *bits) lengths(tokens []token, often []int) {
	used := 0
	for _, n := range often {
		if n > 0 {
			used++
		}
	}
	for symbol := 0; used < 2; symbol++ { // a code of one symbol would have no bits: add an unused one
		if often[symbol] == 0 {
			often[symbol] = 1
			used++
		}
	}
	c := newCode(often, longestLength)
	n := len(lengthOrder)
	for n > 4 && c.lengths[lengthOrder[n-1]] == 0 {
		n--
	}
	b.write(uint64(n-4), 4)
	for _, symbol := range lengthOrder[:n] {
		b.write(uint64(c.lengths[symbol]), 3)
	}
	b.write(0, 1) // all symbols have a length
	for _, t := range tokens {
		c.write(b, t.symbol)
		b.write(uint64(t.extra), t.n)
	}
}

// token is a code length, or a repetition with extra bits for the count.
type token struct{ symbol, extra, n int }

// runs encodes a code's lengths with repetitions: 16 repeats the last non-zero length 3 to 6 times; 17 and 18 repeat 0, 3 to 10 and 11 to
// 138 times.
func runs(lengths []int) (out []token) {
	last := 8
	for i := 0; i < len(lengths); {
		v, n := lengths[i], 1
		for i+n < len(lengths) && lengths[i+n] == v {
			n++
		}
		i += n
		if v != 0 && v != last {
			out = append(out, token{symbol: v})
			last = v
			n--
		}
		for n > 0 {
			switch {
			case v == 0 && n >= 11:
				k := min(n, 138)
				out = append(out, token{18, k - 11, 7})
				n -= k
			case v == 0 && n >= 3:
				out = append(out, token{17, n - 3, 3})
				n = 0
			case v != 0 && n >= 3:
				k := min(n, 6)
				out = append(out, token{16, k - 3, 2})
				n -= k
			default:
				out = append(out, token{symbol: v})
				n--
			}
		}
	}
	return out
}
