package weights

import (
	"path/filepath"
	"strings"
	"testing"

	"github.com/stretchr/testify/require"
)

// A pipeline that is not known may do something else with the same parts: it is said.
func TestUnknownPipeline(t *testing.T) {
	dir := tinyFolder(t)
	filled(t, dir, "")
	for class, known := range map[string]bool{
		"StableDiffusionPipeline": true, "StableDiffusionXLImg2ImgPipeline": true, "StableDiffusionControlNetInpaintPipeline": true,
		"LatentConsistencyModelPipeline": true, "StableDiffusionInpaintPipeline": true, "StableDiffusionXLControlNetPipeline": true,
		"FancyPipeline": false, "StableDiffusionInstructPix2PixPipeline": false, "": true,
	} {
		put(t, filepath.Join(dir, "model_index.json"), strings.Replace(tinyIndex, `"StableDiffusionPipeline"`, `"`+class+`"`, 1))
		m, err := Open(dir, Options{})
		require.NoError(t, err)
		if known {
			require.Empty(t, m.Notices, class)
		} else {
			require.Len(t, m.Notices, 1)
			require.Contains(t, m.Notices[0], class)
		}
		require.NoError(t, m.Close())
	}
}
