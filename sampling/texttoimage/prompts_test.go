package texttoimage_test

import (
	"strings"
	"testing"

	"github.com/stretchr/testify/require"

	"github.com/onestep-go/onestep/models/sd"
	"github.com/onestep-go/onestep/sampling/texttoimage"
	"github.com/onestep-go/onestep/torch"
)

// Prompts that would take memory and time without bound are errors; what an honest user may write is none.
func TestPromptLimits(t *testing.T) {
	m := openTiny(t, sd.Options{})
	for want, text := range map[string]string{
		"1048576 bytes":  strings.Repeat("a ", 1<<19),
		"at most 64 chu": strings.Repeat("a BREAK ", 100),
	} {
		_, err := texttoimage.Pipeline{Model: m}.Plan("a", text)
		require.ErrorContains(t, err, want)
		_, err = texttoimage.Pipeline{Model: m, Negative: text}.Plan("a")
		require.ErrorContains(t, err, want)
		require.Error(t, torch.Run(torch.CPU, func(s *torch.Scope) error {
			m.Embed(s, nil, sd.Text{Prompt: text})
			return nil
		}))
	}
	_, err := texttoimage.Pipeline{Model: m}.Plan(strings.Repeat("a cat, ", 600), strings.Repeat("a BREAK ", 60))
	require.NoError(t, err)
}
