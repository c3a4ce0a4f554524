package dataset

import "path/filepath"

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
	if f, ok := s.src.(*folder); ok {
		return countsOf(f.leftOut)
	}
	return ""
}
