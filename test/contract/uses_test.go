//go:build cgo

package contract

import (
	"strings"
	"testing"

	"github.com/belay-project/belay/bpf/pure"
	"github.com/belay-project/belay/internal/scan/inventory"
)

// What the kernel side tells of opens is known by the end of the name, whatever its length: 31 bytes are
// the most that lie in the kernel's own entry of it.
func TestUseOfOpen(t *testing.T) {
	const none, archive, script = 0, 3, 4
	for end, want := range map[string]int{
		".jar": archive, ".war": archive, ".ear": archive, ".dll": archive, ".py": script, ".pyc": script, ".js": script, ".mjs": script,
		".cjs": script, ".rb": script, ".php": script, ".json": none, ".so": none, ".txt": none, "": none, ".pyx": none, ".JS": none, "js": none, "xjar": none,
	} {
		for n := range 70 {
			name := strings.Repeat("a", n) + end
			want := want
			if len(name) < 4 && n == 0 { // ".py" alone is no name of a script
				want = none
			}
			if got := pure.UseOfOpen(name); got != want {
				t.Errorf("%q: got %d, want %d", name, got, want)
			}
		}
		if (want == script) != inventory.IsScript("a"+end) {
			t.Errorf("%q is a script for one of the kernel and the inventory", end)
		}
	}
}
