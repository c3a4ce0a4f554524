package job

import (
	"fmt"
	"runtime"

	"github.com/onestep-go/onestep/internal/plural"
	"github.com/onestep-go/onestep/torch"
	"github.com/onestep-go/onestep/training/rundir"
)

const mostThreads = 4096

// threads limits a number of threads to the processors that the process may use, with a notice.
func threads(n int) (bounded int, notice string) {
	if most := runtime.NumCPU(); n > most {
		return most, fmt.Sprintf("--threads %d exceeds the %s available to this process: using as many threads as processors", n, plural.N(most, "processor"))
	}
	return n, ""
}

// threadsOf returns the number of threads in options, as options.json has it; 0: none.
func threadsOf(all map[string]any) int {
	if v, ok := all["threads"].(float64); ok && v >= 1 && v <= mostThreads && v == float64(int(v)) {
		return int(v)
	}
	return 0
}

// threadsToResume returns the number of threads for a run: n or, if that is 0, that of the run that is resumed in a directory. A sum depends in
// its last bits on how it is divided among threads, so note says if the run had another number.
func threadsToResume(out string, dev torch.Device, n int) (threads int, note string) {
	all, err := rundir.ReadOptions(out)
	if err != nil {
		return n, ""
	}
	was := threadsOf(all)
	if n == 0 || n == was {
		return was, ""
	}
	if steps, err := rundir.Steps(out, "state"); err != nil || len(steps) == 0 || dev.IsCUDA() || was == 0 && n == runtime.NumCPU() {
		return n, ""
	}
	before := "as many as processors"
	if was > 0 {
		before = fmt.Sprint(was)
	}
	return n, fmt.Sprintf("the run had other --threads until now (%s, now %d): its results will differ in rounding from those of a run with the same number throughout", before, n)
}
