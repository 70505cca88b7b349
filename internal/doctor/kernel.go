package doctor

import (
	"errors"
	"fmt"
	"io"
	"io/fs"
	"path"
	"runtime"
	"slices"
	"strconv"
	"strings"

	"github.com/belay-project/belay/internal/hostinfo"
	"github.com/belay-project/belay/internal/verdict"
)

// maxFile bounds what is read of one file.
const maxFile = 4 << 20

// Facts is what of the kernel is read from files. Texts are the kernel's own; a fact that
// cannot be read is empty.
type Facts struct {
	Release    string   `json:"release"`
	Arch       string   `json:"arch"`
	CPUs       int      `json:"cpus"` // that this process may use
	LSM        []string `json:"lsm"`
	LSMBuilt   string   `json:"lsmBuilt,omitempty"` // CONFIG_BPF_LSM: y, n; empty: not known
	BTF        bool     `json:"btf"`
	Cgroup     string   `json:"cgroup,omitempty"`   // v2, v1 or hybrid
	Lockdown   string   `json:"lockdown,omitempty"` // none, integrity or confidentiality
	BPFFS      int      `json:"bpffs"`              // mounts of type bpf
	JIT        string   `json:"jit,omitempty"`      // net.core.bpf_jit_enable
	Unpriv     string   `json:"unprivilegedBpf,omitempty"`
	MountsRead bool     `json:"mountsRead"`

	Preemption hostinfo.Preemption `json:"preemption,omitempty"`
}

// mount is a line of mountinfo.
type mount struct{ point, kind string }

// below returns an absolute path as [fs.FS] wants it.
func below(name string) string { return strings.TrimPrefix(path.Clean("/"+name), "/") }

// read returns a file below the root, which is named by its absolute path.
func (e *examination) read(name string) (string, error) {
	f, err := e.Root.Open(below(name))
	if err != nil {
		return "", err
	}
	defer f.Close()
	b, err := io.ReadAll(io.LimitReader(f, maxFile+1))
	if err == nil && len(b) > maxFile {
		err = fmt.Errorf("%s is longer than %d bytes", name, maxFile)
	}
	return string(b), err
}

// word returns a file of one line; empty if it cannot be read.
func (e *examination) word(name string) string {
	s, err := e.read(name)
	if err != nil {
		return ""
	}
	return strings.TrimSpace(s)
}

func (e *examination) stat(name string) (fs.FileInfo, error) {
	return fs.Stat(e.Root, below(name))
}

// collect reads the facts.
func (e *examination) collect() {
	f := &e.facts
	f.Release, f.Arch, f.CPUs = e.word("/proc/sys/kernel/osrelease"), runtime.GOARCH, runtime.NumCPU()
	if list := e.word("/sys/kernel/security/lsm"); list != "" {
		f.LSM = strings.Split(list, ",")
	}
	f.LSMBuilt = e.config("CONFIG_BPF_LSM")
	_, err := e.stat("/sys/kernel/btf/vmlinux")
	f.BTF = err == nil
	f.Lockdown = bracketed(e.word("/sys/kernel/security/lockdown"))
	f.JIT = e.word("/proc/sys/net/core/bpf_jit_enable")
	f.Unpriv = e.word("/proc/sys/kernel/unprivileged_bpf_disabled")
	f.Preemption = hostinfo.ReadPreemption(e.word)
	e.readMounts()
}

// config returns y, m or n as /boot/config-RELEASE has a symbol; empty if there is none.
func (e *examination) config(symbol string) string {
	text, err := e.read("/boot/config-" + e.facts.Release)
	if err != nil {
		return ""
	}
	for l := range strings.Lines(text) {
		if v, ok := strings.CutPrefix(strings.TrimSpace(l), symbol+"="); ok && len(v) == 1 {
			return v
		}
	}
	return "n"
}

// bracketed returns the chosen one of "none [integrity] confidentiality".
func bracketed(s string) string {
	_, rest, _ := strings.Cut(s, "[")
	chosen, _, ok := strings.Cut(rest, "]")
	if !ok {
		return ""
	}
	return chosen
}

// readMounts reads what is mounted where. Source: proc_pid_mountinfo(5).
func (e *examination) readMounts() {
	text, err := e.read("/proc/self/mountinfo")
	if err != nil {
		return
	}
	e.facts.MountsRead = true
	var v1, v2 bool
	for l := range strings.Lines(text) {
		before, after, ok := strings.Cut(l, " - ")
		left, right := strings.Fields(before), strings.Fields(after)
		if !ok || len(left) < 5 || len(right) < 1 {
			continue
		}
		e.mounts = append(e.mounts, mount{point: left[4], kind: right[0]})
		switch right[0] {
		case "cgroup":
			v1 = true
		case "cgroup2":
			v2 = true
		case "bpf":
			e.facts.BPFFS++
		}
	}
	switch {
	case v1 && v2:
		e.facts.Cgroup = "hybrid"
	case v2:
		e.facts.Cgroup = "v2"
	case v1:
		e.facts.Cgroup = "v1"
	}
}

const asRoot = "run belay doctor as root on the host, outside of containers"

func (e *examination) checkKernel() {
	e.checkRelease()
	e.checkLSM()
	e.checkBackend()
	e.checkPreemption()
	if e.facts.BTF {
		e.add("kernel.btf", OK, "the kernel describes its types (BTF)", "", "")
	} else {
		e.add("kernel.btf", Fail, "the kernel has no BTF: no program of Belay loads", "",
			"boot a kernel built with CONFIG_DEBUG_INFO_BTF=y, as those of Debian 11, Ubuntu 20.10, RHEL 8.2 and later are; if it is, mount sysfs on /sys")
	}
	e.checkCgroup()
	e.checkLockdown()
	e.checkMounted()
	e.checkSysctls()
}

// checkRelease goes by what docs/kernel-support.md says was tried. What the kernel can
// do is the agent's to probe.
func (e *examination) checkRelease() {
	const id, fix = "kernel.release", "boot a kernel of 6.1 or later"
	major, minor, ok := version(e.facts.Release)
	switch {
	case e.facts.Release == "":
		e.add(id, Warn, "the kernel's release cannot be read", "", asRoot)
	case !ok:
		e.add(id, Warn, "the kernel's release "+e.facts.Release+" is not understood", "", "see docs/kernel-support.md for what was tested")
	case major > 6 || major == 6 && minor >= 1:
		e.add(id, OK, "Linux "+e.facts.Release+": 6.1 and later are tested", "", "")
	case major == 6 || major == 5 && minor >= 15:
		e.add(id, Info, "Linux "+e.facts.Release+": from 5.15 on it should work by design, and 6.1 and later are tested", "", fix)
	default:
		e.add(id, Fail, "Linux "+e.facts.Release+" is older than 5.15, from where on Belay is made to work", "", fix)
	}
}

// version returns the first two numbers of a release.
func version(release string) (major, minor int, ok bool) {
	a, rest, _ := strings.Cut(release, ".")
	end := strings.IndexFunc(rest, func(r rune) bool { return r < '0' || r > '9' })
	if end >= 0 {
		rest = rest[:end]
	}
	major, err1 := strconv.Atoi(a)
	minor, err2 := strconv.Atoi(rest)
	return major, minor, err1 == nil && err2 == nil
}

func (e *examination) checkLSM() {
	const id = "kernel.lsm"
	list := strings.Join(e.facts.LSM, ",")
	switch {
	case len(e.facts.LSM) == 0:
		e.add(id, Warn, "the list of security modules cannot be read", "", "mount -t securityfs securityfs /sys/kernel/security; "+asRoot)
		return
	case slices.Contains(e.facts.LSM, "bpf"):
		e.add(id, OK, "bpf is among the security modules: "+list, "", "")
		return
	case e.facts.LSMBuilt == "n":
		e.add(id, e.withoutLSM(), "this kernel is built without BPF LSM; its modules are "+list, "",
			"boot a kernel built with CONFIG_BPF_LSM=y, and with bpf in its lsm= parameter")
		return
	}
	// capability is always there and always first: lsm= does not name it.
	wanted := slices.DeleteFunc(append(slices.Clone(e.facts.LSM), "bpf"), func(m string) bool { return m == "capability" })
	e.add(id, e.withoutLSM(), "bpf is not among the security modules, which are "+list, "",
		fmt.Sprintf("add lsm=%s to GRUB_CMDLINE_LINUX in /etc/default/grub (or to the boot entry), run update-grub (grub2-mkconfig -o /boot/grub2/grub.cfg), and reboot",
			strings.Join(wanted, ",")))
}

// withoutLSM is how bad it is that the strongest backend is not to be had.
func (e *examination) withoutLSM() Severity {
	if e.status != nil && e.status.Backend == string(verdict.BackendModret) {
		return Info // it prevents as well
	}
	return Warn
}

// checkBackend says what the agent chose after trying; only a process with the right to
// load programs can try.
func (e *examination) checkBackend() {
	const id = "kernel.backend"
	if e.status == nil {
		e.add(id, Info, "which backends this kernel takes is for the agent to try, and it does not answer", "", "run belay-agent preflight --only kernel as root")
		return
	}
	var why []string
	for _, b := range e.status.Backends {
		if !b.Usable {
			why = append(why, b.Name+": "+b.Why)
		}
	}
	detail := strings.Join(why, "; ")
	switch verdict.Backend(e.status.Backend) {
	case verdict.BackendLSM:
		e.add(id, OK, "the backend is lsm: denied acts fail", detail, "")
	case verdict.BackendModret:
		e.add(id, OK, "the backend is modret: denied acts fail", detail, "")
	case verdict.BackendSignal:
		e.add(id, Warn, "the backend is signal: programs are killed instead of acts failing, some rules only detect, and a container with CAP_BPF or CAP_SYS_ADMIN can disarm it",
			detail, "boot a kernel that lets BPF trampolines attach, best with bpf in lsm=; see docs/kernel-support.md")
	default:
		e.add(id, Fail, "the agent has no backend", detail, "see the reasons, and docs/kernel-support.md")
	}
}

// checkPreemption tells of kernels that leave out programs. Such a run is not made while another of the program is under
// way on its processor: under modret, and under lsm before 6.2 (kernel commit 271de525e1d7).
func (e *examination) checkPreemption() {
	const id = "kernel.preemption"
	const fix = "boot with preempt=voluntary, where the kernel has it, or with bpf in lsm= on Linux 6.2 or later, for the backend lsm"
	p := e.facts.Preemption
	mode := fmt.Sprintf("(%s)", p)
	major, minor, known := version(e.facts.Release)
	leaves := e.status != nil && (e.status.Backend == string(verdict.BackendModret) ||
		e.status.Backend == string(verdict.BackendLSM) && (!known || major < 6 || major == 6 && minor < 2))
	switch {
	case p == "":
		e.add(id, Info, "whether the kernel takes the processor from tasks inside of BPF programs cannot be read", "", asRoot)
	case !p.Midway():
		e.add(id, OK, "the kernel takes the processor from no task inside of a BPF program "+mode, "", "")
	case e.status == nil || e.status.Backend == "":
		e.add(id, Info, "the kernel may take the processor from a task inside of a BPF program "+mode+", which matters to the backend modret, and to lsm before Linux 6.2", "", fix)
	case leaves:
		e.add(id, Warn, "the kernel may take the processor from a task inside of a BPF program "+mode+": until it goes on, the same act of other tasks on that processor passes unjudged under "+e.status.Backend, "", fix)
	default:
		e.add(id, OK, "the kernel may take the processor from a task inside of a BPF program "+mode+"; under "+e.status.Backend+" none is left out for that", "", "")
	}
}

func (e *examination) checkCgroup() {
	const id = "kernel.cgroup"
	const fix = "boot with systemd.unified_cgroup_hierarchy=1 cgroup_no_v1=all"
	switch {
	case !e.facts.MountsRead:
		e.add(id, Warn, "the mounts cannot be read", "", asRoot)
	case e.facts.Cgroup == "v2":
		e.add(id, OK, "cgroups are v2", "", "")
	case e.facts.Cgroup == "hybrid":
		e.add(id, OK, "cgroups are hybrid: containers are recognised on the v2 hierarchy", "", "")
	case e.facts.Cgroup == "v1":
		e.add(id, Warn, "cgroups are v1: containers are recognised by the pids hierarchy, network rules are unsupported and there is no canary", "", fix)
	default:
		e.add(id, Fail, "no cgroup hierarchy is mounted: no container can be recognised", "", "mount -t cgroup2 none /sys/fs/cgroup")
	}
}

func (e *examination) checkLockdown() {
	const id = "kernel.lockdown"
	switch e.facts.Lockdown {
	case "confidentiality":
		s := Fail
		if e.status != nil && e.status.Enforcing {
			s = Warn
		}
		e.add(id, s, "lockdown is at confidentiality: BPF programs may not read kernel memory, and Belay's read it", "", "boot with lockdown=integrity")
	case "":
		e.add(id, Info, "no lockdown mode is to be read", "", "")
	default:
		e.add(id, OK, "lockdown is at "+e.facts.Lockdown+", which lets BPF programs read what they need", "", "")
	}
}

func (e *examination) checkMounted() {
	const id = "kernel.bpffs"
	if e.facts.BPFFS > 0 {
		e.add(id, OK, fmt.Sprintf("a bpffs is mounted (%d)", e.facts.BPFFS), "", "")
		return
	}
	known, err := e.read("/proc/filesystems")
	switch {
	case err != nil || !e.facts.MountsRead:
		e.add(id, Warn, "whether the kernel has a bpffs cannot be read", errorText(err), asRoot)
	case !slices.Contains(strings.Fields(known), "bpf"):
		e.add(id, Fail, "the kernel has no bpffs: enforcement could not outlive the agent", "", "boot a kernel built with CONFIG_BPF_SYSCALL=y")
	case e.status != nil:
		e.add(id, Warn, "the agent runs and no bpffs is mounted here: its pins are in another mount namespace, or were unmounted", "",
			"run the agent in the host's mount namespace, without PrivateMounts and the like in its unit, and restart it")
	default:
		e.add(id, Info, "no bpffs is mounted: the agent mounts one of its own", "", "")
	}
}

func (e *examination) checkSysctls() {
	switch e.facts.JIT {
	case "":
		e.add("kernel.jit", Warn, "whether BPF programs are compiled cannot be read", "", asRoot)
	case "0":
		e.add("kernel.jit", Warn, "BPF programs are interpreted (net.core.bpf_jit_enable = 0): slow, and trampolines do not attach", "", "sysctl -w net.core.bpf_jit_enable=1, and in /etc/sysctl.d")
	default:
		e.add("kernel.jit", OK, "BPF programs are compiled", "", "")
	}
	switch e.facts.Unpriv {
	case "":
		e.add("kernel.unprivileged", Warn, "whether every user may load BPF programs cannot be read", "", asRoot)
	case "0":
		e.add("kernel.unprivileged", Warn, "every user may load BPF programs (kernel.unprivileged_bpf_disabled = 0)", "", "sysctl -w kernel.unprivileged_bpf_disabled=1, and in /etc/sysctl.d")
	default:
		e.add("kernel.unprivileged", OK, "only privileged processes may load BPF programs", "", "")
	}
}

// errorText returns what an error says; empty for none.
func errorText(err error) string {
	if err == nil {
		return ""
	}
	return err.Error()
}

// missing tells that a file is not there, as opposed to unreadable.
func missing(err error) bool { return errors.Is(err, fs.ErrNotExist) }
