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

// What A1111 does over the steps is said once, of prompts and the negative one; plain prompts have no such syntax.
func TestPromptsOverTime(t *testing.T) {
	m := openTiny(t, sd.Options{})
	for _, text := range []string{"a [cat:dog:0.5]", "a [cat|dog]", "a cat AND a dog"} {
		plan, err := texttoimage.Pipeline{Model: m}.Plan("a (cat:1.2)", text, text)
		require.NoError(t, err)
		require.Equal(t, 1, strings.Count(joinNotices(plan.Notices), "are not supported"), text)
		plan, err = texttoimage.Pipeline{Model: m, Negative: text, Guidance: 2}.Plan("a [cat]")
		require.NoError(t, err)
		require.Contains(t, joinNotices(plan.Notices), "are not supported")
		plan, err = texttoimage.Pipeline{Model: m, Plain: true}.Plan(text)
		require.NoError(t, err)
		require.NotContains(t, joinNotices(plan.Notices), "are not supported")
	}
	long := "[" + strings.Repeat("a ", 2000) + "|b]"
	plan, err := texttoimage.Pipeline{Model: m}.Plan(long)
	require.NoError(t, err)
	require.Less(t, len(joinNotices(plan.Notices)), 1000)
}
