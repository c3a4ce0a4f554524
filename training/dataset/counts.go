package dataset

import (
	"fmt"
	"path/filepath"
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

// Folders is the number of folders that the images lie in, 0 if they are no files in folders.
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

// LeftOut counts the files that look like images, by their names, and are in formats that are not read: "2 .avif, 1 .heic", or "".
func (s *Set) LeftOut() string {
	switch src := s.src.(type) {
	case *folder:
		return countsOf(src.leftOut)
	case *shards:
		return countsOf(src.leftOut)
	}
	return ""
}

// Notices are what was decided about the data that whoever gave it may want to know, a sentence each.
func (s *Set) Notices() []string { return s.notices }

func (s *Set) note(format string, args ...any) {
	s.notices = append(s.notices, fmt.Sprintf(format, args...))
}
