package sampling

import (
	"bytes"
	"encoding/binary"
	"errors"
	"fmt"
	"hash/crc32"
	"image"
	"image/color"
	"image/draw"
	"image/png"
	"io"
	"io/fs"
	"math"
	"os"
	"path/filepath"
	"strings"

	"github.com/onestep-go/onestep/torch"
)

// ErrNaN is what there is no picture of.
var ErrNaN = errors.New("NaN")

// Pictures turns x [B, C, H, W] with values in [-1, 1] into images: grey for one channel, colour for three. Values
// outside are clamped; NaN is an error, ErrNaN, that says how many there are. Levels are rounded as diffusers does, in float32, halves
// to even.
func Pictures(x *torch.Tensor) ([]image.Image, error) {
	shape := x.Shape()
	if len(shape) != 4 || (shape[1] != 1 && shape[1] != 3) {
		return nil, fmt.Errorf("pictures: want a tensor [B, 1 or 3, H, W], got %v", shape)
	}
	s := torch.NewScope(torch.CPU)
	defer s.Close()
	v := torch.ToSlice[float32](x.Detach(s).ToDevice(s, torch.CPU).To(s, torch.Float32))
	b, c, h, w := shape[0], shape[1], shape[2], shape[3]
	bad := 0
	level := func(f float32) uint8 {
		if f != f {
			bad++
			return 0
		}
		return uint8(math.RoundToEven(float64(min(max(f/2+0.5, 0), 1) * 255)))
	}
	out := make([]image.Image, b)
	for i := range out {
		p := v[i*c*h*w : (i+1)*c*h*w]
		if c == 1 {
			g := image.NewGray(image.Rect(0, 0, w, h))
			for j := range p {
				g.Pix[j] = level(p[j])
			}
			out[i] = g
			continue
		}
		m := image.NewNRGBA(image.Rect(0, 0, w, h))
		for j := range h * w {
			m.SetNRGBA(j%w, j/w, color.NRGBA{level(p[j]), level(p[h*w+j]), level(p[2*h*w+j]), 255})
		}
		out[i] = m
	}
	if bad > 0 {
		return nil, fmt.Errorf("pictures: %d of %d values are %w: the model's weights or the noise levels are broken", bad, len(v), ErrNaN)
	}
	return out, nil
}

// Grid lays images of one size out in rows, 2 pixels apart on white. columns 0 chooses a nearly square grid.
func Grid(images []image.Image, columns int) (image.Image, error) {
	if len(images) == 0 {
		return nil, errors.New("grid: no images")
	}
	if columns <= 0 {
		columns = int(math.Ceil(math.Sqrt(float64(len(images)))))
	}
	columns = min(columns, len(images))
	const gap = 2
	size := images[0].Bounds().Size()
	rows := (len(images) + columns - 1) / columns
	area := image.Rect(0, 0, columns*(size.X+gap)+gap, rows*(size.Y+gap)+gap)
	var out draw.Image = image.NewNRGBA(area)
	if _, grey := images[0].(*image.Gray); grey {
		out = image.NewGray(area)
	}
	draw.Draw(out, area, image.White, image.Point{}, draw.Src)
	for i, m := range images {
		if m.Bounds().Size() != size {
			return nil, fmt.Errorf("grid: images of %v and %v pixels", size, m.Bounds().Size())
		}
		at := image.Pt(gap+i%columns*(size.X+gap), gap+i/columns*(size.Y+gap))
		draw.Draw(out, image.Rectangle{at, at.Add(size)}, m, m.Bounds().Min, draw.Src)
	}
	return out, nil
}

// Text is a text chunk of a PNG file: a keyword of 1 to 79 Latin-1 characters and any text.
type Text struct{ Keyword, Value string }

// WritePNG writes an image with text chunks, atomically. Without overwrite a file that exists is an error that wraps
// fs.ErrExist.
func WritePNG(path string, img image.Image, texts []Text, overwrite bool) (err error) {
	if !overwrite {
		if _, err := os.Lstat(path); err == nil {
			return &fs.PathError{Op: "write", Path: path, Err: fs.ErrExist}
		}
	}
	f, err := os.CreateTemp(filepath.Dir(path), ".onestep-*.png")
	if err != nil {
		return err
	}
	defer func() {
		if err != nil {
			err = errors.Join(err, f.Close(), os.Remove(f.Name()))
		}
	}()
	if err := EncodePNG(f, img, texts); err != nil {
		return fmt.Errorf("write %s: %w", path, err)
	}
	if err := f.Chmod(0o644); err != nil {
		return err
	}
	if err := f.Sync(); err != nil {
		return err
	}
	if overwrite {
		err = os.Rename(f.Name(), path)
	} else if err = os.Link(f.Name(), path); err == nil { // fails where the file has appeared meanwhile
		err = os.Remove(f.Name())
	}
	if err != nil {
		return err
	}
	return f.Close()
}

// EncodePNG writes an image with text chunks after its header: Latin-1 text as tEXt, other text as iTXt in UTF-8.
func EncodePNG(w io.Writer, img image.Image, texts []Text) error {
	var b bytes.Buffer
	if err := png.Encode(&b, img); err != nil {
		return err
	}
	data := b.Bytes()
	const header = 8 + 4 + 4 + 13 + 4 // signature and IHDR
	out := bytes.NewBuffer(append([]byte{}, data[:header]...))
	for _, t := range texts {
		if t.Keyword == "" || len(t.Keyword) > 79 || !latin1(t.Keyword) {
			return fmt.Errorf("png text: want a keyword of 1 to 79 Latin-1 characters, got %q", t.Keyword)
		}
		if latin1(t.Value) {
			chunk(out, "tEXt", []byte(t.Keyword+"\x00"), toLatin1(t.Value))
		} else {
			chunk(out, "iTXt", []byte(t.Keyword+"\x00\x00\x00\x00\x00"), []byte(t.Value))
		}
	}
	out.Write(data[header:])
	_, err := w.Write(out.Bytes())
	return err
}

func latin1(s string) bool {
	return !strings.ContainsFunc(s, func(r rune) bool { return r == 0 || r > 255 })
}

func toLatin1(s string) []byte {
	out := make([]byte, 0, len(s))
	for _, r := range s {
		out = append(out, byte(r))
	}
	return out
}

func chunk(out *bytes.Buffer, kind string, parts ...[]byte) {
	body := append([]byte(kind), bytes.Join(parts, nil)...)
	var n [4]byte
	binary.BigEndian.PutUint32(n[:], uint32(len(body)-4))
	out.Write(n[:])
	out.Write(body)
	binary.BigEndian.PutUint32(n[:], crc32.ChecksumIEEE(body))
	out.Write(n[:])
}

// ReadTexts returns the uncompressed text chunks of a PNG file. Damaged files give an error; nothing large is allocated
// for what they claim.
func ReadTexts(r io.Reader) ([]Text, error) {
	var sig [8]byte
	if _, err := io.ReadFull(r, sig[:]); err != nil || string(sig[:]) != "\x89PNG\r\n\x1a\n" {
		return nil, errors.New("not a PNG file")
	}
	var texts []Text
	const most = 16 << 20 // of text in all
	total := int64(0)
	for {
		var head [8]byte
		if _, err := io.ReadFull(r, head[:]); err != nil {
			return nil, errors.New("png: it ends before its end chunk")
		}
		n, kind := int64(binary.BigEndian.Uint32(head[:4])), string(head[4:])
		if n > 1<<31-1 {
			return nil, fmt.Errorf("png: chunk %q claims %d bytes", kind, n)
		}
		if kind == "IEND" {
			return texts, nil
		}
		if (kind != "tEXt" && kind != "iTXt") || n > 1<<20 {
			if m, err := io.CopyN(io.Discard, r, n+4); err != nil {
				return nil, fmt.Errorf("png: chunk %q claims %d bytes, %d follow", kind, n, m)
			}
			continue
		}
		if total += n; total > most {
			return nil, fmt.Errorf("png: it has more than %d MiB of text", most>>20)
		}
		body := make([]byte, n+4)
		if _, err := io.ReadFull(r, body); err != nil {
			return nil, fmt.Errorf("png: chunk %q claims %d bytes and the file ends", kind, n)
		}
		sum := crc32.Update(crc32.ChecksumIEEE(head[4:]), crc32.IEEETable, body[:n])
		if sum != binary.BigEndian.Uint32(body[n:]) {
			return nil, fmt.Errorf("png: chunk %q is damaged: its checksum does not match", kind)
		}
		key, value, ok := bytes.Cut(body[:n], []byte{0})
		if !ok {
			return nil, fmt.Errorf("png: chunk %q has no keyword", kind)
		}
		if kind == "iTXt" {
			if len(value) < 2 || value[0] != 0 {
				continue // compressed text is not read
			}
			parts := bytes.SplitN(value[2:], []byte{0}, 3)
			if len(parts) != 3 {
				return nil, fmt.Errorf("png: chunk %q is cut short", kind)
			}
			texts = append(texts, Text{fromLatin1(key), string(parts[2])})
			continue
		}
		texts = append(texts, Text{fromLatin1(key), fromLatin1(value)})
	}
}

func fromLatin1(b []byte) string {
	out := make([]rune, len(b))
	for i, c := range b {
		out[i] = rune(c)
	}
	return string(out)
}
