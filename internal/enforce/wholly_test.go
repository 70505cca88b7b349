package enforce

import (
	"encoding/binary"
	"errors"
	"fmt"
	"io"
	"log/slog"
	"runtime"
	"testing"

	"github.com/cilium/ebpf"
	"golang.org/x/sys/unix"

	"github.com/belay-project/belay/internal/testneed"
)

func TestWholly(t *testing.T) {
	aborted := fmt.Errorf("%w", ebpf.ErrIterationAborted)
	for _, c := range []struct {
		name  string
		said  []error
		want  error
		tries int
	}{
		{"at once", []error{nil}, nil, 1},
		{"the second time", []error{aborted, nil}, nil, 2},
		{"never", []error{aborted, aborted, aborted, nil}, ebpf.ErrIterationAborted, 3},
		{"another error", []error{io.EOF, nil}, io.EOF, 1},
	} {
		t.Run(c.name, func(t *testing.T) {
			n := 0
			err := wholly(func() error { n++; return c.said[n-1] })
			if !errors.Is(err, c.want) || n != c.tries {
				t.Errorf("got %v after %d tries, want %v after %d", err, n, c.want, c.tries)
			}
		})
	}
}

// neverWhole makes a map whose every listing is aborted: it holds an entry for each of two CPUs, and was asked to hold one.
func neverWhole(t *testing.T, key, value uint32) *ebpf.Map {
	t.Helper()
	needBPF(t)
	const noCommonLRU = 2 // include/uapi/linux/bpf.h, BPF_F_NO_COMMON_LRU: as many as there are CPUs, at least
	m, err := ebpf.NewMap(&ebpf.MapSpec{Type: ebpf.LRUHash, KeySize: key, ValueSize: value, MaxEntries: 1, Flags: noCommonLRU})
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { m.Close() })
	runtime.LockOSThread()
	defer runtime.UnlockOSThread()
	var may unix.CPUSet
	if err := unix.SchedGetaffinity(0, &may); err != nil {
		t.Fatal(err)
	}
	defer func() { _ = unix.SchedSetaffinity(0, &may) }()
	testneed.Need(t, "cpus", may.Count() > 1, "two processors")
	for cpu, n := 0, 0; cpu < 1024 && n < 2; cpu++ {
		if !may.IsSet(cpu) {
			continue
		}
		n++
		var one unix.CPUSet
		one.Set(cpu)
		k := make([]byte, key)
		k[0] = byte(n)
		if err := errors.Join(unix.SchedSetaffinity(0, &one), m.Put(k, make([]byte, value))); err != nil {
			t.Fatal(err)
		}
	}
	it := m.Iterate()
	for k, v := make([]byte, key), make([]byte, value); it.Next(&k, &v); {
	}
	if !errors.Is(it.Err(), ebpf.ErrIterationAborted) {
		t.Fatalf("the listing of the map is not aborted: %v", it.Err())
	}
	return m
}

// TestPartOfAList: a part of a list is an error wherever the whole decides.
func TestPartOfAList(t *testing.T) {
	aborts := map[string]*ebpf.Map{}
	for _, c := range []struct {
		name       string
		key, value uint32
	}{{"bl_containers", 8, uint32(binary.Size(kernelBlContainer{}))}, {"bl_holders", 8, uint32(binary.Size(kernelBlHolder{}))}, {"bl_cgroups", 8, 8}} {
		aborts[c.name] = neverWhole(t, c.key, c.value)
	}
	e := &Enforcer{maps: aborts, opts: Options{Log: slog.New(slog.DiscardHandler)}}
	// An update of a map of those would push an entry out of it.
	to := &Enforcer{maps: map[string]*ebpf.Map{}}
	for name, from := range aborts {
		m, err := ebpf.NewMap(&ebpf.MapSpec{Type: ebpf.Hash, KeySize: from.KeySize(), ValueSize: from.ValueSize(), MaxEntries: 8})
		if err != nil {
			t.Fatal(err)
		}
		t.Cleanup(func() { m.Close() })
		to.maps[name] = m
	}
	for name, list := range map[string]func() error{
		"containers":    func() error { _, err := e.Containers(); return err },
		"who holds":     func() error { _, err := e.held(); return err },
		"who held":      func() error { return e.settle(1, nil) },
		"carry states":  func() error { return to.carryStates(aborts["bl_containers"], true) },
		"carry cgroups": func() error { return to.carryEntries(aborts["bl_cgroups"], "bl_cgroups") },
	} {
		t.Run(name, func(t *testing.T) {
			if err := list(); !errors.Is(err, ebpf.ErrIterationAborted) {
				t.Errorf("a part counts as the whole: %v", err)
			}
		})
	}
}
