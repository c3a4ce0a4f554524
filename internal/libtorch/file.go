package libtorch

import (
	"bytes"
	"debug/elf"
	"errors"
	"fmt"
	"os"
	"path"
	"path/filepath"
)

// Match returns the files in a directory whose names match a pattern, in order. Unlike for [filepath.Glob], the directory is no pattern:
// it may be called what a user likes.
func Match(dir, pattern string) []string {
	entries, _ := os.ReadDir(dir) // like Glob: a directory that cannot be read has no files
	var paths []string
	for _, e := range entries {
		if ok, _ := path.Match(pattern, e.Name()); ok {
			paths = append(paths, filepath.Join(dir, e.Name()))
		}
	}
	return paths
}

// Damaged is what is wrong with a file that should be a shared library.
type Damaged string

// Error returns it.
func (d Damaged) Error() string { return string(d) }

// Whole checks that a file is a shared library with all its parts: the loader maps a truncated one too, and the program dies of it. The
// error is [Damaged], unless the file cannot be read.
func Whole(file string) error {
	f, err := open(file)
	if err != nil {
		return err
	}
	return f.Close()
}

// open opens a shared library that is [Whole].
func open(file string) (*elf.File, error) {
	info, err := os.Stat(file)
	if err != nil {
		return nil, err
	}
	if !info.Mode().IsRegular() { // to open a named pipe would wait for its writer
		return nil, Damaged("it is not a regular file")
	}
	f, err := elf.Open(file)
	if errors.Is(err, os.ErrPermission) || errors.Is(err, os.ErrNotExist) {
		return nil, err
	}
	if err != nil {
		return nil, Damaged(fmt.Sprintf("it is no ELF file, or not all of one: %v", err))
	}
	size := uint64(info.Size())
	within := func(offset, length uint64) bool { return offset <= size && length <= size-offset }
	for _, p := range f.Progs {
		if !within(p.Off, p.Filesz) {
			f.Close()
			return nil, Damaged(fmt.Sprintf("the ELF file is cut off at %d bytes", size))
		}
	}
	for _, s := range f.Sections {
		if s.Type != elf.SHT_NOBITS && s.Type != elf.SHT_NULL && !within(s.Offset, s.FileSize) {
			f.Close()
			return nil, Damaged(fmt.Sprintf("the ELF file is cut off at %d bytes", size))
		}
	}
	return f, nil
}

// sourceSymbol is CT_SOURCE of csrc/table.h.
const sourceSymbol = "onestep_layer_source"

// WholeLayer checks that a file is a layer made from the sources with a checksum, [Whole].
func WholeLayer(file, sum string) error {
	f, err := open(file)
	if err != nil {
		return err
	}
	defer f.Close()
	symbols, err := f.DynamicSymbols()
	if err != nil {
		return Damaged(fmt.Sprintf("it has no symbols: %v", err))
	}
	want := append([]byte(sum), 0)
	for _, s := range symbols {
		if s.Name != sourceSymbol {
			continue
		}
		for _, p := range f.Progs {
			if p.Type != elf.PT_LOAD || s.Value < p.Vaddr || s.Value-p.Vaddr >= p.Filesz {
				continue
			}
			got := make([]byte, len(want))
			if _, err := p.ReadAt(got, int64(s.Value-p.Vaddr)); err == nil && bytes.Equal(got, want) {
				return nil
			}
		}
	}
	return Damaged("it is no layer made from these sources")
}
