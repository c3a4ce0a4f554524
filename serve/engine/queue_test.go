package engine

import (
	"testing"

	"github.com/stretchr/testify/require"
)

// A slow reader gets all images and all previews, and of other steps the last.
func TestMailbox(t *testing.T) {
	b := newMailbox()
	for _, ev := range []Event{
		{Queued: 3}, {Queued: 2}, {Resolved: &Resolved{}}, {Step: 1}, {Step: 2}, {Step: 3, Previews: previewOf(1)}, {Step: 4}, {Step: 5}, {Image: &Image{Seed: 1}},
		{Step: 6}, {Image: &Image{Seed: 2}},
	} {
		b.put(ev)
	}
	b.end(ErrClosed)
	b.put(Event{Step: 9})
	var got []any
	for {
		ev, more, err := b.next()
		if !more {
			require.ErrorIs(t, err, ErrClosed)
			break
		}
		switch {
		case ev.Queued > 0:
			got = append(got, "queued", ev.Queued)
		case ev.Resolved != nil:
			got = append(got, "resolved")
		case ev.Image != nil:
			got = append(got, "image", ev.Image.Seed)
		case ev.Previews != nil:
			got = append(got, "preview", ev.Step)
		default:
			got = append(got, "step", ev.Step)
		}
	}
	require.Equal(t, []any{"queued", 2, "resolved", "preview", 3, "step", 5, "image", uint64(1), "step", 6, "image", uint64(2)}, got)
}
