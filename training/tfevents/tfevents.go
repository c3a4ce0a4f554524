package tfevents

import (
	"bufio"
	"bytes"
	"encoding/binary"
	"errors"
	"fmt"
	"hash/crc32"
	"image"
	"image/png"
	"io/fs"
	"math"
	"os"
	"path/filepath"
	"slices"
	"time"

	"google.golang.org/protobuf/encoding/protowire"
)

// Writer writes one event file. A nil Writer discards everything.
type Writer struct {
	f    *os.File
	w    *bufio.Writer
	last time.Time // of the last flush
}

// Create makes a new event file in a directory, with the name pattern that TensorBoard expects. A resumed run makes another one:
// TensorBoard reads them in order, and the new file's values replace older ones of the same step.
func Create(dir string) (*Writer, error) {
	host, err := os.Hostname()
	if err != nil {
		host = "localhost"
	}
	var f *os.File
	for n := range 100 { // of the same second and process; nothing that exists is opened, whatever it is
		name := fmt.Sprintf("events.out.tfevents.%010d.%s.%d.%d", time.Now().Unix(), host, os.Getpid(), n)
		if f, err = os.OpenFile(filepath.Join(dir, name), os.O_CREATE|os.O_EXCL|os.O_WRONLY, 0o666); !errors.Is(err, fs.ErrExist) {
			break
		}
	}
	if err != nil {
		return nil, fmt.Errorf("event file: %w", err)
	}
	w := &Writer{f: f, w: bufio.NewWriter(f), last: time.Now()}
	version := protowire.AppendString(protowire.AppendTag(nil, 3, protowire.BytesType), "brain.Event:2")
	if err := w.event(0, version); err != nil {
		return nil, err
	}
	return w, w.Flush()
}

// Scalars writes a step's scalars. Tags are sorted, so that files of equal runs differ in their times only.
func (w *Writer) Scalars(step int64, values map[string]float64) error {
	if w == nil || len(values) == 0 {
		return nil
	}
	var tags []string
	for tag := range values {
		tags = append(tags, tag)
	}
	slices.Sort(tags)
	var summary []byte
	for _, tag := range tags {
		var v []byte
		v = protowire.AppendString(protowire.AppendTag(v, 1, protowire.BytesType), tag)
		v = protowire.AppendFixed32(protowire.AppendTag(v, 2, protowire.Fixed32Type), math.Float32bits(float32(values[tag])))
		summary = protowire.AppendBytes(protowire.AppendTag(summary, 1, protowire.BytesType), v)
	}
	return w.summary(step, summary)
}

// Image writes an image.
func (w *Writer) Image(step int64, tag string, img image.Image) error {
	if w == nil {
		return nil
	}
	var b bytes.Buffer
	if err := png.Encode(&b, img); err != nil {
		return fmt.Errorf("event file: %w", err)
	}
	size := img.Bounds().Size()
	var m []byte
	for i, n := range []int{size.Y, size.X, 3} { // height, width, colour space: RGB
		m = protowire.AppendVarint(protowire.AppendTag(m, protowire.Number(i+1), protowire.VarintType), uint64(n))
	}
	m = protowire.AppendBytes(protowire.AppendTag(m, 4, protowire.BytesType), b.Bytes())
	var v []byte
	v = protowire.AppendString(protowire.AppendTag(v, 1, protowire.BytesType), tag)
	v = protowire.AppendBytes(protowire.AppendTag(v, 4, protowire.BytesType), m)
	return w.summary(step, protowire.AppendBytes(protowire.AppendTag(nil, 1, protowire.BytesType), v))
}

func (w *Writer) summary(step int64, summary []byte) error {
	if err := w.event(step, protowire.AppendBytes(protowire.AppendTag(nil, 5, protowire.BytesType), summary)); err != nil {
		return err
	}
	if time.Since(w.last) < 5*time.Second {
		return nil
	}
	return w.Flush()
}

// event writes a record: wall time, step, and the given fields.
func (w *Writer) event(step int64, fields []byte) error {
	var e []byte
	now := float64(time.Now().UnixNano()) / 1e9
	e = protowire.AppendFixed64(protowire.AppendTag(e, 1, protowire.Fixed64Type), math.Float64bits(now))
	e = protowire.AppendVarint(protowire.AppendTag(e, 2, protowire.VarintType), uint64(step))
	e = append(e, fields...)
	var head [12]byte
	binary.LittleEndian.PutUint64(head[:], uint64(len(e)))
	binary.LittleEndian.PutUint32(head[8:], masked(head[:8]))
	var tail [4]byte
	binary.LittleEndian.PutUint32(tail[:], masked(e))
	for _, part := range [][]byte{head[:], e, tail[:]} {
		if _, err := w.w.Write(part); err != nil {
			return fmt.Errorf("event file: %w", err)
		}
	}
	return nil
}

var castagnoli = crc32.MakeTable(crc32.Castagnoli)

// masked is the CRC as TFRecords store it, rotated and shifted so that a CRC of data with CRCs in it stays sound.
func masked(b []byte) uint32 {
	c := crc32.Checksum(b, castagnoli)
	return (c>>15 | c<<17) + 0xa282ead8
}

// Flush writes what is buffered to the file.
func (w *Writer) Flush() error {
	if w == nil {
		return nil
	}
	w.last = time.Now()
	if err := w.w.Flush(); err != nil {
		return fmt.Errorf("event file: %w", err)
	}
	return nil
}

// Close writes what is buffered and closes the file.
func (w *Writer) Close() error {
	if w == nil {
		return nil
	}
	err := w.Flush()
	if cerr := w.f.Close(); err == nil {
		err = cerr
	}
	return err
}
