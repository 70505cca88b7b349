package hostinfo

import "testing"

// Whole hierarchies are told in their order, each of version 1 with its controllers; what a
// container sees of one, and other mounts, are not.
func TestCgroupMounts(t *testing.T) {
	h := Host{Proc: fakeProc(t, map[string]string{"self/mountinfo": `25 1 0:22 / /sys rw - sysfs sysfs rw
30 25 0:26 / /sys/fs/cgroup/unified rw - cgroup2 cgroup2 rw,nsdelegate
31 25 0:27 / /sys/fs/cgroup/cpu rw - cgroup cgroup rw,cpu,cpuacct
32 25 0:28 /docker/x /sys/fs/cgroup/memory rw - cgroup cgroup rw,memory
a line of another form
`})}
	got, err := h.CgroupMounts()
	if err != nil || len(got) != 2 {
		t.Fatalf("%+v, %v", got, err)
	}
	if m := got[0]; !m.V2 || m.Dir != "/sys/fs/cgroup/unified" || m.Has("cpu") {
		t.Errorf("%+v", m)
	}
	if m := got[1]; m.V2 || !m.Has("cpu") || !m.Has("cpuacct") || m.Has("acct") || m.Has("memory") {
		t.Errorf("%+v", m)
	}
	if _, err := (Host{Proc: t.TempDir()}).CgroupMounts(); err == nil {
		t.Error("no list of mounts is no error")
	}
}
