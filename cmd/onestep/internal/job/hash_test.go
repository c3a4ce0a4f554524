package job

import (
	"context"
	"os"
	"path/filepath"
	"testing"

	"github.com/stretchr/testify/require"
)

// The hashes of files of gigabytes end with the command: this one would read for an hour.
func TestHashEnds(t *testing.T) {
	big := filepath.Join(t.TempDir(), "big.bin")
	require.NoError(t, os.WriteFile(big, nil, 0o600))
	require.NoError(t, os.Truncate(big, 4<<40))
	st, err := os.Stat(big)
	require.NoError(t, err)
	require.True(t, sparse(st), "an empty file of a terabyte")
	st, err = os.Stat(os.Args[0]) // this test, of tens of megabytes
	require.NoError(t, err)
	require.False(t, sparse(st), "a file that somebody wrote")
	ctx, cancel := context.WithCancel(t.Context())
	cancel()
	_, err = shortHash(ctx, big)
	require.ErrorIs(t, err, context.Canceled)
	_, err = adapterHash(ctx, big)
	require.ErrorIs(t, err, context.Canceled)
}

func TestHash(t *testing.T) {
	dir := t.TempDir()
	file := func(name, content string) string {
		path := filepath.Join(dir, name)
		require.NoError(t, os.WriteFile(path, []byte(content), 0o600))
		return path
	}
	hash := func(v string, err error) string {
		require.NoError(t, err)
		return v
	}
	const abc = "ba7816bf8f01" // of SHA-256's first test vector, "abc"
	ctx := t.Context()
	require.Equal(t, abc, hash(shortHash(ctx, file("1", "abc"))))
	require.Equal(t, abc, hash(shortHash(ctx, file("2", "a"), file("3", "bc"))))
	require.Equal(t, abc, hash(adapterHash(ctx, file("4.pt", "abc"))))
	require.Equal(t, abc, hash(adapterHash(ctx, file("5.safetensors", "\x02\x00\x00\x00\x00\x00\x00\x00{}abc"))), "without its header")
	_, err := adapterHash(ctx, file("6.safetensors", "\xff\xff\xff\xff\xff\xff\xff\xff"))
	require.ErrorContains(t, err, "6.safetensors")
}
