package archive

import (
	"archive/tar"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"iter"
	"path"
	"strings"

	"github.com/onestep-go/onestep/internal/plural"
	"github.com/onestep-go/onestep/internal/quote"
)

// Member is a file in an archive. It can be read until the next member is requested.
type Member struct {
	io.Reader
	Name string
	Link string // target of a hard link; "": not a link
	At   int64  // offset of its content in the archive, in bytes
	Size int64  // bytes
}

// Refused is the error for a hard link that cannot be followed.
func (m Member) Refused() error { return refusedLink(m.Name, m.Link) }

func refusedLink(name, to string) error {
	return fmt.Errorf("%s is a link to %s: create the archive with tar --hard-dereference --dereference, which stores files instead of links", quote.Quoted(name), quote.Quoted(to))
}

// inside returns a member's path relative to the root of the archive.
func inside(name string) string { return path.Clean(strings.TrimLeft(name, "/")) }

// counted counts the bytes that have been read.
type counted struct {
	io.Reader
	n int64
}

func (c *counted) Read(p []byte) (int, error) {
	n, err := c.Reader.Read(p)
	c.n += int64(n)
	return n, err
}

const block = 512

// Members lists the files of a tar archive. It yields an error if the archive is damaged or truncated, or contains symbolic links, sparse
// files or paths outside the archive. With seek, which must be r itself, contents that are not read are skipped by seeking.
func Members(r io.Reader, seek io.Seeker) iter.Seq2[Member, error] {
	return func(yield func(Member, error) bool) {
		count := &counted{Reader: r}
		in := io.Reader(count)
		at := func() int64 { return count.n }
		if seek != nil {
			in = r
			at = func() int64 {
				n, _ := seek.Seek(0, io.SeekCurrent)
				return n
			}
		}
		t := tar.NewReader(in)
		end := int64(0) // offset after the last member
		for k := 0; ; k++ {
			h, err := t.Next()
			switch {
			case errors.Is(err, io.EOF):
				if err := checkEnd(in, at()-end); err != nil {
					yield(Member{}, fmt.Errorf("damaged archive after %s: %w", plural.N(k, "member"), err))
				}
				return
			case errors.Is(err, ErrEmptied):
				yield(Member{}, err)
				return
			case err != nil:
				yield(Member{}, fmt.Errorf("damaged archive after %s: %w", plural.N(k, "member"), NoEOF(err)))
				return
			case h.Typeflag == tar.TypeDir, h.Typeflag == tar.TypeXGlobalHeader:
				end = at()
				continue
			}
			m := Member{Reader: t, Name: inside(h.Name), At: at(), Size: h.Size}
			sparse := h.Typeflag == tar.TypeGNUSparse
			for key := range h.PAXRecords {
				sparse = sparse || strings.HasPrefix(key, "GNU.sparse.")
			}
			switch {
			case sparse:
				err = fmt.Errorf("%s is a sparse file", quote.Quoted(h.Name))
			case h.Typeflag == tar.TypeSymlink:
				err = refusedLink(h.Name, h.Linkname)
			case h.Typeflag != tar.TypeReg && h.Typeflag != tar.TypeLink:
				err = fmt.Errorf("%s is neither a file nor a directory but a device or a pipe", quote.Quoted(h.Name))
			case !fs.ValidPath(m.Name) || m.Name == ".":
				err = fmt.Errorf("%s is a path outside the archive", quote.Quoted(h.Name))
			}
			if err != nil {
				yield(Member{}, fmt.Errorf("unsupported archive: %w", err))
				return
			}
			if h.Typeflag == tar.TypeLink { // from directories in which a file has two names, and from tools that deduplicate files
				m.Link, m.Size = inside(h.Linkname), 0
			}
			end = m.At + (m.Size+block-1)/block*block
			if !yield(m, nil) {
				return
			}
		}
	}
}

// checkEnd checks that an archive ends with empty blocks, of which package tar has read after bytes, and that only zeros follow. Reading those
// makes gzip compare its checksum.
func checkEnd(in io.Reader, after int64) error {
	if after < block {
		return fmt.Errorf("no end-of-archive marker: %w", io.ErrUnexpectedEOF)
	}
	const most = 64 << 20
	n, err := io.Copy(zeros{}, io.LimitReader(in, most))
	if err == nil && n == most {
		err = fmt.Errorf("over %d MiB follow the end of the archive", most>>20)
	}
	return err
}

// zeros is a writer that accepts only zeros.
type zeros struct{}

func (zeros) Write(p []byte) (int, error) {
	for _, b := range p {
		if b != 0 {
			return 0, errors.New("there is data after the end of the archive; are these concatenated archives?")
		}
	}
	return len(p), nil
}
