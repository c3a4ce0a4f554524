package dataset

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

// member is a file in an archive. Reading it reads its content, until the next member is asked for.
type member struct {
	io.Reader
	name string
	link string // the member that it is a hard link to, whose content is its own; "": it has a content
	at   int64  // of its content, from the archive's beginning
	size int64
}

// refused says what to do about a hard link that cannot be followed.
func (m member) refused() error { return refusedLink(m.name, m.link) }

func refusedLink(name, to string) error {
	return fmt.Errorf("%s is a link to %s: make the archive with tar --hard-dereference --dereference, which stores the file", quote.Quoted(name), quote.Quoted(to))
}

// inside is a member's name as it lies in the archive.
func inside(name string) string { return path.Clean(strings.TrimLeft(name, "/")) }

// counted knows how much has been read of an archive.
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

// members lists the files of a tar archive, and errors if it is damaged or truncated, or holds what a data set has no use
// for: symbolic links, sparse files, names that lead out of the archive. With seek, which must be the archive's own, contents that
// are not read are jumped over.
func members(r io.Reader, seek io.Seeker) iter.Seq2[member, error] {
	return func(yield func(member, error) bool) {
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
		end := int64(0) // of the last member
		for k := 0; ; k++ {
			h, err := t.Next()
			switch {
			case errors.Is(err, io.EOF):
				if err := checkEnd(in, at()-end); err != nil {
					yield(member{}, fmt.Errorf("damaged archive after %s: %w", plural.N(k, "member"), err))
				}
				return
			case errors.Is(err, errEmptied):
				yield(member{}, err)
				return
			case err != nil:
				yield(member{}, fmt.Errorf("damaged archive after %s: %w", plural.N(k, "member"), noEOF(err)))
				return
			case h.Typeflag == tar.TypeDir, h.Typeflag == tar.TypeXGlobalHeader:
				end = at()
				continue
			}
			m := member{Reader: t, name: inside(h.Name), at: at(), size: h.Size}
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
				err = fmt.Errorf("%s is neither a file nor a folder but a device or a pipe", quote.Quoted(h.Name))
			case !fs.ValidPath(m.name) || m.name == ".":
				err = fmt.Errorf("%s is a name that leads out of the archive", quote.Quoted(h.Name))
			}
			if err != nil {
				yield(member{}, fmt.Errorf("refused archive: %w", err))
				return
			}
			if h.Typeflag == tar.TypeLink { // such archives come from folders in which a file has two names, and from some tools that find equal files
				m.link, m.size = inside(h.Linkname), 0
			}
			end = m.at + (m.size+block-1)/block*block
			if !yield(m, nil) {
				return
			}
		}
	}
}

// checkEnd wants the empty blocks that end an archive, of which tar has read those that are there, and nothing but zeros
// behind them. Reading those makes gzip compare its checksum.
func checkEnd(in io.Reader, after int64) error {
	if after < block {
		return fmt.Errorf("it has no end: %w", io.ErrUnexpectedEOF)
	}
	const most = 64 << 20
	n, err := io.Copy(zeros{}, io.LimitReader(in, most))
	if err == nil && n == most {
		err = fmt.Errorf("over %d MiB follow its end", most>>20)
	}
	return err
}

// zeros takes nothing else.
type zeros struct{}

func (zeros) Write(p []byte) (int, error) {
	for _, b := range p {
		if b != 0 {
			return 0, errors.New("something follows its end; are these archives one after the other?")
		}
	}
	return len(p), nil
}
