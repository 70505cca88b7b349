package kernel

import (
	"errors"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strings"
	"testing"
	"time"

	"golang.org/x/sys/unix"

	"github.com/belay-project/belay/internal/enforce"
	"github.com/belay-project/belay/internal/verdict"
)

// judged tells whether reads and writes by descriptors are judged now.
func (h *host) judged(t *testing.T) bool {
	t.Helper()
	times, err := enforce.HookTimes(h.opts.PinDir)
	if err != nil {
		t.Fatal(err)
	}
	for _, at := range times {
		if strings.HasSuffix(at.Name, "file_permission") {
			return true
		}
	}
	return false
}

// heldCases use what was opened before the rule came.
func heldCases() []attackCase {
	return []attackCase{
		{name: "file-oldread", rule: verdict.RuleFiles, policy: filesReadPolicy, scene: sceneStepped},
		{name: "file-oldwrite", rule: verdict.RuleFiles, policy: filesTreePolicy, scene: sceneStepped},
		{name: "file-olduring", rule: verdict.RuleFiles, policy: filesTreePolicy, scene: sceneStepped},
		{name: "file-oldtrunc", rule: verdict.RuleFiles, policy: filesTreePolicy, scene: sceneStepped},
		{name: "net-packet-early", rule: verdict.RulePacketSockets, policy: "  network: {packetSockets: deny}\n", scene: sceneStepped, flags: rawNet},
	}
}

// What a container opened before its rules came is judged at each read and write, in either mode.
func TestHeldDescriptors(t *testing.T) {
	h := get(t)
	for _, c := range heldCases() {
		t.Run(c.name, func(t *testing.T) {
			h.inBothModes(t, c, func() trial {
				id, said := h.stepped(t, c.name, "audit", c.policy, c.flags...)
				h.remove(t, id)
				return h.seen(result{code: 1, out: said, id: id}, c.rule)
			})
		})
	}
}

// holder starts a container that has descriptor 3 of a file in /tmp, and 4 of one in /etc, and writes its output to a
// file of the host. tell has it write to the one that is named, or close 4 ("x"), and returns what it says.
func (h *host) holder(t *testing.T) (id string, tell func(what string) string) {
	t.Helper()
	id = newID()
	out := filepath.Join(h.dir, id+".out")
	f, err := os.OpenFile(out, os.O_CREATE|os.O_RDWR|os.O_APPEND, 0o644)
	if err != nil {
		t.Fatal(err)
	}
	ctr := exec.Command(bin("ctr"), "run", "--state", filepath.Join(h.dir, "ctr"), "--cgroup-parent", h.scope, "--rootfs", h.rootfs, "--id", id, "--uid", "0", "--", "/bin/sh", "-c",
		`echo a >/tmp/plain; echo a >/etc/held; exec 3>>/tmp/plain 4>>/etc/held; mkfifo /tmp/do; echo up
		while read -r n; do if [ "$n" = x ]; then exec 4>&-; echo closed; elif echo b >&"$n"; then echo "$n passed"; else echo "$n refused"; fi; done <>/tmp/do`)
	ctr.Stdout, ctr.Stderr = f, f
	if err := ctr.Start(); err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		_ = unix.Kill(firstPID(t, filepath.Join(cgroupMount(t), h.scope, id)), unix.SIGKILL)
		_ = ctr.Wait() // 137
		_ = errors.Join(f.Close(), os.Remove(out))
	})
	said := 0
	next := func() string {
		t.Helper()
		for range 200 {
			b, err := os.ReadFile(out)
			if err != nil {
				t.Fatal(err)
			}
			lines := slices.DeleteFunc(strings.Split(strings.TrimSpace(string(b)), "\n"), func(l string) bool { return strings.Contains(l, "not permitted") })
			if len(lines) > said && lines[said] != "" {
				said++
				return lines[said-1]
			}
			time.Sleep(50 * time.Millisecond) //nolint:forbidigo // a container has no other signal
		}
		t.Fatal("the container says nothing")
		return ""
	}
	if up := next(); up != "up" {
		t.Fatal(up)
	}
	do, err := os.OpenFile(fmt.Sprintf("/proc/%d/root/tmp/do", firstPID(t, filepath.Join(cgroupMount(t), h.scope, id))), os.O_RDWR, 0)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _ = do.Close() })
	return id, func(what string) string {
		t.Helper()
		if _, err := do.WriteString(what + "\n"); err != nil {
			t.Fatal(err)
		}
		return next()
	}
}

// needFiles skips where the backend sees no acts on files.
func (h *host) needFiles(t *testing.T) {
	t.Helper()
	if h.unsupported(t, verdict.RuleFiles) {
		t.Skip("no rules on files under this backend: docs/kernel-support.md")
	}
}

// What was opened in a phase is judged by the rules of the next.
func TestHeldFromPhase(t *testing.T) {
	h := get(t)
	h.needFiles(t)
	h.enact(t, document("late", "enforce", "  phase: {after: 15s}\n  files: {readOnly: [/etc]}\n"))
	_, tell := h.holder(t)
	if got := tell("4"); got != "4 passed" {
		t.Fatalf("while it starts: %q", got)
	}
	for range 2400 {
		if h.judged(t) {
			break
		}
		time.Sleep(50 * time.Millisecond) //nolint:forbidigo // the enforcer looks by itself
	}
	for what, want := range map[string]string{"3": "3 passed", "4": "4 refused"} {
		if got := tell(what); got != want {
			t.Errorf("after its start, by descriptor %s: %q, want %q", what, got, want)
		}
	}
}

// What is held open and not denied is neither judged nor reported, and what is denied only as long as it is held. What
// the container's output goes to is a file of the host, which has no path in it.
func TestHeldNoLonger(t *testing.T) {
	h := get(t)
	h.needFiles(t)
	h.enact(t, document("none", "audit", nothing))
	id, tell := h.holder(t)
	h.enact(t, document("elsewhere", "enforce", "  files: {readOnly: [/usr]}\n"))
	if h.judged(t) {
		t.Error("reads and writes are judged though nobody holds what is denied")
	}
	h.enact(t, document("late", "enforce", "  files: {readOnly: [/etc]}\n"))
	if !h.judged(t) {
		t.Fatal("a container holds what its rules deny, and reads and writes are not judged")
	}
	for what, want := range map[string]string{"3": "3 passed", "4": "4 refused"} {
		if got := tell(what); got != want {
			t.Errorf("by descriptor %s: %q, want %q", what, got, want)
		}
	}
	if evs := h.take(id, verdict.RuleFiles); len(evs) != 1 || evs[0].Decision != verdict.Denied || evs[0].Object != "/etc/held" {
		t.Errorf("records: %+v", evs)
	}
	if err := h.kernel.Reattach(); err != nil {
		t.Fatal(err)
	}
	if got := tell("4"); got != "4 refused" {
		t.Errorf("after all programs were attached anew: %q", got)
	}
	tell("x")
	for _, name := range []string{"again", "once more"} { // two looks that do not find it
		h.enact(t, document(strings.ReplaceAll(name, " ", "-"), "enforce", "  files: {readOnly: [/etc]}\n"))
	}
	if h.judged(t) {
		t.Error("reads and writes are judged though nobody holds what is denied any more")
	}
	if got := tell("3"); got != "3 passed" {
		t.Error(got)
	}
}
