package main

import (
	"encoding/json"
	"path/filepath"
	"slices"
	"strings"
	"testing"

	"github.com/spf13/pflag"
	"github.com/stretchr/testify/require"

	"github.com/onestep-go/onestep/training/recipe"
)

// An option that is given its default by name holds, or is refused: the model that a run starts from, which differs in all that it can, does
// not put another value in its place without a word.
func TestDefaultsThatAreGivenHold(t *testing.T) {
	dir := t.TempDir()
	common := []string{"train", "--data", "emoji", "--resolution", "8", "--batch", "4"}
	start := filepath.Join(dir, "start")
	code, _, errs := try(append(common, "--out", start, "--method", "ddpm", "--steps", "2", "--threads", "1", "--chain", "50", "--betas", "cosine", "--network", "adm", "--channels", "8",
		"--mult", "1,2", "--attention", "8", "--blocks", "1", "--dropout", "0.1", "--classes", "--save-every", "2", "--sample-every", "0")...)
	require.Zero(t, code, errs)
	cmd, _, err := (&app{}).root().Find([]string{"train"})
	require.NoError(t, err)
	plan := func(more ...string) (int, map[string]any, string) {
		code, out, errs := try(append(append([]string{"train", "--data", "emoji", "--resolution", "8", "--out", filepath.Join(dir, "next"), "--init", start, "--classes", "--dry-run"},
			more...), "--json")...)
		var got map[string]any
		if code == 0 {
			require.NoError(t, json.Unmarshal([]byte(out), &got), out)
		}
		return code, got, errs
	}
	methods := slices.DeleteFunc(recipe.Names(), func(m string) bool { code, _, _ := plan("--method", m); return code != 0 }) // which may start so
	require.Contains(t, methods, "ddpm")
	held, refused := 0, 0
	cmd.Flags().VisitAll(func(f *pflag.Flag) {
		value := f.DefValue
		switch {
		case value == "" || value == "[]" || f.Value.Type() == "bool", f.Name == "method", f.Name == "duration":
			return
		case f.Value.Set(value) != nil: // what stands for no value cannot be given
			return
		}
		for _, method := range methods {
			code, got, errs := plan("--method", method, "--"+f.Name, value)
			if code != 0 {
				require.NotEmpty(t, errs)
				refused++
				continue
			}
			held++
			is, err := json.Marshal(got[strings.ReplaceAll(f.Name, "-", "_")])
			require.NoError(t, err)
			if string(is) == "null" { // zero, and left out
				is = []byte("0")
			}
			require.Equal(t, value, strings.Trim(string(is), `"`), "--%s %s with the method %s", f.Name, value, method)
		}
	})
	t.Logf("%d held, %d refused, with %s", held, refused, methods)
	require.Greater(t, held, 20)

	code, _, errs = plan("--method", "ddpm", "--chain", "1000")
	require.Equal(t, exitUsage, code)
	require.Contains(t, errs, "--chain 1000")
	code, _, errs = plan("--method", "ddpm", "--betas", "linear")
	require.Equal(t, exitUsage, code)
	require.Contains(t, errs, "--betas linear")
	code, got, errs := plan("--method", "ddpm")
	require.Zero(t, code, errs)
	require.EqualValues(t, 50, got["chain"])
}
