package enforce

import (
	"bufio"
	"bytes"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"strconv"
	"strings"

	"github.com/cilium/ebpf"
	"github.com/cilium/ebpf/asm"
	"github.com/cilium/ebpf/btf"
	"github.com/cilium/ebpf/link"
	"golang.org/x/sys/unix"

	"github.com/belay-project/belay/internal/verdict"
)

// ErrUnsupported is wrapped by errors that say that this kernel lacks something.
var ErrUnsupported = errors.New("not supported by this kernel")

// ProbeResult tells what one backend came to on this kernel.
type ProbeResult struct {
	Backend verdict.Backend `json:"backend"`
	Usable  bool            `json:"usable"`
	Why     string          `json:"why,omitempty"` // why it is not usable
}

// Probe tries each backend's mechanism on this kernel by loading and attaching a
// program that changes nothing, strongest backend first. Nothing is assumed from a
// version number or from the list in /sys/kernel/security/lsm.
func Probe() []ProbeResult {
	try := func(b verdict.Backend, err error) ProbeResult {
		if err != nil {
			return ProbeResult{Backend: b, Why: err.Error()}
		}
		return ProbeResult{Backend: b, Usable: true}
	}
	return []ProbeResult{
		try(verdict.BackendLSM, probeLSM()),
		try(verdict.BackendModret, probeTracing(ebpf.AttachModifyReturn, "security_bprm_check")),
		try(verdict.BackendSignal, probeTracing(ebpf.AttachTraceRawTp, "sched_process_exec")),
	}
}

// probeLSM also asks whether the hook is live: without bpf in lsm= the program loads
// and attaches, and is never called.
func probeLSM() error {
	if list, err := os.ReadFile("/sys/kernel/security/lsm"); err == nil {
		if !strings.Contains(","+strings.TrimSpace(string(list))+",", ",bpf,") {
			return fmt.Errorf("bpf is not in lsm=%s: %w", strings.TrimSpace(string(list)), ErrUnsupported)
		}
	}
	prog, err := ebpf.NewProgram(&ebpf.ProgramSpec{
		Name: "bl_probe", Type: ebpf.LSM, AttachType: ebpf.AttachLSMMac, AttachTo: "bprm_check_security",
		License: "Dual BSD/GPL", Instructions: asm.Instructions{asm.Mov.Imm(asm.R0, 0), asm.Return()},
	})
	if err != nil {
		return fmt.Errorf("load a BPF LSM program: %w", err)
	}
	defer prog.Close()
	l, err := link.AttachLSM(link.LSMOptions{Program: prog})
	if err != nil {
		return fmt.Errorf("attach a BPF LSM program: %w", err)
	}
	return l.Close()
}

func probeTracing(at ebpf.AttachType, to string) error {
	prog, err := ebpf.NewProgram(&ebpf.ProgramSpec{
		Name: "bl_probe", Type: ebpf.Tracing, AttachType: at, AttachTo: to,
		License: "Dual BSD/GPL", Instructions: asm.Instructions{asm.Mov.Imm(asm.R0, 0), asm.Return()},
	})
	if err != nil {
		return fmt.Errorf("load a program for %s: %w", to, err)
	}
	defer prog.Close()
	l, err := link.AttachTracing(link.TracingOptions{Program: prog, AttachType: at})
	if err != nil {
		return fmt.Errorf("attach a program to %s: %w", to, err)
	}
	return l.Close()
}

// chooseBackend returns the asked backend, or for "auto" (or "") the strongest usable.
func chooseBackend(asked string, probed []ProbeResult) (verdict.Backend, error) {
	var why []string
	for _, p := range probed {
		auto := asked == "" || asked == "auto"
		if auto && p.Usable || !auto && string(p.Backend) == asked {
			if !p.Usable {
				return "", fmt.Errorf("backend %s: %s: %w", p.Backend, p.Why, ErrUnsupported)
			}
			return p.Backend, nil
		}
		why = append(why, fmt.Sprintf("%s: %s", p.Backend, p.Why))
	}
	if asked != "" && asked != "auto" {
		return "", fmt.Errorf("backend %q: want auto, lsm, modret or signal", asked)
	}
	return "", fmt.Errorf("no backend works here (%s): %w", strings.Join(why, "; "), ErrUnsupported)
}

// kernelFacts are what the programs are told of this kernel.
type kernelFacts struct {
	overlay    overlayLayout
	overlayErr error  // why that is unknown
	setattr    uint32 // arguments of the hook for attributes
	renameLock uint64 // its address; 0: not shown
	err        error  // without what else there is no start
}

func findFacts(b verdict.Backend) kernelFacts {
	hook := "security_inode_setattr"
	if b == verdict.BackendLSM {
		hook = "bpf_lsm_inode_setattr"
	}
	var f kernelFacts
	f.overlay, f.overlayErr = findOverlay()
	f.setattr, f.err = argsOf(hook)
	f.renameLock = kernelSymbol("rename_lock")
	return f
}

// overlayLayout is where overlayfs keeps what the drift rule reads: offsets from
// struct inode inside struct ovl_inode, in bytes.
type overlayLayout struct {
	upper     int32
	flags     int32
	upperdata int32 // number of the flag; -1: unknown
}

// findOverlay reads the layout from BTF: the kernel's, or the overlay module's, which
// is loaded if it is not yet.
func findOverlay() (overlayLayout, error) {
	l := overlayLayout{upperdata: -1}
	spec, err := btf.LoadKernelSpec()
	if err != nil {
		return l, fmt.Errorf("read the kernel's BTF: %w", err)
	}
	var s *btf.Struct
	if err := spec.TypeByName("ovl_inode", &s); err != nil {
		loadOverlayModule()
		if spec, err = btf.LoadKernelModuleSpec("overlay"); err != nil {
			return l, fmt.Errorf("read the BTF of overlay: %w", err)
		}
		if err := spec.TypeByName("ovl_inode", &s); err != nil {
			return l, fmt.Errorf("find struct ovl_inode: %w", err)
		}
	}
	offsets := map[string]int32{}
	for _, m := range s.Members {
		offsets[m.Name] = int32(m.Offset.Bytes())
	}
	vfs, ok1 := offsets["vfs_inode"]
	upper, ok2 := offsets["__upperdentry"]
	if !ok1 || !ok2 {
		return l, fmt.Errorf("struct ovl_inode has no vfs_inode or __upperdentry: %w", ErrUnsupported)
	}
	l.upper = upper - vfs
	if flags, ok := offsets["flags"]; ok {
		l.flags = flags - vfs
		l.upperdata = findUpperdata(spec)
	}
	return l, nil
}

// findUpperdata returns the number of the flag for files whose data are in the upper layer, -1 if it is unknown.
//
// Source: enum ovl_inode_flag, fs/overlayfs/overlayfs.h since Linux 4.19.
func findUpperdata(spec *btf.Spec) int32 {
	var e *btf.Enum
	if err := spec.TypeByName("ovl_inode_flag", &e); err != nil {
		return -1
	}
	for _, v := range e.Values {
		if v.Name == "OVL_UPPERDATA" {
			return int32(v.Value)
		}
	}
	return -1
}

// loadOverlayModule asks the kernel for an overlay mount with no options: it loads
// the module and then refuses the mount.
func loadOverlayModule() {
	if err := unix.Mount("none", "/proc/self/cwd", "overlay", 0, ""); err == nil {
		_ = unix.Unmount("/proc/self/cwd", unix.MNT_DETACH)
	}
}

// kernelSymbol returns the address of a kernel symbol, 0 if it is not shown.
//
// Source: /proc/kallsyms.
func kernelSymbol(name string) uint64 {
	at, _ := symbolIn("/proc/kallsyms", name)
	return at
}

// kernelHas tells whether the kernel has a symbol, of which it may not show the address.
func kernelHas(name string) bool {
	_, has := symbolIn("/proc/kallsyms", name)
	return has
}

func symbolIn(file, name string) (at uint64, has bool) {
	f, err := os.Open(file)
	if err != nil {
		return 0, false
	}
	defer f.Close()
	sc := bufio.NewScanner(f)
	for want := []byte(name); sc.Scan(); {
		if !bytes.Contains(sc.Bytes(), want) {
			continue // most of some hundred thousand lines
		}
		fields := strings.Fields(sc.Text())
		if len(fields) >= 3 && fields[2] == name {
			at, _ = strconv.ParseUint(fields[0], 16, 64)
			return at, true
		}
	}
	return 0, false
}

// argsOf returns how many arguments a function of the kernel has here, 0 if there is none of that name.
//
// Source: the kernel's BTF.
func argsOf(name string) (uint32, error) {
	spec, err := btf.LoadKernelSpec()
	if err != nil {
		return 0, fmt.Errorf("read the kernel's BTF: %w", err)
	}
	var fn *btf.Func
	if err := spec.TypeByName(name, &fn); errors.Is(err, btf.ErrNotFound) {
		return 0, nil
	} else if err != nil {
		return 0, fmt.Errorf("find %s: %w", name, err)
	}
	proto, ok := fn.Type.(*btf.FuncProto)
	if !ok {
		return 0, fmt.Errorf("%s has no arguments in BTF: %w", name, ErrUnsupported)
	}
	return uint32(len(proto.Params)), nil
}

// pidsSubsystem returns the index of the pids controller in css_set.subsys.
//
// Source: the kernel's BTF, enum cgroup_subsys_id.
func pidsSubsystem() (int32, error) {
	spec, err := btf.LoadKernelSpec()
	if err != nil {
		return -1, fmt.Errorf("read the kernel's BTF: %w", err)
	}
	var e *btf.Enum
	if err := spec.TypeByName("cgroup_subsys_id", &e); err != nil {
		return -1, fmt.Errorf("find enum cgroup_subsys_id: %w", err)
	}
	for _, v := range e.Values {
		if v.Name == "pids_cgrp_id" {
			return int32(v.Value), nil
		}
	}
	return -1, fmt.Errorf("pids_cgrp_id: %w", fs.ErrNotExist)
}

// pidsHierarchy returns the number of the hierarchy that the pids controller is on.
//
// Source: /proc/cgroups, cgroups(7).
func pidsHierarchy() (int32, error) {
	b, err := os.ReadFile("/proc/cgroups")
	if err != nil {
		return 0, fmt.Errorf("find the pids hierarchy: %w", err)
	}
	for l := range strings.Lines(string(b)) {
		f := strings.Fields(l)
		if len(f) >= 2 && f[0] == "pids" {
			n, err := strconv.ParseInt(f[1], 10, 32)
			if err != nil {
				return 0, fmt.Errorf("find the pids hierarchy: %w", err)
			}
			return int32(n), nil
		}
	}
	return 0, fmt.Errorf("no pids controller in /proc/cgroups: %w", fs.ErrNotExist)
}
