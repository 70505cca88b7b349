package kernel

import (
	"fmt"
	"os"
	"path/filepath"
	"strconv"
	"strings"
	"testing"

	"github.com/belay-project/belay/internal/verdict"
)

const (
	filesReadPolicy = "  files: {rules: [{paths: [/home/app/.ssh/id_rsa], deny: [read]}]}\n"
	filesTreePolicy = "  files: {readOnly: [/home/app/.ssh]}\n"
)

// fileCases play the attacks on keys too: here a rule on a path is what stops them.
func fileCases() []attackCase {
	var out []attackCase
	add := func(policy string, volume bool, names ...string) {
		for _, n := range names {
			out = append(out, attackCase{name: n, rule: verdict.RuleFiles, policy: policy, volume: volume, want: bySignal(unsupported)})
		}
	}
	add(filesReadPolicy, false, "keys-read", "keys-procroot", "keys-symlink", "keys-hardlink", "keys-rename", "keys-opath", "keys-uring",
		"file-chroot", "file-copyup", "file-proccwd")
	add("  files: {rules: [{paths: [/home/app/.ssh], deny: [delete]}]}\n", false, "file-deep")
	add(filesTreePolicy, false, "auth-write", "auth-truncate", "auth-replace", "file-create", "file-mkdir", "file-mknod", "file-symlink",
		"file-tmpfile", "file-unlink", "file-chmod", "file-fchmod", "file-chown", "file-xattr", "file-acl", "file-trunc", "file-into",
		"file-exchange", "file-fdroot", "file-fd", "file-bind", "file-uring", "file-splice", "file-utimes", "file-flags")
	add("  files: {readOnly: [/etc]}\n", false, "file-plant")
	add("  files: {rules: [{paths: [/etc/shadow], deny: [read]}]}\n", false, "file-shadow")
	// Of a volume the mount is walked, and not the file system alone.
	add(filesReadPolicy, true, "keys-read", "keys-renamedir", "keys-hardlink", "keys-procroot", "file-copyrange", "file-handle", "file-move")
	add(filesTreePolicy, true, "auth-write", "file-create", "file-unlink", "file-chmod", "file-renamedir", "file-into", "file-exchange",
		"file-tmpfile", "file-trunc", "file-fd", "file-bind", "file-uring", "file-xattr", "file-acl", "file-utimes", "file-flags")
	for i := range out {
		switch out[i].name {
		case "file-handle":
			out[i].flags = []string{"--uid", "0", "--cap-add", "DAC_READ_SEARCH"}
		case "file-move":
			out[i].flags = asAdmin
		case "file-plant", "file-shadow":
			out[i].flags = []string{"--uid", "0"}
		}
	}
	return out
}

func (c attackCase) title() string {
	if c.volume {
		return c.name + " on a volume"
	}
	if c.bound {
		return c.name + " under its own policy"
	}
	return c.name
}

// Enforced, each attack on a file is refused and recorded.
func TestFilesEnforced(t *testing.T) {
	h := get(t)
	for _, c := range fileCases() {
		t.Run(c.title(), func(t *testing.T) { enforced(t, h, c) })
	}
}

// Audited, each passes and is reported.
func TestFilesAudited(t *testing.T) {
	h := get(t)
	for _, c := range fileCases() {
		t.Run(c.title(), func(t *testing.T) { audited(t, h, c) })
	}
}

// Times and attributes on volumes are ordinary work, with more mounts of one file system than an object is
// looked for on; and so is what overlayfs does with them on a layer of that file system.
func TestFilesQuietAttributes(t *testing.T) {
	h := get(t)
	h.enact(t, document("tree", "enforce", "  files: {readOnly: [/home/app/.ssh]}\n"))
	dir := filepath.Join(h.dir, "quiet-"+newID()[:8])
	upper := filepath.Join(dir, "upper")
	if err := os.MkdirAll(upper, 0o755); err != nil {
		t.Fatal(err)
	}
	flags := []string{"--uid", "0", "--cap-add", "SYS_ADMIN", "--upper", upper}
	for i := range 6 {
		v := filepath.Join(dir, strconv.Itoa(i))
		if err := os.Mkdir(v, 0o755); err != nil {
			t.Fatal(err)
		}
		flags = append(flags, "--bind", fmt.Sprintf("%s:/v%d", v, i))
	}
	for name, script := range map[string]string{
		"volume":  "for v in 0 1 5; do echo x > /v$v/a && touch -d '2020-01-01 00:00:00' /v$v/a && ls -l /v$v/a | grep -q 2020 && cp -p /v$v/a /v$v/b && tar cf /v$v/t -C /v$v a && tar xf /v$v/t -C /tmp; done",
		"copy-up": "echo x >> /home/app/bin/id && mkdir /home/app/new && mv /home/app/bin /home/app/was && rm -r /home/app/was && mkdir /home/app/bin && touch -d '2020-01-01 00:00:00' /etc/passwd && ls -l /etc/passwd | grep -q 2020",
	} {
		t.Run(name, func(t *testing.T) {
			for _, d := range []string{"upper", "work"} {
				if err := os.RemoveAll(filepath.Join(upper, d)); err != nil {
					t.Fatal(err)
				}
			}
			r := h.run(t, flags, "/bin/sh", "-c", script)
			ran(t, r)
			h.none(t, r.id)
		})
	}
}

// Ordinary work beside a protected tree causes no record, nor does the start of a container
// whose mount points the runtime makes in one.
func TestFilesQuiet(t *testing.T) {
	h := get(t)
	h.enact(t, shipped(t, "files-system.yaml")+"---\n"+document("more", "enforce", "  files: {readOnly: [/proc/sys]}\n"))
	for name, command := range map[string][]string{
		"program":  {"/bin/id"},
		"files":    {"/bin/sh", "-c", "cd /tmp && mkdir a && echo x > a/b && mv a/b a/c && ln a/c a/d && ln -s a/c e && chmod 600 a/c && rm -r a e"},
		"pipes":    {"/bin/sh", "-c", "echo hi | cat > /dev/null; echo x > /proc/self/fd/1; cat /etc/passwd >/dev/null 2>&1; true"},
		"mapped":   {"/bin/sh", "-c", "cp /bin/dyn-id /tmp/c && /bin/dyn-id && /bin/id"},
		"tar":      {"/bin/sh", "-c", "cd /tmp && tar cf t.tar -C /bin . && mkdir o && tar xf t.tar -C o && rm -r o t.tar"},
		"dyn-exec": {"/bin/dyn-id"},
	} {
		t.Run(name, func(t *testing.T) {
			r := h.run(t, asUser, command...)
			ran(t, r)
			h.none(t, r.id)
		})
	}
}

// A descriptor that was opened before the rule came can neither be mapped nor handed over
// for what the rule denies.
func TestFilesOpenedBefore(t *testing.T) {
	h := get(t)
	for _, name := range []string{"file-mmap", "file-mprotect", "file-receive"} {
		for _, mode := range []string{"enforce", "audit", ""} {
			t.Run(name+" mode "+mode, func(t *testing.T) {
				id, said := h.stepped(t, name, mode, filesTreePolicy)
				signal := h.kernel.Backend() == verdict.BackendSignal
				if won := strings.Contains(said, "WON"); won != (mode != "enforce" || signal) {
					t.Errorf("won %v: %s", won, said)
				}
				h.remove(t, id)
				if mode == "" || signal {
					h.none(t, id)
					return
				}
				want := verdict.Denied
				if mode == "audit" {
					want = verdict.WouldDeny
				}
				evs := h.take(id, verdict.RuleFiles)
				if len(evs) == 0 {
					t.Fatalf("no record; it said %s", said)
				}
				if evs[0].Decision != want || evs[0].Hook == "file_open" {
					t.Errorf("%s at %s, want %s at another hook than the open's", evs[0].Decision, evs[0].Hook, want)
				}
			})
		}
	}
}
