package upload

import (
	"context"
	"image"
	"testing"

	"github.com/stretchr/testify/assert"
	"github.com/stretchr/testify/require"
)

// hold takes all turns of a decoder until the returned function is called.
func hold(t *testing.T, d *Decoder) (release func()) {
	t.Helper()
	n := d.turns.free
	for range n {
		require.NoError(t, d.turns.enter(t.Context(), "hog", 0))
	}
	return func() {
		for range n {
			d.turns.leave()
		}
	}
}

// waits is how many pieces of work of a client wait.
func (t *turns) waits(client string) int {
	t.mu.Lock()
	defer t.mu.Unlock()
	return len(t.lines.Of(client))
}

func until(t *testing.T, is func() bool) {
	t.Helper()
	require.Eventually(t, is, 10e9, 1e5)
}

// Clients take turns; one that has many images waits for the others, and one that is gone waits no more.
func TestTurns(t *testing.T) {
	d := NewDecoder(Limits{}, 100)
	d.turns.free = 1
	release := hold(t, d)
	served := make(chan string, 4)
	do := func(client string) {
		before := d.turns.waits(client)
		go func() { _ = d.For(context.Background(), client).Do(func() error { served <- client; return nil }) }()
		until(t, func() bool { return d.turns.waits(client) > before })
	}
	for _, client := range []string{"many", "many", "many", "one"} {
		do(client)
	}
	ctx, cancel := context.WithCancel(t.Context())
	gone := make(chan error, 1)
	go func() {
		_, _, err := d.For(ctx, "gone").Decode(encoded(t, 4, 4), nil)
		gone <- err
	}()
	until(t, func() bool { return d.turns.waits("gone") == 1 })
	cancel()
	require.ErrorIs(t, <-gone, context.Canceled)
	release()
	assert.Equal(t, []string{"many", "one", "many", "many"}, []string{<-served, <-served, <-served, <-served})
	until(t, func() bool {
		d.turns.mu.Lock()
		defer d.turns.mu.Unlock()
		return d.turns.free == 1 && d.turns.lines.Len() == 0
	})
}

// Images that wait are limited, for each client, and so is the memory of those that are kept.
func TestBusy(t *testing.T) {
	d := NewDecoder(Limits{}, 100)
	hold(t, d)
	for range mostWait {
		d.turns.lines.Push("full", make(chan struct{}))
	}
	_, _, err := d.For(t.Context(), "full").Decode(encoded(t, 4, 4), nil)
	assert.ErrorIs(t, err, ErrBusy)
	assert.True(t, Interrupted(err))
	d = NewDecoder(Limits{}, 100)
	d.left = 4 * 16 * 2
	one, two := d.For(t.Context(), "a"), d.For(t.Context(), "a")
	m, size, err := one.Decode(encoded(t, 4, 4), nil)
	require.NoError(t, err)
	assert.Equal(t, []image.Point{{X: 4, Y: 4}, {X: 4, Y: 4}}, []image.Point{m.Bounds().Size(), size})
	_, _, err = two.Decode(encoded(t, 4, 4), nil)
	assert.ErrorIs(t, err, ErrBusy)
	one.Close()
	_, _, err = two.Decode(encoded(t, 4, 4), nil)
	assert.NoError(t, err)
	two.Close()
	assert.Equal(t, 4*16*2, d.left)
}
