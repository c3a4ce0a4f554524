package sd

import (
	"os"
	"path/filepath"
	"testing"

	"github.com/stretchr/testify/require"

	"github.com/onestep-go/onestep/torch"
	"github.com/onestep-go/onestep/torch/torchtest"
)

// link makes files of testdata appear in a new folder under other names.
func link(t *testing.T, names map[string]string) string {
	t.Helper()
	dir := t.TempDir()
	for name, to := range names {
		from, err := filepath.Abs(filepath.Join("testdata", to))
		require.NoError(t, err)
		require.NoError(t, os.Symlink(from, filepath.Join(dir, name)))
	}
	return dir
}

// TAESD as its author publishes it, in two files of torch.save, is what diffusers makes of it: both named by one, or by their folder, or
// the decoder alone.
func TestOpenTiny(t *testing.T) {
	s := torch.NewScope(torch.CPU)
	defer s.Close()
	golden, _ := torchtest.Golden(t, s, "testdata/taesd.safetensors")
	both := link(t, map[string]string{"taesd_encoder.pth": "taesd_encoder.pth", "taesd_decoder.pth": "taesd_decoder.pth"})
	alone := link(t, map[string]string{"taesd_decoder.pth": "taesd_decoder.pth"})
	renamed := link(t, map[string]string{"half.pt": "taesd_decoder.pth"})
	for path, encodes := range map[string]bool{
		both: true, filepath.Join(both, "taesd_decoder.pth"): true, filepath.Join(both, "taesd_encoder.pth"): true,
		alone: false, filepath.Join(alone, "taesd_decoder.pth"): false, filepath.Join(renamed, "half.pt"): false,
	} {
		a, err := OpenTiny(path, torch.CPU, torch.Float32)
		require.NoError(t, err)
		require.NoError(t, s.NoGrad(func(s *torch.Scope) error {
			near := func(key string, got *torch.Tensor) {
				require.Less(t, got.Sub(s, golden[key]).Abs(s).Max(s).Item(), 1e-5, key)
			}
			near("decoded", a.Decode(s, golden["z"]))
			require.Equal(t, encodes, a.Encodes(), path)
			if encodes {
				near("encoded", a.Encode(s, golden["x"], nil))
				return nil
			}
			require.ErrorContains(t, torch.Catch(func() { a.Encode(s, golden["x"], nil) }), "the autoencoder has only a decoder")
			return nil
		}))
		a.Close()
	}
}

// What is no such file, or several, is told.
func TestOpenTinyRefuses(t *testing.T) {
	encoder := link(t, map[string]string{"taesd_encoder.pth": "taesd_encoder.pth"})
	several := link(t, map[string]string{"taesd_decoder.pth": "taesd_decoder.pth", "taesdxl_decoder.pth": "taesd_decoder.pth"})
	swapped := link(t, map[string]string{"taesd_encoder.pth": "taesd_decoder.pth", "taesd_decoder.pth": "taesd_encoder.pth"})
	none := t.TempDir()
	require.NoError(t, os.WriteFile(filepath.Join(none, "taesd_decoder.pth"), []byte("PK\x03\x04"), 0o644))
	for path, want := range map[string]string{
		filepath.Join(encoder, "taesd_encoder.pth"): "taesd_decoder.pth: no such file",
		encoder:        "NAME_encoder and NAME_decoder such as taesd_decoder.pth",
		several:        "several tiny autoencoders (taesd_decoder, taesdxl_decoder)",
		swapped:        "want one tensor for 3.conv.0.weight",
		none:           "taesd_decoder.pth: zip",
		none + "/nope": "no such file",
	} {
		_, err := OpenTiny(path, torch.CPU, torch.Float32)
		require.ErrorContains(t, err, want)
	}
}
