// Package memory reads how much memory is available to the process, by the kernel and the limits on the process, so that a program can
// refuse work that does not fit instead of being killed.
package memory

import (
	"fmt"
	"io/fs"
	"math"
	"os"
	"path"
	"strconv"
	"strings"

	"golang.org/x/sys/unix"
)

// Space is available memory.
type Space struct {
	Bytes int64
	Limit string // what bounds it: "the machine", "the control group", "the address space limit (ulimit -v)"
}

// Available returns the minimum of the machine's available memory (MemAvailable plus free swap) and what is left of the limits of the
// process's control groups (v1 and v2), RLIMIT_AS and RLIMIT_DATA. ok is false if none of these can be read.
func Available() (space Space, ok bool) {
	var l limits
	for resource, to := range map[int]*uint64{unix.RLIMIT_AS: &l.addresses, unix.RLIMIT_DATA: &l.data} {
		var r unix.Rlimit
		if unix.Getrlimit(resource, &r) == nil {
			*to = r.Cur
		}
	}
	return available(os.DirFS("/"), l)
}

// limits are the process's limits in bytes; 0 or a huge number: none.
type limits struct{ addresses, data uint64 }

func available(root fs.FS, l limits) (space Space, ok bool) {
	space.Bytes = math.MaxInt64
	take := func(bytes int64, limit string) {
		if bytes = max(bytes, 0); bytes < space.Bytes {
			space, ok = Space{bytes, limit}, true
		}
	}
	info := table(root, "proc/meminfo")
	if v, there := info["MemAvailable"]; there {
		take((v+info["SwapFree"])*1024, "the machine")
	}
	for _, g := range groups(root) {
		if left, there := g.left(root); there {
			take(left, "the control group")
		}
	}
	status := table(root, "proc/self/status")
	if l.addresses > 0 && l.addresses < math.MaxInt64 {
		take(int64(l.addresses)-status["VmSize"]*1024+setAside(root), "the address space limit (ulimit -v)")
	}
	if l.data > 0 && l.data < math.MaxInt64 {
		take(int64(l.data)-status["VmData"]*1024, "the data size limit (ulimit -d)")
	}
	return space, ok
}

// setAside is address space reserved for tensors and not in use: inaccessible mappings of 1 GiB or more, which only the allocator makes.
func setAside(root fs.FS) (bytes int64) {
	data, err := fs.ReadFile(root, "proc/self/maps")
	if err != nil {
		return 0
	}
	for line := range strings.Lines(string(data)) {
		f := strings.Fields(line)
		if len(f) != 5 || f[1] != "---p" { // a mapping of a file has more fields
			continue
		}
		from, to, _ := strings.Cut(f[0], "-")
		a, err := strconv.ParseUint(from, 16, 64)
		b, err2 := strconv.ParseUint(to, 16, 64)
		if err == nil && err2 == nil && b > a && b-a >= 1<<30 && b-a < 1<<62 {
			bytes += int64(b - a)
		}
	}
	return bytes
}

// group is one level of the process's control groups.
type group struct {
	dir                   string
	limit, usage, pageKey string // names of its files, and the key of file pages in memory.stat
}

// groups lists the process's group and its parents, of both versions.
func groups(root fs.FS) (all []group) {
	data, err := fs.ReadFile(root, "proc/self/cgroup")
	if err != nil {
		return nil
	}
	for line := range strings.Lines(string(data)) {
		parts := strings.SplitN(strings.TrimSpace(line), ":", 3)
		if len(parts) != 3 {
			continue
		}
		g := group{"sys/fs/cgroup", "memory.max", "memory.current", "file"}
		if parts[0] != "0" || parts[1] != "" {
			if !strings.Contains(","+parts[1]+",", ",memory,") {
				continue
			}
			g = group{"sys/fs/cgroup/memory", "memory.limit_in_bytes", "memory.usage_in_bytes", "total_cache"}
		}
		// In a container the path may be the host's, with the group mounted at the root.
		for at := path.Join("/", parts[2]); ; at = path.Dir(at) {
			one := g
			one.dir = path.Join(g.dir, at)
			all = append(all, one)
			if at == "/" {
				break
			}
		}
	}
	return all
}

// left is what remains of the group's limit. File pages can be dropped, so they count as free.
func (g group) left(root fs.FS) (int64, bool) {
	limit, ok := number(root, path.Join(g.dir, g.limit))
	usage, there := number(root, path.Join(g.dir, g.usage))
	if !ok || !there || limit >= 1<<60 { // version 1 writes a huge number for none
		return 0, false
	}
	stat := table(root, path.Join(g.dir, "memory.stat"))
	pages := stat[g.pageKey] - stat["shmem"] - stat["total_shmem"]
	return limit - usage + max(0, pages), true
}

func number(root fs.FS, name string) (int64, bool) {
	data, err := fs.ReadFile(root, name)
	if err != nil {
		return 0, false
	}
	v, err := strconv.ParseInt(strings.TrimSpace(string(data)), 10, 64) // "max": no limit
	return v, err == nil
}

// table reads lines of a name and a number.
func table(root fs.FS, name string) map[string]int64 {
	out := map[string]int64{}
	data, err := fs.ReadFile(root, name)
	if err != nil {
		return out
	}
	for line := range strings.Lines(string(data)) {
		if f := strings.Fields(line); len(f) >= 2 {
			if v, err := strconv.ParseInt(f[1], 10, 64); err == nil {
				out[strings.TrimSuffix(f[0], ":")] = v
			}
		}
	}
	return out
}

// Size writes a number of bytes as "1.5 GiB".
func Size(bytes float64) string {
	units := []string{"B", "KiB", "MiB", "GiB", "TiB", "PiB", "EiB"}
	i := 0
	for ; bytes >= 1024 && i < len(units)-1; i++ {
		bytes /= 1024
	}
	if i == 0 || bytes >= 100 {
		return fmt.Sprintf("%.0f %s", bytes, units[i])
	}
	return fmt.Sprintf("%.1f %s", bytes, units[i])
}
