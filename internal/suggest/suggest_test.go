package suggest

import (
	"testing"

	"github.com/stretchr/testify/require"
)

// Names keep their case, and are compared without it.
func TestNear(t *testing.T) {
	names := []string{"Sandal", "Sneaker", "T-shirt/top", "Smileys & Emotion"}
	require.Equal(t, []string{"Sneaker"}, Near("sneeker", names))
	require.Equal(t, []string{"Smileys & Emotion"}, Near("smileys", names))
	require.Empty(t, Near("boat", names))
	require.Equal(t, []string{"ict"}, Near("itc", []string{"ct", "ict", "ect", "cd", "scd"}), "two letters are swapped")
	require.Empty(t, Near("ixt", []string{"ict", "ect"}))
}

// A message has the names, what was typed, quoted, and a question where one comes near.
func TestOneOf(t *testing.T) {
	require.Equal(t, `want one of euler, heun, got "eulr": did you mean euler?`, OneOf("eulr", []string{"euler", "heun"}))
	require.Equal(t, `want one of euler, heun, got "\x1bx"`, OneOf("\x1bx", []string{"euler", "heun"}))
	require.Equal(t, ": did you mean --a or --b?", Question("--a", "--b"))
	require.Empty(t, Question())
}

func TestTypingErrors(t *testing.T) {
	for _, c := range []struct {
		a, b string
		want int
	}{{"", "", 0}, {"abc", "abc", 0}, {"abc", "", 3}, {"steps", "setps", 1}, {"run", "out", 2}, {"kitten", "sitting", 3}, {"ca", "abc", 3}} {
		require.Equal(t, c.want, typingErrors(c.a, c.b), "%q and %q", c.a, c.b)
		require.Equal(t, c.want, typingErrors(c.b, c.a), "%q and %q", c.b, c.a)
	}
}
