// Package datadir is the directory of the user's data, where weights and data sets lie that are not given by a path.
package datadir

import (
	"os"
	"path/filepath"
)

// Path is $XDG_DATA_HOME/onestep, where XDG_DATA_HOME is by default ~/.local/share. "": there is no home directory.
func Path() string {
	data := os.Getenv("XDG_DATA_HOME")
	if data == "" {
		home, err := os.UserHomeDir()
		if err != nil || home == "" {
			return ""
		}
		data = filepath.Join(home, ".local", "share")
	}
	return filepath.Join(data, "onestep")
}

// File is the path of a file in it; "": there is no home directory.
func File(name string) string {
	dir := Path()
	if dir == "" {
		return ""
	}
	return filepath.Join(dir, name)
}
