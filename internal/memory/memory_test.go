package memory

import (
	"math"
	"testing"
	"testing/fstest"

	"github.com/stretchr/testify/require"
)

func files(list map[string]string) fstest.MapFS {
	out := fstest.MapFS{}
	for name, data := range list {
		out[name] = &fstest.MapFile{Data: []byte(data)}
	}
	return out
}

// The smallest of all limits holds, in each version of control groups, at each level of them.
func TestAvailable(t *testing.T) {
	machine := "MemTotal: 2000 kB\nMemAvailable:    1000 kB\nSwapFree: 24 kB\n"
	for name, c := range map[string]struct {
		files  map[string]string
		limits limits
		want   int64
		limit  string
	}{
		"machine": {map[string]string{"proc/meminfo": machine}, limits{math.MaxUint64, math.MaxUint64}, 1024 * 1024, "the machine"},
		"v2, pages of files can go": {map[string]string{"proc/meminfo": machine, "proc/self/cgroup": "0::/a/b\n",
			"sys/fs/cgroup/a/b/memory.max": "max\n", "sys/fs/cgroup/a/b/memory.current": "5\n",
			"sys/fs/cgroup/a/memory.max": "1000\n", "sys/fs/cgroup/a/memory.current": "600\n", "sys/fs/cgroup/a/memory.stat": "anon 400\nfile 100\nshmem 30\n"},
			limits{}, 470, "the control group"},
		"v1, mounted at the top": {map[string]string{"proc/meminfo": machine, "proc/self/cgroup": "5:cpu:/x\n4:memory:/docker/abc\n",
			"sys/fs/cgroup/memory/memory.limit_in_bytes": "5000\n", "sys/fs/cgroup/memory/memory.usage_in_bytes": "6000\n"}, limits{}, 0, "the control group"},
		"v1 without a limit": {map[string]string{"proc/meminfo": machine, "proc/self/cgroup": "4:memory:/\n",
			"sys/fs/cgroup/memory/memory.limit_in_bytes": "9223372036854771712\n", "sys/fs/cgroup/memory/memory.usage_in_bytes": "6000\n"},
			limits{}, 1024 * 1024, "the machine"},
		"ulimit -v": {map[string]string{"proc/self/status": "VmSize:  2 kB\nVmData: 1 kB\n"}, limits{4096, 1 << 20}, 2048, "the address space limit (ulimit -v)"},
		"ulimit -v, kept for tensors": {map[string]string{"proc/self/status": "VmSize:  4194304 kB\n", "proc/self/maps": "" +
			"1000-2000 rw-p 00000000 00:00 0\n7f0000000000-7f0080000000 ---p 00000000 00:00 0\n7f1000000000-7f1010000000 ---p 00000000 00:00 0\n" +
			"7f2000000000-7f2080000000 ---p 00000000 00:00 0 /lib/x.so\n"}, limits{5 << 30, 0}, 3 << 30, "the address space limit (ulimit -v)"},
		"ulimit -d": {map[string]string{"proc/self/status": "VmSize:  9 kB\nVmData: 1 kB\n"}, limits{1 << 20, 4096}, 3072, "the data size limit (ulimit -d)"},
	} {
		got, ok := available(files(c.files), c.limits)
		require.True(t, ok, name)
		require.Equal(t, Space{c.want, c.limit}, got, name)
	}
	_, ok := available(files(nil), limits{})
	require.False(t, ok)
	here, ok := Available()
	require.True(t, ok)
	require.Positive(t, here.Bytes)
}

func TestSize(t *testing.T) {
	require.Equal(t, "512 B", Size(512))
	require.Equal(t, "1.5 GiB", Size(1.5*(1<<30)))
	require.Equal(t, "1000 MiB", Size(1000*(1<<20)))
}
