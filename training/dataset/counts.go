package dataset

import (
	"fmt"
	"path/filepath"

	"github.com/onestep-go/onestep/training/internal/imagefile"
)

// Counts returns the number of images of each class; nil without labels.
func (s *Set) Counts() []int {
	if len(s.classes) == 0 {
		return nil
	}
	n := make([]int, len(s.classes))
	for i := range s.Len() {
		if label := s.src.label(i); label >= 0 && label < len(n) {
			n[label]++
		}
	}
	return n
}

// Folders is the number of directories that contain images; 0 for datasets that are not image files in directories.
func (s *Set) Folders() int {
	f, ok := s.src.(*folder)
	if !ok {
		return 0
	}
	dirs := map[string]bool{}
	for _, p := range f.paths {
		dirs[filepath.Dir(p)] = true
	}
	return len(dirs)
}

// LeftOut counts skipped files with extensions of image formats that are not supported: "2 .avif, 1 .heic", or "".
func (s *Set) LeftOut() string {
	switch src := s.src.(type) {
	case *folder:
		return imagefile.Counts(src.leftOut)
	case shards:
		return imagefile.Counts(src.LeftOut)
	}
	return ""
}

// Notices returns one line for each decision about the data that the user may want to know of.
func (s *Set) Notices() []string { return s.notices }

func (s *Set) note(format string, args ...any) {
	s.notices = append(s.notices, fmt.Sprintf(format, args...))
}
