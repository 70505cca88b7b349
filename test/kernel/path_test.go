package kernel

import (
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"strconv"
	"strings"
	"testing"

	"golang.org/x/sys/unix"

	"github.com/belay-project/belay/internal/ident"
	"github.com/belay-project/belay/internal/verdict"
)

func allowOnly(paths ...string) string {
	return document("allow", "enforce", "  exec: {allow: ["+strings.Join(paths, ", ")+"]}\n")
}

func denyOnly(paths ...string) string {
	return document("deny", "enforce", "  exec: {deny: ["+strings.Join(paths, ", ")+"]}\n")
}

func TestPathRules(t *testing.T) {
	h := get(t)
	for _, c := range []struct {
		name, policy string
		command      []string
		rule         verdict.Rule // RuleNone: it runs
	}{
		{"exact deny", denyOnly("/bin/id"), []string{"/bin/id"}, verdict.RulePathDeny},
		{"exact deny, other file", denyOnly("/bin/id"), []string{"/bin/attack", "list"}, verdict.RuleNone},
		{"usrmerge spelling", denyOnly("/usr/bin/id"), []string{"/bin/id"}, verdict.RulePathDeny},
		{"tree deny", denyOnly("/bin/**"), []string{"/bin/id"}, verdict.RulePathDeny},
		{"tree of everything", denyOnly("/**"), []string{"/bin/id"}, verdict.RulePathDeny},
		{"tree deny, deep", denyOnly("/home/**"), []string{"/home/app/bin/id"}, verdict.RulePathDeny},
		{"tree deny, elsewhere", denyOnly("/home/**"), []string{"/bin/id"}, verdict.RuleNone},
		{"child deny", denyOnly("/home/app/bin/*"), []string{"/home/app/bin/id"}, verdict.RulePathDeny},
		{"child deny, deeper", denyOnly("/home/app/*"), []string{"/home/app/bin/id"}, verdict.RuleNone},
		{"prefix is no tree", denyOnly("/home/app/bi/**"), []string{"/home/app/bin/id"}, verdict.RuleNone},
		{"exact allow", allowOnly("/bin/id"), []string{"/bin/id"}, verdict.RuleNone},
		{"exact allow, other file", allowOnly("/bin/id"), []string{"/bin/attack", "list"}, verdict.RulePathAllow},
		{"tree allow", allowOnly("/bin/**"), []string{"/bin/attack", "list"}, verdict.RuleNone},
		{"allow and deny", document("both", "enforce", "  exec: {allow: [/bin/**], deny: [/bin/id]}\n"), []string{"/bin/id"}, verdict.RulePathDeny},
	} {
		t.Run(c.name, func(t *testing.T) {
			h.enact(t, c.policy)
			r := h.run(t, asUser, c.command...)
			if c.rule == verdict.RuleNone {
				ran(t, r)
				h.none(t, r.id)
				return
			}
			h.stopped(t, r, c.rule)
		})
	}
}

// E5: a denied program of the image cannot be run by the loader either, where mappings are
// seen.
func TestDeniedByLoader(t *testing.T) {
	h := get(t)
	h.enact(t, denyOnly("/bin/dyn-id"))
	loader := []string{"/bin/sh", "-c", "for l in /lib64/ld-linux-x86-64.so.2 /lib/ld-linux-aarch64.so.1; do [ ! -e $l ] || exec $l /bin/dyn-id; done"}
	r := h.run(t, asUser, loader...)
	if h.kernel.Backend() == verdict.BackendSignal {
		ran(t, r) // stated in docs/kernel-support.md
		return
	}
	h.stopped(t, r, verdict.RulePathDeny)
	h.enact(t, denyOnly("/bin/id"))
	ran(t, h.run(t, asUser, loader...))
}

// F4: a path of any depth is judged whole or denied.
func TestDeepPath(t *testing.T) {
	h := get(t)
	script := func(depth int) []string {
		return []string{"/bin/sh", "-c", fmt.Sprintf(
			"cd /tmp; i=0; while [ $i -lt %d ]; do mkdir d && cd d || exit 9; i=$((i+1)); done; cp /bin/id . && exec ./id", depth)}
	}
	h.enact(t, denyOnly("/opt/**"))
	ran(t, h.run(t, asUser, script(40)...))
	h.stopped(t, h.run(t, asUser, script(80)...), verdict.RulePathDeny)
	h.enact(t, denyOnly("/tmp/**"))
	h.stopped(t, h.run(t, asUser, script(40)...), verdict.RulePathDeny)
}

// Names of every length up to NAME_MAX are compared whole.
func TestLongNames(t *testing.T) {
	h := get(t)
	long := strings.Repeat("n", 255)
	for _, name := range []string{long, long[:254] + "x", long[:248], long[:7], long[:8], long[:9]} {
		h.enact(t, denyOnly("/tmp/"+long))
		r := h.run(t, asUser, "/bin/sh", "-c", fmt.Sprintf("cp /bin/id /tmp/%s && /tmp/%s; echo code $?", name, name))
		if denied := !strings.Contains(r.out, "code 0"); denied != (name == long) {
			t.Errorf("name of %d bytes: %v", len(name), r)
		}
	}
}

// E3: a rule on a path is bound to the file's inode when the container has started, so
// another name of the same file is denied too. (A hard link to a file of the image is a
// copy in the writable layer: the drift rule's.)
func TestInodeBinding(t *testing.T) {
	h := get(t)
	vol := filepath.Join(h.dir, "linked")
	if err := os.MkdirAll(vol, 0o777); err != nil {
		t.Fatal(err)
	}
	id, err := os.ReadFile(filepath.Join(h.rootfs, "bin", "id"))
	if err != nil {
		t.Fatal(err)
	}
	if err := errors.Join(os.WriteFile(filepath.Join(vol, "id"), id, 0o755), os.Chown(vol, 1000, 1000), os.Chown(filepath.Join(vol, "id"), 1000, 1000)); err != nil {
		t.Fatal(err)
	}
	h.enact(t, denyOnly("/v/id"))
	c := h.run(t, append([]string{"--detach", "--bind", vol + ":/v"}, asUser...), "/bin/sleep", "100")
	ran(t, c)
	defer h.remove(t, c.id)
	pid := firstPID(t, filepath.Join(cgroupMount(t), h.scope, c.id))
	problems, err := h.kernel.BindInodes(ident.ContainerID(c.id), "/proc/"+strconv.Itoa(pid)+"/root")
	if err != nil || len(problems) != 0 {
		t.Fatalf("bind: %v %v", problems, err)
	}
	r := h.exec(t, c.id, asUser, "/bin/sh", "-c", "ln /v/id /v/other && /v/other; echo code $?")
	if strings.Contains(r.out, "code 0") {
		t.Fatalf("a hard link of a denied file ran: %v", r)
	}
	r.id, r.code = c.id, 1
	h.stopped(t, r, verdict.RulePathDeny)
}

// E4: a rule on a name of a multi-call program is refused with a clear message, and
// falls on nothing else.
func TestMulticall(t *testing.T) {
	h := get(t)
	h.enact(t, denyOnly("/bin/wget"))
	c := h.run(t, append([]string{"--detach"}, asUser...), "/bin/sleep", "100")
	ran(t, c)
	defer h.remove(t, c.id)
	pid := firstPID(t, filepath.Join(cgroupMount(t), h.scope, c.id))
	problems, err := h.kernel.BindInodes(ident.ContainerID(c.id), "/proc/"+strconv.Itoa(pid)+"/root")
	if err != nil {
		t.Fatal(err)
	}
	if len(problems) == 0 || !strings.Contains(problems[0], "multi-call program") {
		t.Errorf("problems %q, want one that names the multi-call program", problems)
	}
	ran(t, h.exec(t, c.id, asUser, "/bin/ls", "/"))
}

// Under memfd: programs what exists in memory only does not start, nor by the loader, and code may be written
// through shared mappings, as compilers of Erlang and .NET do.
func TestMemfdPrograms(t *testing.T) {
	h := get(t)
	mapped, compiled := []string{"/bin/attack", "--dir", "/dev/shm", "e5-mmap"}, []string{"/bin/prim", "jit"}
	seen := h.kernel.Backend() != verdict.BackendSignal // which sees no mapping
	h.enact(t, document("strict", "enforce", memfdPolicy))
	if r := h.run(t, asUser, compiled...); seen {
		h.stopped(t, r, verdict.RuleMemfd)
	}
	h.enact(t, document("lenient", "enforce", "  exec: {memfd: programs}\n"))
	r := h.run(t, asUser, compiled...)
	ran(t, r)
	h.none(t, r.id)
	if r := h.run(t, asUser, mapped...); seen {
		h.stopped(t, r, verdict.RuleMemfd)
	}
	h.stopped(t, h.run(t, asUser, "/bin/attack", "e7-memfd"), verdict.RuleMemfd)
}

// Volumes present at the start, and helpers of the runtime.
func TestVolumes(t *testing.T) {
	h := get(t)
	vol := filepath.Join(h.dir, "volume")
	if err := os.MkdirAll(vol, 0o755); err != nil {
		t.Fatal(err)
	}
	id, err := os.ReadFile(filepath.Join(h.rootfs, "bin", "id"))
	if err != nil {
		t.Fatal(err)
	}
	// on a file system that is no tmpfs, where TMPDIR may be one
	if err := os.WriteFile(filepath.Join(vol, "id"), id, 0o755); err != nil {
		t.Fatal(err)
	}
	rw, ro := append([]string{"--bind", vol + ":/v"}, asUser...), append([]string{"--bind", vol + ":/v:ro"}, asUser...)
	onTmpfs := fsType(t, vol) == tmpfsMagic
	for _, c := range []struct {
		volumes string
		rw, ro  bool // runs
	}{
		{"deny", false, false}, {"readOnly", false, true}, {"allow", true, true},
	} {
		t.Run(c.volumes, func(t *testing.T) {
			h.enact(t, document("v", "enforce", fmt.Sprintf("  exec: {drift: deny, memfd: allow, volumes: %s}\n", c.volumes)))
			for what, x := range map[string]struct {
				flags []string
				runs  bool
			}{"rw": {rw, c.rw}, "ro": {ro, c.ro}} {
				r := h.run(t, x.flags, "/v/id")
				switch {
				case onTmpfs || x.runs: // a tmpfs is the memfd rule's, which is off here
					if r.code != 0 {
						t.Errorf("%s: %v", what, r)
					}
				default:
					h.stopped(t, r, verdict.RuleDrift)
				}
			}
		})
	}
	t.Run("helper", func(t *testing.T) {
		h.enact(t, document("v", "enforce", "  exec: {drift: deny, volumes: deny}\n"))
		if _, err := h.kernel.SetHelpers([]string{filepath.Join(vol, "id")}); err != nil {
			t.Fatal(err)
		}
		if !onTmpfs {
			ran(t, h.run(t, ro, "/v/id"))
		}
	})
}

// A container that mounts something keeps its own paths, and gets no others by it: neither
// for what it mounts, nor by turning to a root of its own making.
func TestPathsAfterMount(t *testing.T) {
	h := get(t)
	admin := append([]string{"--cap-add", "SYS_ADMIN"}, "--uid", "0")
	h.enact(t, denyOnly("/opt/x"))
	r := h.run(t, admin, "/bin/sh", "-c", "mkdir /mnt && /bin/dyn-id && mount -t tmpfs none /mnt && /bin/dyn-id")
	ran(t, r)
	h.none(t, r.id)
	h.enact(t, denyOnly("/bin/id"))
	for name, script := range map[string]string{
		"after a mount":      "mkdir /mnt && mount -t tmpfs none /mnt && exec /bin/id",
		"bound elsewhere":    "mkdir /mnt && mount --bind /bin /mnt && exec /mnt/id",
		"a root of its own":  "mkdir /mnt && mount --bind / /mnt && cd /mnt && mkdir -p tmp/old && pivot_root . tmp/old && exec /bin/id",
		"a part of the root": "mkdir -p /mnt /usr/n/bin && mount --bind /bin /usr/n/bin && mount --rbind /usr/n /mnt && cd /mnt && mkdir old && pivot_root . old && cp bin/id bin/x; exec bin/id",
	} {
		t.Run(name, func(t *testing.T) {
			r := h.run(t, admin, "/bin/sh", "-c", script)
			if name == "bound elsewhere" && h.kernel.Backend() == verdict.BackendSignal && !uniqueMountIDs(t) {
				ran(t, r) // stated in docs/kernel-support.md
				return
			}
			h.stopped(t, r, verdict.RulePathDeny)
		})
	}
}

// uniqueMountIDs: this kernel (6.8 and newer) never uses a mount's number again, so that a
// mount made after the start is known by it.
func uniqueMountIDs(t *testing.T) bool {
	t.Helper()
	var st unix.Statx_t
	if err := unix.Statx(unix.AT_FDCWD, "/", 0, unix.STATX_MNT_ID_UNIQUE, &st); err != nil {
		t.Fatal(err)
	}
	return st.Mask&unix.STATX_MNT_ID_UNIQUE != 0
}
