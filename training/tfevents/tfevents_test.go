package tfevents

import (
	"bytes"
	"encoding/binary"
	"fmt"
	"hash/crc32"
	"image"
	"image/png"
	"math"
	"os"
	"path/filepath"
	"testing"
	"time"

	"github.com/stretchr/testify/require"
	"golang.org/x/sys/unix"
	"google.golang.org/protobuf/encoding/protowire"
)

// records checks both checksums of every record with an independent formula and returns the data.
func records(t *testing.T, file []byte) (out [][]byte) {
	t.Helper()
	unmask := func(m uint32) uint32 { m -= 0xa282ead8; return m<<15 | m>>17 }
	table := crc32.MakeTable(crc32.Castagnoli)
	for len(file) > 0 {
		n := binary.LittleEndian.Uint64(file)
		require.Equal(t, crc32.Checksum(file[:8], table), unmask(binary.LittleEndian.Uint32(file[8:])), "checksum of a length")
		data := file[12 : 12+n]
		require.Equal(t, crc32.Checksum(data, table), unmask(binary.LittleEndian.Uint32(file[12+n:])), "checksum of data")
		out, file = append(out, data), file[16+n:]
	}
	return out
}

// fields splits a message.
func fields(t *testing.T, b []byte) map[protowire.Number][][]byte {
	t.Helper()
	out := map[protowire.Number][][]byte{}
	for len(b) > 0 {
		num, typ, n := protowire.ConsumeTag(b)
		require.Positive(t, n)
		b = b[n:]
		m := protowire.ConsumeFieldValue(num, typ, b)
		require.GreaterOrEqual(t, m, 0)
		v := b[:m]
		if typ == protowire.BytesType {
			v, _ = protowire.ConsumeBytes(v)
		}
		out[num], b = append(out[num], v), b[m:]
	}
	return out
}

func TestEventFile(t *testing.T) {
	dir := t.TempDir()
	w, err := Create(dir)
	require.NoError(t, err)
	require.NoError(t, w.Scalars(300, map[string]float64{"loss": 0.25, "lr": 1e-3}))
	require.NoError(t, w.Scalars(301, nil))
	img := image.NewGray(image.Rect(0, 0, 5, 3))
	require.NoError(t, w.Image(301, "samples", img))
	require.NoError(t, w.Close())

	names, err := filepath.Glob(filepath.Join(dir, "events.out.tfevents.*"))
	require.NoError(t, err)
	require.Len(t, names, 1)
	file, err := os.ReadFile(names[0])
	require.NoError(t, err)
	recs := records(t, file)
	require.Len(t, recs, 3)

	require.Equal(t, "brain.Event:2", string(fields(t, recs[0])[3][0]))
	event := fields(t, recs[1])
	step, _ := protowire.ConsumeVarint(event[2][0])
	require.EqualValues(t, 300, step)
	values := fields(t, event[5][0])[1]
	require.Len(t, values, 2)
	for i, want := range []struct {
		tag string
		v   float32
	}{{"loss", 0.25}, {"lr", 1e-3}} {
		v := fields(t, values[i])
		require.Equal(t, want.tag, string(v[1][0]))
		require.Equal(t, want.v, math.Float32frombits(binary.LittleEndian.Uint32(v[2][0])))
	}
	picture := fields(t, fields(t, fields(t, recs[2])[5][0])[1][0])
	require.Equal(t, "samples", string(picture[1][0]))
	body := fields(t, picture[4][0])
	height, _ := protowire.ConsumeVarint(body[1][0])
	width, _ := protowire.ConsumeVarint(body[2][0])
	require.EqualValues(t, []uint64{3, 5}, []uint64{height, width})
	back, err := png.Decode(bytes.NewReader(body[4][0]))
	require.NoError(t, err)
	require.Equal(t, img.Bounds(), back.Bounds())
}

// A run whose event file could not be made goes on without one.
func TestNilWriter(t *testing.T) {
	var w *Writer
	require.NoError(t, w.Scalars(1, map[string]float64{"loss": 1}))
	require.NoError(t, w.Image(1, "x", image.NewGray(image.Rect(0, 0, 1, 1))))
	require.NoError(t, w.Flush())
	require.NoError(t, w.Close())
	_, err := Create(filepath.Join(t.TempDir(), "none"))
	require.ErrorContains(t, err, "event file")
}

// What stands where an event file of this second would be is left alone: a file of the same process, a pipe that nobody reads.
func TestNothingIsOpened(t *testing.T) {
	dir := t.TempDir()
	host, err := os.Hostname()
	require.NoError(t, err)
	now := time.Now().Unix()
	for at := now; at < now+3; at++ {
		require.NoError(t, unix.Mkfifo(filepath.Join(dir, fmt.Sprintf("events.out.tfevents.%010d.%s.%d.0", at, host, os.Getpid())), 0o666))
	}
	for range 2 {
		w, err := Create(dir)
		require.NoError(t, err)
		require.NoError(t, w.Close())
	}
	files, err := filepath.Glob(filepath.Join(dir, "*.[12]"))
	require.NoError(t, err)
	require.Len(t, files, 2)
}
