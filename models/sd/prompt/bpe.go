package prompt

// merge is the result of merging a pair of tokens, and the rank of the merge: lower ranks go first.
type merge struct{ rank, id int32 }

// encodeWord appends the tokens of one word by byte pair encoding: starting from bytes, it merges the pair with the lowest rank (the
// leftmost of equal ones) until none is left. It takes n·log n steps, so a long prompt without spaces is harmless.
func (t *Tokenizer) encodeWord(out []int, word string) []int {
	type symbol struct {
		id         int32
		prev, next int32 // -1: none
		gone       bool
	}
	all := make([]symbol, len(word))
	for i := range len(word) {
		all[i] = symbol{id: t.bytes[0][word[i]], prev: int32(i) - 1, next: int32(i) + 1}
	}
	end := len(all) - 1
	all[end].id, all[end].next = t.bytes[1][word[end]], -1

	var todo queue
	look := func(at int32) (merge, bool) { // the merge of the symbol and its right neighbour
		if at < 0 || all[at].gone || all[at].next < 0 {
			return merge{}, false
		}
		m, ok := t.merges[[2]int32{all[at].id, all[all[at].next].id}]
		return m, ok
	}
	offer := func(at int32) {
		if m, ok := look(at); ok {
			todo.push(uint64(m.rank)<<32 | uint64(at))
		}
	}
	for i := range all {
		offer(int32(i))
	}
	for len(todo) > 0 {
		top := todo.pop()
		at := int32(top & 0xffffffff)
		m, ok := look(at)
		if !ok || uint64(m.rank) != top>>32 { // one of the two has been merged since
			continue
		}
		right := all[at].next
		all[at].id, all[at].next, all[right].gone = m.id, all[right].next, true
		if next := all[right].next; next >= 0 {
			all[next].prev = at
		}
		offer(all[at].prev)
		offer(at)
	}
	for at := int32(0); at >= 0; at = all[at].next {
		out = append(out, int(all[at].id))
	}
	return out
}

// queue is a min-heap.
type queue []uint64

func (q *queue) push(v uint64) {
	h := append(*q, v)
	for i := len(h) - 1; i > 0 && h[i] < h[(i-1)/2]; i = (i - 1) / 2 {
		h[i], h[(i-1)/2] = h[(i-1)/2], h[i]
	}
	*q = h
}

func (q *queue) pop() uint64 {
	h := *q
	top, last := h[0], len(h)-1
	h[0] = h[last]
	h = h[:last]
	for i := 0; 2*i+1 < last; {
		least := 2*i + 1
		if least+1 < last && h[least+1] < h[least] {
			least++
		}
		if h[i] <= h[least] {
			break
		}
		h[i], h[least] = h[least], h[i]
		i = least
	}
	*q = h
	return top
}
