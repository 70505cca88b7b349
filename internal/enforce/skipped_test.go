package enforce

import (
	"path/filepath"
	"slices"
	"testing"

	"github.com/cilium/ebpf"
	"github.com/cilium/ebpf/asm"
	"github.com/cilium/ebpf/btf"
	"github.com/cilium/ebpf/link"
	"golang.org/x/sys/unix"

	"github.com/belay-project/belay/internal/testneed"
)

// needUnlockedPrintk skips where bpf_trace_printk takes a lock, for which TestSkipped would wait for ever: the kernel commit that
// took it out, e2bb9e01d589 of 6.3, gave the structure its buffer.
func needUnlockedPrintk(t *testing.T) {
	t.Helper()
	spec, err := btf.LoadKernelSpec()
	if err != nil {
		t.Fatal(err)
	}
	var data *btf.Struct
	err = spec.TypeByName("bpf_bprintf_data", &data)
	unlocked := err == nil && slices.ContainsFunc(data.Members, func(m btf.Member) bool { return m.Name == "buf" })
	testneed.Need(t, "unlocked-printk", unlocked, "a kernel whose bpf_trace_printk takes no lock (since 6.3)")
}

// A program that makes its own tracepoint fire is left out the second time, and that is seen at its pin.
func TestSkipped(t *testing.T) {
	needBPF(t)
	needUnlockedPrintk(t)
	dir := filepath.Join(t.TempDir(), "bpf")
	if err := mountBPFFS(dir); err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _ = unix.Unmount(dir, 0) })
	prog, err := ebpf.NewProgram(&ebpf.ProgramSpec{Type: ebpf.RawTracepoint, License: "GPL", Instructions: asm.Instructions{
		asm.StoreImm(asm.RFP, -8, 0, asm.Word), // the format: an empty text
		asm.Mov.Reg(asm.R1, asm.RFP),
		asm.Add.Imm(asm.R1, -8),
		asm.Mov.Imm(asm.R2, 1),
		asm.FnTracePrintk.Call(),
		asm.Mov.Imm(asm.R0, 0),
		asm.Return(),
	}})
	if err != nil {
		t.Fatal(err)
	}
	defer prog.Close()
	l, err := link.AttachRawTracepoint(link.RawTracepointOptions{Name: "bpf_trace_printk", Program: prog})
	if err != nil {
		t.Fatal(err)
	}
	defer l.Close()
	if err := l.Pin(filepath.Join(dir, "bl_test")); err != nil {
		t.Fatal(err)
	}
	e := &Enforcer{links: dir, attached: []hook{{program: "bl_test", name: "test"}, {program: "bl_gone", name: "gone"}}}
	was, err := e.Skipped()
	if err != nil {
		t.Fatal(err)
	}
	before := was["test"].Times // others of the host may print too
	for range 3 {
		if _, err := prog.Run(&ebpf.RunOptions{}); err != nil {
			t.Fatal(err)
		}
	}
	got, err := e.Skipped()
	if n := got["test"].Times; err != nil || n < before+3 || len(got) != 1 {
		t.Errorf("got %v, %v, want 3 more than %d of test alone", got, err, before)
	}
	e.attached[0].interrupts = true
	if got, err := e.Skipped(); err != nil || len(got) != 0 {
		t.Errorf("of a hook in interrupts: got %v, %v", got, err)
	}
}
