package kernel

import (
	"fmt"
	"os"
	"strconv"
	"strings"
	"sync"
	"syscall"
	"testing"

	"github.com/belay-project/belay/internal/verdict"
)

const tmpfsMagic = 0x01021994

func fsType(tb testing.TB, dir string) int64 {
	tb.Helper()
	var st syscall.Statfs_t
	if err := syscall.Statfs(dir, &st); err != nil {
		tb.Fatal(err)
	}
	return st.Type
}

// Ordinary work under the shipped policies causes no record.
func TestQuiet(t *testing.T) {
	for _, policy := range []string{"hardened", "baseline", "strict"} {
		t.Run(policy, func(t *testing.T) { quiet(t, shipped(t, policy+".yaml")) })
	}
}

func quiet(t *testing.T, policy string) {
	h := get(t)
	h.enact(t, policy)
	for _, c := range []struct {
		name    string
		flags   []string
		command []string
	}{
		{"program", asUser, []string{"/bin/id"}},
		{"shell", asUser, []string{"/bin/sh", "-c", "for i in 1 2 3 4 5 6 7 8 9 10; do /bin/id; ls / >/dev/null; echo $i | cat; done"}},
		{"dynamic program", asUser, []string{"/bin/dyn-id"}},
		{"files", asUser, []string{"/bin/sh", "-c", "cd /tmp && mkdir a && echo x > a/b && mv a/b a/c && ln a/c a/d && ln -s a/c e && chmod 600 a/c && rm -r a e"}},
		{"public ssh files", asUser, []string{"/bin/sh", "-c", "cat /home/app/.ssh/known_hosts /home/app/.ssh/authorized_keys /home/app/.ssh/id_rsa.pub 2>/dev/null; true"}},
		{"volume", append([]string{"--tmpfs", "/data"}, asUser...), []string{"/bin/sh", "-c", "echo x > /data/f; cat /data/f"}},
		{"network", asUser, []string{"/bin/sh", "-c", "(echo hello | nc -l -p 8080 >/dev/null & ); sleep 0.2; echo hi | nc 127.0.0.1 8080"}},
	} {
		t.Run(c.name, func(t *testing.T) {
			r := h.run(t, c.flags, c.command...)
			ran(t, r)
			h.none(t, r.id)
		})
	}
}

func shipped(t *testing.T, name string) string {
	t.Helper()
	for _, dir := range []string{"../../policies", os.Getenv("BELAY_BIN") + "/../policies", os.Getenv("BELAY_POLICIES")} {
		if b, err := os.ReadFile(dir + "/" + name); err == nil {
			return string(b)
		}
	}
	t.Fatalf("policies/%s not found; set BELAY_POLICIES", name)
	return ""
}

func count(name string, reduced int) int {
	if n, err := strconv.Atoi(os.Getenv(name)); err == nil && n > 0 {
		return n
	}
	return reduced
}

// I4: of many container starts whose entrypoint is forbidden, none runs.
func TestStartHammer(t *testing.T) {
	h := get(t)
	n := count("BELAY_HAMMER_STARTS", 40)
	for rule, yaml := range map[verdict.Rule]string{
		verdict.RuleAsRoot:   rootDenied("asRoot: deny"),
		verdict.RulePathDeny: denyOnly("/bin/id"),
	} {
		t.Run(rule.String(), func(t *testing.T) {
			h.enact(t, yaml)
			uid := "0"
			if rule == verdict.RulePathDeny {
				uid = "1000"
			}
			var wg sync.WaitGroup
			var mu sync.Mutex
			ranN := 0
			for w := range 2 {
				wg.Go(func() {
					for i := w; i < n; i += 2 {
						r := h.run(t, []string{"--uid", uid}, "/bin/id")
						if r.code == 0 || strings.Contains(r.out, "uid=") {
							mu.Lock()
							ranN++
							mu.Unlock()
						}
					}
				})
			}
			wg.Wait()
			if ranN != 0 {
				t.Fatalf("%d of %d forbidden entrypoints ran", ranN, n)
			}
			t.Logf("%d starts, none ran", n)
		})
	}
}

// E14: of many tries inside one container, none passes.
func TestRetryHammer(t *testing.T) {
	h := get(t)
	n := count("BELAY_HAMMER_RETRIES", 500)
	h.enact(t, document("drift", "enforce", "  exec: {drift: deny}\n"))
	r := h.run(t, asUser, "/bin/attack", "--count", fmt.Sprint(n), "e14-retry")
	if r.code == 0 || strings.Contains(r.out, "WON") {
		t.Fatalf("one of %d tries passed: %v", n, r)
	}
	t.Logf("%d tries, none passed: %s", n, strings.TrimSpace(r.out))
}

// I9: a flood of records costs records, never a denial.
func TestFlood(t *testing.T) {
	h := get(t)
	h.enact(t, document("flood", "enforce", "  exec: {asRoot: deny}\n")+"---\n"+document("noise", "audit", "  exec: {drift: deny}\n"))
	h.cancel() // nobody drains the rings
	<-h.done
	defer h.listen()
	n := count("BELAY_HAMMER_FLOOD", 1000)
	r := h.run(t, asUser, "/bin/sh", "-c", fmt.Sprintf("cp /bin/id /tmp/id; i=0; while [ $i -lt %d ]; do /tmp/id >/dev/null; i=$((i+1)); done; /bin/suid-id", n))
	if strings.Contains(r.out, "euid=0") {
		t.Fatalf("a setuid program ran while the ring was full: %v", r)
	}
	lost, err := h.kernel.Failures()
	if err != nil {
		t.Fatal(err)
	}
	if lost["ring_denials"] == 0 {
		t.Errorf("%d records and no reader, but no loss was counted: %v", n, lost)
	}
	t.Logf("lost: %v", lost)
}
