// Package rundir manages a training run's directory:
//
//	options.json                          the resolved options
//	stats.jsonl                           one JSON object per logged step
//	log.txt                               what was logged
//	model-0010000.safetensors             snapshots: EMA weights, to share and sample from
//	model-0010000.width-0.05.safetensors  further EMA weights, by name
//	best.safetensors, best.json           the best snapshot by the run's evaluations or validation loss, and which it is
//	state-0010000.safetensors             checkpoints, to resume from
//	samples-0010000.png                   sample grids
//	events.out.tfevents.*                 the statistics for TensorBoard
//
// Files are written atomically, so that a run that is killed at any moment can be resumed.
package rundir

import (
	"bytes"
	"encoding/json"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"slices"
	"strconv"
	"strings"

	"golang.org/x/sys/unix"

	"github.com/onestep-go/onestep/internal/atomicfile"
	"github.com/onestep-go/onestep/internal/plainfile"
	"github.com/onestep-go/onestep/internal/quote"
)

// ErrHoldsRun is wrapped by the error for opening a directory with a run in it without resume.
var ErrHoldsRun = errors.New("already contains a run")

// Limits on the size of files that are read. A line of statistics has a few hundred bytes.
const (
	maxOptions = 1 << 20
	maxStats   = 1 << 30
)

// Dir is an open run directory, locked for this process.
type Dir struct {
	path  string
	lock  *os.File
	stats *os.File
	log   *os.File
	made  []string        // directories that Open created, the outermost first
	had   map[string]bool // entries of the directory before Open
}

// Open creates the directory of a new run, or with resume opens that of an existing one. Options are written to options.json. An existing
// run's options must be equal, except for the fields named in may. A directory with a run in it is an error without resume, and one with
// other files always is: nothing is overwritten.
func Open(path string, options map[string]any, resume bool, may ...string) (*Dir, error) {
	if path == "" {
		return nil, errors.New("run directory: want a path, got an empty one")
	}
	d := &Dir{path: path}
	for at := filepath.Clean(path); ; at = filepath.Dir(at) {
		if _, err := os.Lstat(at); !errors.Is(err, fs.ErrNotExist) {
			break
		}
		d.made = append([]string{at}, d.made...)
	}
	err := os.MkdirAll(path, 0o777)
	if err != nil {
		err = fmt.Errorf("run directory: %w", err)
	} else {
		err = d.open(options, resume, may)
	}
	if err != nil {
		return nil, errors.Join(err, d.Discard())
	}
	return d, nil
}

// Discard closes the directory of a run that has done no step, and removes the files, and directories if they are then empty, that were
// created since Open. If a step was recorded or a checkpoint saved since, it only closes the directory.
func (d *Dir) Discard() error {
	if d.lock != nil && !d.holds() {
		if err := d.lock.Close(); err != nil { // another process has locked the directory
			return err
		}
		d.lock = nil
	}
	if d.lock != nil {
		entries, err := os.ReadDir(d.path)
		if err != nil {
			return errors.Join(err, d.Close())
		}
		st, err := os.Stat(d.File("stats.jsonl"))
		if err == nil && st.Size() > 0 || slices.ContainsFunc(entries, func(e fs.DirEntry) bool { return !opening(e.Name()) && !d.had[e.Name()] }) {
			return d.Close()
		}
		for _, e := range entries {
			if !d.had[e.Name()] {
				if err := os.Remove(d.File(e.Name())); err != nil {
					return errors.Join(err, d.Close())
				}
			}
		}
	}
	for _, dir := range slices.Backward(d.made) {
		if os.Remove(dir) != nil {
			break // not empty: another program created files
		}
	}
	return d.Close()
}

// opening reports whether a run creates a file of that name before its first step.
func opening(name string) bool {
	return slices.Contains([]string{"options.json", "card.md", "stats.jsonl", "log.txt", ".lock"}, name) || strings.HasPrefix(name, "events.out.tfevents.")
}

// holds reports whether this process has the directory's lock: the file that is there now, not one that was removed.
func (d *Dir) holds() bool {
	if unix.Flock(int(d.lock.Fd()), unix.LOCK_EX|unix.LOCK_NB) != nil {
		return false
	}
	mine, err := d.lock.Stat()
	if err != nil {
		return false
	}
	there, err := os.Stat(d.File(".lock"))
	return err == nil && os.SameFile(mine, there)
}

// Check returns the error that Open would return, but creates nothing: for programs with long work to do before they open the directory.
// begun reports whether there is a run that has done a step.
func Check(path string, options map[string]any, resume bool, may ...string) (begun bool, err error) {
	if err := atomicfile.Writable(path); err != nil {
		return false, fmt.Errorf("run directory: %w", err)
	}
	entries, err := os.ReadDir(path)
	if errors.Is(err, fs.ErrNotExist) {
		return false, nil
	}
	if err != nil {
		return false, fmt.Errorf("run directory: %w", err)
	}
	return (&Dir{path: path}).check(entries, options, resume, may)
}

// check is Check for a directory with these entries.
func (d *Dir) check(entries []fs.DirEntry, options map[string]any, resume bool, may []string) (begun bool, err error) {
	old, err := plainfile.Read(d.File("options.json"), maxOptions)
	started := err == nil
	// The files of a run that failed before its first step, such as with an error in its data, may be replaced.
	begun = started && d.began(entries)
	switch {
	case err != nil && !errors.Is(err, fs.ErrNotExist):
		return false, fmt.Errorf("run directory: %w", err)
	case begun && !resume:
		return true, fmt.Errorf("run directory %s %w", quote.Path(d.path), ErrHoldsRun)
	case !started:
		for _, e := range entries {
			if !strings.HasPrefix(e.Name(), ".") {
				return false, fmt.Errorf("run directory %s is not empty (it contains %s) and is not a run: choose another directory", quote.Path(d.path), quote.Text(e.Name()))
			}
		}
	}
	if begun {
		if err := sameOptions(old, options, may); err != nil {
			return true, fmt.Errorf("run directory %s: %w", quote.Path(d.path), err)
		}
	}
	return begun, nil
}

func (d *Dir) open(options map[string]any, resume bool, may []string) (err error) {
	entries, err := os.ReadDir(d.path)
	if err != nil {
		return fmt.Errorf("run directory: %w", err)
	}
	d.had = map[string]bool{}
	for _, e := range entries {
		d.had[e.Name()] = true
	}
	begun, err := d.check(entries, options, resume, may)
	if err != nil {
		return err
	}
	if d.lock, err = os.OpenFile(d.File(".lock"), os.O_CREATE|os.O_RDWR|unix.O_NOFOLLOW, 0o666); err != nil {
		return fmt.Errorf("run directory: %w", err)
	}
	if !d.holds() {
		pid, _ := plainfile.Read(d.File(".lock"), 64)
		return fmt.Errorf("run directory %s is in use by another process (%s)", quote.Path(d.path), quote.Text(strings.TrimSpace(string(pid))))
	}
	if err := d.lock.Truncate(0); err == nil {
		_, err = d.lock.WriteAt([]byte(strconv.Itoa(os.Getpid())+"\n"), 0)
		if err != nil {
			return fmt.Errorf("run directory: %w", err)
		}
	}
	atomicfile.Sweep(d.path)
	if !begun {
		if err := WriteJSON(d.File("options.json"), options); err != nil {
			return fmt.Errorf("run directory: %w", err)
		}
	}
	if d.log, err = d.appendTo("log.txt"); err != nil {
		return fmt.Errorf("run directory: %w", err)
	}
	if d.stats, err = d.appendTo("stats.jsonl"); err != nil {
		return fmt.Errorf("run directory: %w", err)
	}
	return nil
}

// appendTo opens a file of the run for appending. A directory from elsewhere may have anything under that name: only a regular file in the
// directory itself is written to, not a link to another file.
func (d *Dir) appendTo(name string) (*os.File, error) {
	f, err := os.OpenFile(d.File(name), os.O_CREATE|os.O_APPEND|os.O_WRONLY|unix.O_NONBLOCK|unix.O_NOFOLLOW, 0o666)
	if errors.Is(err, unix.ELOOP) {
		return nil, fmt.Errorf("%s is a symbolic link, want a regular file: replace the link with a copy of its target", quote.Path(d.File(name)))
	}
	if err != nil {
		return nil, err
	}
	st, err := f.Stat()
	if err == nil && !st.Mode().IsRegular() {
		err = fmt.Errorf("%s is not a regular file: move it away", quote.Path(d.File(name)))
	}
	if err != nil {
		return nil, errors.Join(err, f.Close())
	}
	return f, nil
}

// began reports whether a run has done a step, or may have: whether there are other files than those from before the first step.
func (d *Dir) began(entries []fs.DirEntry) bool {
	log := false
	for _, e := range entries {
		log = log || e.Name() == "log.txt"
		if !opening(e.Name()) {
			return true
		}
	}
	st, err := os.Stat(d.File("stats.jsonl"))
	return !log || err != nil || st.Size() > 0
}

// Path returns the directory's path.
func (d *Dir) Path() string { return d.path }

// File returns the path of a file in the directory.
func (d *Dir) File(name string) string { return filepath.Join(d.path, name) }

// Log returns the writer of log.txt.
func (d *Dir) Log() *os.File { return d.log }

// Close unlocks the directory.
func (d *Dir) Close() error {
	var errs []error
	for _, f := range []*os.File{d.stats, d.log, d.lock} {
		if f != nil {
			errs = append(errs, f.Close())
		}
	}
	return errors.Join(errs...)
}

// Snapshot returns the path of the snapshot after a step: that of the further EMA weights of that name, or, if the name is empty, of the
// main ones.
func (d *Dir) Snapshot(step int, name string) string {
	if name != "" {
		name = "." + name
	}
	return d.File(fmt.Sprintf("model-%07d%s.safetensors", step, name))
}

// State returns the path of the checkpoint of a step.
func (d *Dir) State(step int) string { return d.File(fmt.Sprintf("state-%07d.safetensors", step)) }

// Steps returns the steps, ascending, after which files with that prefix ("model" or "state") were written.
func (d *Dir) Steps(prefix string) ([]int, error) { return Steps(d.path, prefix) }

// Steps is [Dir.Steps] for a directory that is not open.
func Steps(path, prefix string) ([]int, error) {
	entries, err := os.ReadDir(path)
	if err != nil {
		return nil, fmt.Errorf("run directory: %w", err)
	}
	var steps []int
	for _, e := range entries {
		text, ok := strings.CutPrefix(e.Name(), prefix+"-")
		if !ok {
			continue
		}
		if text, ok = strings.CutSuffix(text, ".safetensors"); !ok {
			continue
		}
		if n, err := strconv.Atoi(text); err == nil && n >= 0 && text == fmt.Sprintf("%07d", n) {
			steps = append(steps, n)
		}
	}
	slices.Sort(steps)
	return steps, nil
}

// SnapshotSteps returns the steps, ascending, of a directory's snapshots: files, or directories of diffusers.
func SnapshotSteps(path string) ([]int, error) {
	steps, err := Steps(path, "model")
	if err != nil {
		return nil, err
	}
	entries, err := os.ReadDir(path)
	if err != nil {
		return nil, fmt.Errorf("run directory: %w", err)
	}
	for _, e := range entries {
		text, ok := strings.CutPrefix(e.Name(), "model-")
		if n, err := strconv.Atoi(text); ok && e.IsDir() && err == nil && n >= 0 && text == fmt.Sprintf("%07d", n) {
			steps = append(steps, n)
		}
	}
	slices.Sort(steps)
	return slices.Compact(steps), nil
}

// BestName is the file name of a run's best snapshot.
const BestName = "best.safetensors"

// Best returns the path of the best snapshot, which may not be there.
func (d *Dir) Best() string { return d.File(BestName) }

// Chosen returns the path of a run's best snapshot, by its evaluations or validation loss, or else of its last one; "" if there is none.
func Chosen(path string) (snapshot string, best bool, err error) {
	file := filepath.Join(path, BestName)
	if st, err := os.Stat(file); err == nil && st.Mode().IsRegular() {
		return file, true, nil
	}
	steps, err := SnapshotSteps(path)
	if err != nil || len(steps) == 0 {
		return "", false, err
	}
	last := steps[len(steps)-1]
	var lowest struct{ Step int }
	if text, err := plainfile.Read(filepath.Join(path, "best.json"), maxOptions); err == nil && json.Unmarshal(text, &lowest) == nil && slices.Contains(steps, lowest.Step) {
		last, best = lowest.Step, true
	}
	snapshot = filepath.Join(path, fmt.Sprintf("model-%07d", last))
	if st, err := os.Stat(snapshot); err != nil || !st.IsDir() {
		snapshot += ".safetensors"
	}
	return snapshot, best, nil
}

// Snapshots returns the paths of all snapshots in a directory, with all EMA weights, sorted.
func Snapshots(path string) ([]string, error) {
	entries, err := os.ReadDir(path)
	if err != nil {
		return nil, fmt.Errorf("run directory: %w", err)
	}
	var all []string
	for _, e := range entries {
		text, ok := strings.CutPrefix(e.Name(), "model-")
		if !ok {
			continue
		}
		if text, ok = strings.CutSuffix(text, ".safetensors"); !ok {
			continue
		}
		step, _, _ := strings.Cut(text, ".")
		if n, err := strconv.Atoi(step); err == nil && n >= 0 && step == fmt.Sprintf("%07d", n) {
			all = append(all, filepath.Join(path, e.Name()))
		}
	}
	return all, nil
}

// Prune removes all but the last keep files with that prefix.
func (d *Dir) Prune(prefix string, keep int) error {
	steps, err := d.Steps(prefix)
	if err != nil {
		return err
	}
	var paths []string
	for _, n := range steps[:max(0, len(steps)-keep)] {
		paths = append(paths, d.File(fmt.Sprintf("%s-%07d.safetensors", prefix, n)))
	}
	return remove(paths)
}

// PruneSnapshots removes all snapshots except those of the last keep steps, with all EMA weights.
func (d *Dir) PruneSnapshots(keep int) error {
	steps, err := d.Steps("model")
	if err != nil || len(steps) <= keep {
		return err
	}
	first := steps[len(steps)-keep]
	all, err := Snapshots(d.path)
	if err != nil {
		return err
	}
	return remove(slices.DeleteFunc(all, func(path string) bool { return stepOf(path) >= first }))
}

// Record appends one object to stats.jsonl. CutStats goes by its "step".
func (d *Dir) Record(values map[string]any) error {
	text, err := json.Marshal(values)
	if err != nil {
		return fmt.Errorf("stats: %w", err)
	}
	if _, err := d.stats.Write(append(text, '\n')); err != nil {
		return fmt.Errorf("stats: %w", err)
	}
	return nil
}

// Recorded reports whether stats.jsonl has a line of a step with that entry.
func (d *Dir) Recorded(step int, entry string) bool {
	f, err := os.Open(d.File("stats.jsonl"))
	if err != nil {
		return false
	}
	defer f.Close()
	for dec := json.NewDecoder(f); ; {
		var line map[string]any
		if err := dec.Decode(&line); err != nil {
			return false
		}
		if at, ok := line["step"].(float64); ok && int(at) == step && line[entry] != nil {
			return true
		}
	}
}

// Forget removes the checkpoints of later steps than after. It keeps snapshots, which may be all that is left of a run.
func (d *Dir) Forget(after int) error {
	steps, err := d.Steps("state")
	if err != nil {
		return err
	}
	var paths []string
	for _, n := range steps {
		if n > after {
			paths = append(paths, d.State(n))
		}
	}
	return remove(paths)
}

// stepOf returns the step of a snapshot's path.
func stepOf(path string) int {
	digits, _, _ := strings.Cut(strings.TrimPrefix(filepath.Base(path), "model-"), ".")
	n, _ := strconv.Atoi(digits) // Snapshots has checked it
	return n
}

func remove(paths []string) error {
	for _, path := range paths {
		if err := os.Remove(path); err != nil {
			return fmt.Errorf("run directory: %w", err)
		}
	}
	return nil
}

// CutStats removes the lines of later steps from stats.jsonl, and an incomplete last line of a killed run. cut reports whether there were
// any.
func (d *Dir) CutStats(step int) (cut bool, err error) {
	old, err := plainfile.Read(d.File("stats.jsonl"), maxStats)
	if err != nil {
		return false, fmt.Errorf("stats: %w", err)
	}
	var kept []byte
	for line := range bytes.Lines(old) {
		var at struct {
			Step int `json:"step"`
		}
		if line[len(line)-1] == '\n' && json.Unmarshal(line, &at) == nil && at.Step <= step {
			kept = append(kept, line...)
		}
	}
	if bytes.Equal(kept, old) {
		return false, nil
	}
	if err := Write(d.File("stats.jsonl"), kept); err != nil {
		return true, fmt.Errorf("stats: %w", err)
	}
	f, err := d.appendTo("stats.jsonl")
	if err != nil {
		return true, fmt.Errorf("stats: %w", err)
	}
	err = d.stats.Close()
	d.stats = f
	return true, err
}

// WriteJSON writes a value as indented JSON atomically, and replaces an existing file or link.
func WriteJSON(path string, v any) error {
	text, err := json.MarshalIndent(v, "", "  ")
	if err != nil {
		return err
	}
	return Write(path, append(text, '\n'))
}

// Write writes a file atomically, and replaces an existing file or link.
func Write(path string, data []byte) error {
	return atomicfile.WriteBytes(path, atomicfile.Options{Overwrite: true, Durable: true}, data)
}

// Unlink removes a symbolic link at the path of a file of the run, so that writing the file does not replace the link's target.
func (d *Dir) Unlink(path string) error {
	if st, err := os.Lstat(path); err == nil && st.Mode()&fs.ModeSymlink != 0 {
		return os.Remove(path)
	}
	return nil
}
