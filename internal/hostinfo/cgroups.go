package hostinfo

import (
	"bufio"
	"os"
	"path/filepath"
	"strings"
)

// CgroupMount is where a hierarchy of cgroups is mounted whole.
type CgroupMount struct {
	Dir string
	V2  bool
	// options of the file system, in which those of version 1 have their controllers.
	options string
}

// Has tells whether a hierarchy of version 1 has a controller. Those of version 2 say it in their
// file cgroup.controllers.
func (m CgroupMount) Has(controller string) bool {
	return !m.V2 && strings.Contains(","+m.options+",", ","+controller+",")
}

// CgroupMounts returns where hierarchies of cgroups are mounted, in the order of the mounts. Only
// whole ones count: what a container sees of them is not where other containers are.
//
// Source: /proc/self/mountinfo, proc_pid_mountinfo(5), cgroups(7).
// Errors: *[os.PathError], or one of reading.
// Safe for concurrent use.
func (h Host) CgroupMounts() ([]CgroupMount, error) {
	f, err := os.Open(filepath.Join(h.proc(), "self/mountinfo"))
	if err != nil {
		return nil, err
	}
	defer f.Close()
	var out []CgroupMount
	sc := bufio.NewScanner(f)
	sc.Buffer(nil, 1<<20)
	for sc.Scan() {
		pre, post, ok := strings.Cut(sc.Text(), " - ")
		left, right := strings.Fields(pre), strings.Fields(post)
		if !ok || len(left) < 5 || len(right) < 3 || left[3] != "/" {
			continue
		}
		switch right[0] {
		case "cgroup2":
			out = append(out, CgroupMount{Dir: left[4], V2: true})
		case "cgroup":
			out = append(out, CgroupMount{Dir: left[4], options: right[2]})
		}
	}
	return out, sc.Err()
}
