package enforce

import (
	"fmt"
	"os"
	"strconv"
	"strings"
	"testing"

	"github.com/cilium/ebpf"

	"github.com/belay-project/belay/internal/testneed"
)

// The tables of the kernel side take less than the 16 MB that docs/benchmarks.md asks for, with
// room for the entries of some hundred containers.
func TestMapMemory(t *testing.T) {
	needBPF(t)
	spec, err := loadKernel()
	if err != nil {
		t.Fatal(err)
	}
	taken := map[string]int{}
	sum := 0
	for name, ms := range spec.Maps {
		if perLoad(name) {
			continue
		}
		m, err := ebpf.NewMap(ms)
		if err != nil {
			t.Fatalf("make map %s: %v", name, err)
		}
		taken[name] = memlock(t, m)
		sum += taken[name]
		if err := m.Close(); err != nil {
			t.Fatal(err)
		}
	}
	binds := spec.Maps["bl_binds"]
	whole := int(binds.MaxEntries * (binds.KeySize + binds.ValueSize))
	testneed.Need(t, "memlock", taken["bl_binds"] < whole, "a kernel that counts what maps take, not what they could (since 6.4)")
	if most := 15_900_000; sum > most {
		t.Errorf("the maps take %d bytes, more than %d: %v", sum, most, taken)
	}
}

// memlock reads what the kernel counts for a map; see bpf_map_show_fdinfo.
func memlock(t *testing.T, m *ebpf.Map) int {
	t.Helper()
	text, err := os.ReadFile(fmt.Sprintf("/proc/self/fdinfo/%d", m.FD()))
	if err != nil {
		t.Fatal(err)
	}
	for line := range strings.Lines(string(text)) {
		v, ok := strings.CutPrefix(line, "memlock:")
		if !ok {
			continue
		}
		n, err := strconv.Atoi(strings.TrimSpace(v))
		if err != nil {
			t.Fatal(err)
		}
		return n
	}
	t.Fatalf("no memlock in %q", text)
	return 0
}
