package enforce

import (
	"crypto/rand"
	"crypto/sha256"
	"encoding/binary"
	"encoding/hex"
	"errors"
	"fmt"
	"io/fs"
	"log/slog"
	"os"
	"path/filepath"
	"slices"
	"sort"
	"sync"
	"sync/atomic"
	"time"

	"github.com/cilium/ebpf"
	"github.com/cilium/ebpf/btf"
	"github.com/cilium/ebpf/link"
	"golang.org/x/sys/unix"

	"github.com/belay-project/belay/internal/policy"
	"github.com/belay-project/belay/internal/verdict"
)

// Options configures an [Enforcer].
type Options struct {
	// PinDir is the private directory of the pins. A bpffs is mounted on it if none is.
	PinDir string
	// Backend is auto (or empty), lsm, modret or signal.
	Backend string
	// Scopes are cgroup paths on the v2 hierarchy; containers elsewhere are not
	// recognised. Empty: the whole host.
	Scopes []string
	// ReportAllowed emits a record for every allowed exec of a container too.
	ReportAllowed bool
	// Floor is the policy of containers without a binding, Build that of build steps. Both
	// are in the kernel before the first program is attached.
	Floor, Build *policy.Effective
	// SignalSyscalls also looks at what system calls have mapped and opened, under the signal
	// backend only, and kills. It slows down every system call of the host.
	SignalSyscalls bool
	// MaxCgroups bounds the cgroups that are known by id; 0 is 16384. The containers of those
	// that have no place are found by walking their ancestors.
	MaxCgroups uint32
	// MaxContainers bounds the containers that are known; 0 is 4096.
	MaxContainers uint32
	// SetsFile keeps which policies the sets in the kernel come from, so that what was denied
	// while no agent ran can be credited by the next. Empty: that is not known then.
	SetsFile string
	// ResolvConf are files of resolv.conf(5) with the servers whose answers count for policies
	// that list none. Empty: the host's.
	ResolvConf []string
	// Layout sets this agent's maps apart from those of one whose maps have the same shape:
	// for tests of an upgrade to another shape. Empty otherwise.
	Layout string
	// Log must not be nil.
	Log *slog.Logger
}

// Enforcer is the kernel side, loaded and attached. Safe for concurrent use.
type Enforcer struct {
	opts    Options
	backend verdict.Backend
	probed  []ProbeResult
	root    cgroupRoot
	maps    map[string]*ebpf.Map
	key     [2]uint64 // of the path hashes
	overlay error     // why drift on overlayfs cannot be judged; nil: it can
	adopted bool      // maps of an earlier agent were taken over
	dir     string    // of the pins of this ABI

	// specMu guards constants, those of the programs, and spec, the BPF object: some ten
	// megabytes, which are there only while programs are loaded.
	specMu    sync.Mutex
	constants map[string]any
	spec      *ebpf.CollectionSpec

	// attachMu makes one attachment at a time, and guards what it left.
	attachMu sync.Mutex
	links    string // directory of the pinned links in force
	attached []hook // whose links are in it

	// missMu guards missing: hooks that this kernel refused at the last attachment, and
	// why.
	missMu  sync.Mutex
	missing map[string]error

	// guardMu makes one change of the guards of sockets and of the host at a time, and guards
	// bound: the inodes of its sockets by path. It is taken before attachMu.
	guardMu sync.Mutex
	bound   map[string]kernelBlSockKey
	own     []kernelBlHostKey // the enforcer's own BPF objects, while links is ownFrom
	ownFrom string

	badRecords atomic.Uint64
	badLooks   atomic.Uint64 // at descriptors
	canaries   sync.Map      // ident.ContainerID to time.Time

	// heldMu makes one look at descriptors at a time, and guards phases: by container's cgroup, which set held
	// in its phase at the last, and rest, how long none is due after a look. It is taken before mu, guardMu and
	// attachMu. look asks for a look.
	heldMu sync.Mutex
	rest   time.Duration
	phases map[uint64]uint32
	look   chan struct{}

	// mu guards the sets, and what has changed of them.
	mu      sync.Mutex
	sets    setTable
	changed changes
}

// perLoad tells maps that belong to one load of some programs from those that hold the
// state of the host: .rodata, what the contract program of tests reads, and the labels of
// an earlier agent.
func perLoad(name string) bool {
	return name[0] == '.' || name == "bl_contracts" || name == oldLabels
}

// Open loads the kernel side, adopting the maps that an earlier agent of the same ABI
// pinned in opts.PinDir, attaches this agent's programs beside that agent's, and then
// takes the old ones away: there is no moment without a program. What an agent of another
// ABI left is carried over and stays until [Enforcer.Replace].
//
// Errors: [ErrUnsupported] if the kernel cannot do what the backend needs; [ErrFull] if there is no
// room for the containers of an agent of another ABI, whose state is left as it is then.
func Open(opts Options) (*Enforcer, error) {
	if opts.Log == nil || opts.PinDir == "" || opts.Floor == nil || opts.Build == nil {
		return nil, errors.New("enforce: Options.Log, PinDir, Floor and Build are required")
	}
	e := &Enforcer{opts: opts, maps: map[string]*ebpf.Map{}, bound: map[string]kernelBlSockKey{}, look: make(chan struct{}, 1)}
	read := make(chan struct{})
	go func() { // takes longer than what is found out meanwhile
		defer close(read)
		_, _ = e.object() // it is asked again below
	}()
	e.probed = Probe()
	var err error
	if e.backend, err = chooseBackend(opts.Backend, e.probed); err != nil {
		return nil, err
	}
	found := make(chan kernelFacts, 1)
	go func() { found <- findFacts(e.backend) }()
	if e.root, err = findCgroupRoot(); err != nil {
		return nil, err
	}
	if err := mountBPFFS(opts.PinDir); err != nil {
		return nil, err
	}
	<-read
	spec, err := e.object()
	if err != nil {
		return nil, err
	}
	defer e.dropObject()
	e.dir = filepath.Join(opts.PinDir, "abi-"+layoutDigest(spec)+opts.Layout)
	if err := e.openMaps(spec, filepath.Join(e.dir, "maps")); err != nil {
		return nil, e.closeAfter(err)
	}
	if err := e.forgetUses(); err != nil {
		return nil, e.closeAfter(err)
	}
	if err := e.configure(<-found); err != nil {
		return nil, e.closeAfter(err)
	}
	if err := setConstants(spec, e.constants); err != nil {
		return nil, e.closeAfter(err)
	}
	if err := e.carryContainers(); err != nil {
		return nil, e.closeAfter(errors.Join(err, e.discard()))
	}
	if err := errors.Join(e.loadSets(), e.SetFloor(opts.Floor, opts.Build)); err != nil {
		return nil, e.closeAfter(err)
	}
	e.sweep()
	if err := e.attach(); err != nil {
		return nil, e.closeAfter(err)
	}
	// Once more: until now only the earlier agent's programs have seen what containers do.
	if err := errors.Join(e.carryContainers(), e.carryLabels(), e.enrol()); err != nil {
		return nil, e.closeAfter(err)
	}
	return e, nil
}

// Replace takes away what an agent whose maps had another layout left attached. It is for
// when every container that the caller knows has been bound: until then both decide, and
// the stricter answer holds.
func (e *Enforcer) Replace() error {
	return removeOthers(e.opts.PinDir, filepath.Base(e.dir))
}

func (e *Enforcer) closeAfter(err error) error { return errors.Join(err, e.Close()) }

// Close gives up this process's handles. What is pinned stays and goes on enforcing.
func (e *Enforcer) Close() error {
	var errs []error
	for _, m := range e.maps {
		errs = append(errs, m.Close())
	}
	return errors.Join(errs...)
}

// Backend returns the backend in use.
func (e *Enforcer) Backend() verdict.Backend { return e.backend }

// Probed returns what each backend came to on this kernel.
func (e *Enforcer) Probed() []ProbeResult { return e.probed }

// Adopted tells whether an earlier agent's maps were taken over.
func (e *Enforcer) Adopted() bool { return e.adopted }

// bpffsMagic: include/uapi/linux/magic.h, BPF_FS_MAGIC.
const bpffsMagic = 0xcafe4a11

func mountBPFFS(dir string) error {
	if err := os.MkdirAll(dir, 0o700); err != nil {
		return fmt.Errorf("make the pin directory: %w", err)
	}
	var st unix.Statfs_t
	if err := unix.Statfs(dir, &st); err != nil {
		return &fs.PathError{Op: "statfs", Path: dir, Err: err}
	}
	if st.Type == bpffsMagic {
		return nil
	}
	if err := unix.Mount("bpf", dir, "bpf", unix.MS_NOSUID|unix.MS_NODEV|unix.MS_NOEXEC, "mode=0700"); err != nil {
		return fmt.Errorf("mount a bpffs on %s: %w", dir, err)
	}
	return nil
}

// layoutDigest names the shape of all maps: pins of another shape are never adopted.
func layoutDigest(spec *ebpf.CollectionSpec) string {
	var names []string
	for n := range spec.Maps {
		names = append(names, n)
	}
	sort.Strings(names)
	h := sha256.New()
	for _, n := range names {
		m := spec.Maps[n]
		if perLoad(n) {
			continue
		}
		fmt.Fprintf(h, "%s %d %d %d %d %d %v\n", n, m.Type, m.KeySize, m.ValueSize, m.MaxEntries, m.Flags, m.Value)
	}
	return hex.EncodeToString(h.Sum(nil))[:16]
}

// openMaps opens the pinned maps in dir, or makes and pins new ones.
func (e *Enforcer) openMaps(spec *ebpf.CollectionSpec, dir string) error {
	if err := os.MkdirAll(dir, 0o700); err != nil {
		return fmt.Errorf("make %s: %w", dir, err)
	}
	for name, ms := range spec.Maps {
		if perLoad(name) {
			continue
		}
		path := filepath.Join(dir, name)
		m, err := ebpf.LoadPinnedMap(path, nil)
		switch {
		case err == nil:
			if err := ms.Compatible(m); err != nil {
				m.Close()
				return fmt.Errorf("pinned map %s: %w; run belay-agent run --unload to start afresh", path, err)
			}
			e.adopted = true
		case errors.Is(err, fs.ErrNotExist):
			if m, err = ebpf.NewMap(ms); err != nil {
				return fmt.Errorf("make map %s: %w", name, err)
			}
			if err := m.Pin(path); err != nil {
				m.Close()
				return fmt.Errorf("pin map %s: %w", name, err)
			}
		default:
			return fmt.Errorf("open pinned map %s: %w", path, err)
		}
		e.maps[name] = m
	}
	return nil
}

// configure finds the constants of the programs and sets the entry of bl_configs.
func (e *Enforcer) configure(found kernelFacts) error {
	if err := e.pathKey(); err != nil {
		return err
	}
	v1, hierarchy := int32(-1), int32(0)
	if e.root.v1 {
		var err error
		if v1, err = pidsSubsystem(); err != nil {
			return err
		}
		if hierarchy, err = pidsHierarchy(); err != nil {
			return err
		}
	}
	host := map[string]uint32{}
	for _, kind := range []string{"net", "mnt", "ipc", "uts"} {
		var err error
		if host[kind], err = hostNS(kind); err != nil {
			return err
		}
	}
	raw, err := rawMajors()
	if err != nil {
		return err
	}
	if found.err != nil {
		return found.err
	}
	if found.overlayErr != nil {
		e.overlay = found.overlayErr
		e.opts.Log.Warn("every file of an overlay counts as drift: its layout is unknown", "error", e.overlay.Error())
	}
	backends := map[verdict.Backend]kernelBlBackendId{
		verdict.BackendLSM:    kernelBlBackendIdBL_LSM,
		verdict.BackendModret: kernelBlBackendIdBL_MODRET,
		verdict.BackendSignal: kernelBlBackendIdBL_SIGNAL,
	}
	e.specMu.Lock()
	e.constants = map[string]any{
		"bl_backend": uint32(backends[e.backend]), "bl_v1_subsys": v1, "bl_v1_hierarchy": hierarchy,
		"bl_host_net": host["net"], "bl_host_mnt": host["mnt"], "bl_host_ipc": host["ipc"], "bl_host_uts": host["uts"],
		"bl_ovl_upper": found.overlay.upper, "bl_ovl_flags": found.overlay.flags, "bl_ovl_upperdata": found.overlay.upperdata,
		"bl_sip_k0": e.key[0], "bl_sip_k1": e.key[1], "bl_rename_lock": found.renameLock,
		"bl_raw_majors": raw, "bl_setattr_args": found.setattr,
	}
	e.specMu.Unlock()
	return e.updateConfig(func(c *kernelBlConfig) {
		c.Abi = abi
		c.Scoped = flag(len(e.opts.Scopes) > 0)
		c.ReportAllowed = flag(e.opts.ReportAllowed)
	})
}

// abi is BL_ABI of bpf/rules.h; TestABI compares the two.
const abi = 8

func flag(b bool) uint8 {
	if b {
		return 1
	}
	return 0
}

// updateConfig changes the entry of bl_configs, whose only writer it is.
func (e *Enforcer) updateConfig(change func(*kernelBlConfig)) error {
	var c kernelBlConfig
	if err := e.maps["bl_configs"].Lookup(uint32(0), &c); err != nil {
		return fmt.Errorf("read the configuration map: %w", err)
	}
	change(&c)
	if err := e.maps["bl_configs"].Put(uint32(0), c); err != nil {
		return fmt.Errorf("write the configuration map: %w", err)
	}
	return nil
}

// pathKey reads the key of the path hashes from the pinned maps, or draws one.
func (e *Enforcer) pathKey() error {
	g := e.maps["bl_globals"]
	for i, slot := range []kernelBlGlobal{kernelBlGlobalBL_G_KEY0, kernelBlGlobalBL_G_KEY1} {
		if err := g.Lookup(uint32(slot), &e.key[i]); err != nil {
			return fmt.Errorf("read the path key: %w", err)
		}
	}
	if e.key != [2]uint64{} {
		return nil
	}
	var b [16]byte
	_, _ = rand.Read(b[:]) // never fails: crypto/rand
	for i, slot := range []kernelBlGlobal{kernelBlGlobalBL_G_KEY0, kernelBlGlobalBL_G_KEY1} {
		e.key[i] = binary.LittleEndian.Uint64(b[8*i:])
		if err := g.Put(uint32(slot), e.key[i]); err != nil {
			return fmt.Errorf("write the path key: %w", err)
		}
	}
	return nil
}

// Reattach attaches all programs anew and writes all policies again, for when somebody
// has detached or edited them.
func (e *Enforcer) Reattach() error {
	defer e.dropObject()
	if err := e.repin(); err != nil {
		return err
	}
	if err := e.attach(); err != nil {
		return err
	}
	if err := e.enrol(); err != nil {
		return err
	}
	e.mu.Lock()
	defer e.mu.Unlock()
	for set, s := range e.sets.info {
		if s.eff == nil {
			continue
		}
		if err := e.write(set, s); err != nil {
			return err
		}
	}
	for id, set := range e.sets.binds {
		key, err := id.Bytes()
		if err != nil {
			return err
		}
		if err := e.maps["bl_binds"].Put(kernelBlId{B: key}, set); err != nil {
			return fmt.Errorf("bind %s: %w", id.Short(), full(err))
		}
		e.rulesChanged(&key)
	}
	e.rulesChanged(nil) // what was opened meanwhile nobody has judged
	return e.updateConfig(func(c *kernelBlConfig) {
		c.Abi, c.FloorSet, c.BuildSet = abi, e.sets.floor, e.sets.build
		c.Scoped = flag(len(e.opts.Scopes) > 0)
	})
}

// attach loads and attaches the programs of the backend and pins their links in a
// directory of their own; then it removes the directories of earlier ones.
func (e *Enforcer) attach() error {
	e.attachMu.Lock()
	defer e.attachMu.Unlock()
	dir := filepath.Join(e.dir, "links")
	if err := e.fillScopes(); err != nil {
		return err
	}
	gen, err := nextGeneration(dir)
	if err != nil {
		return err
	}
	// What an agent left that was killed while it attached is only a part. Were it kept,
	// an agent that dies at every start would fill the kernel's places for programs.
	name := fmt.Sprintf("gen-%06d", gen)
	if err := removeParts(dir); err != nil {
		return err
	}
	var wanted, attached []hook
	held, err := e.held()
	if err != nil {
		return err
	}
	for _, h := range hooks {
		if h.in(e.backend) && (!h.syscalls || e.opts.SignalSyscalls) && (h.held == 0 || h.held&held != 0) {
			wanted = append(wanted, h)
		}
	}
	next, stop, err := e.loadAhead(wanted)
	if err != nil {
		return err
	}
	defer stop()
	fresh := filepath.Join(dir, partPrefix+name)
	if err := os.MkdirAll(fresh, 0o700); err != nil {
		return fmt.Errorf("make %s: %w", fresh, err)
	}
	missing := map[string]error{}
	for _, h := range wanted {
		prog, err := next()
		if err == nil {
			err = e.attachOne(h, fresh, prog)
		}
		if err != nil {
			if h.need {
				return errors.Join(fmt.Errorf("hook %s: %w", h.name, err), os.RemoveAll(fresh))
			}
			missing[h.program] = err
			e.opts.Log.Warn("hook refused by this kernel; the levels of its rules are lower", "hook", h.name, "error", err.Error())
			continue
		}
		attached = append(attached, h)
	}
	e.missMu.Lock()
	e.missing = missing
	e.missMu.Unlock()
	e.links, e.attached = filepath.Join(dir, name), attached
	if err := os.Rename(fresh, e.links); err != nil {
		return fmt.Errorf("finish the pins: %w", err)
	}
	return removeOthers(dir, name)
}

func (h hook) in(b verdict.Backend) bool {
	return slices.Contains(h.backends, b)
}

// loadersAtOnce is how many programs are verified at one time: verifying takes most of a start, and a processor.
const loadersAtOnce = 2

// loadAhead loads the programs of hooks, some at a time, and returns what hands them over in the order of the hooks; the caller
// closes them. The longest begin first, so that none of them is waited for alone at the end. stop gives back those that were not
// handed over, and is to be called.
func (e *Enforcer) loadAhead(hooks []hook) (next func() (*ebpf.Program, error), stop func(), err error) {
	spec, err := e.object()
	if err != nil {
		return nil, nil, err
	}
	order := make([]int, len(hooks))
	for i := range hooks {
		order[i] = i
	}
	length := func(i int) int {
		if p := spec.Programs[hooks[i].program]; p != nil {
			return len(p.Instructions)
		}
		return 0
	}
	slices.SortStableFunc(order, func(a, b int) int { return length(b) - length(a) })
	caches := make(chan *btf.Cache, loadersAtOnce) // one is not for concurrent use
	for range loadersAtOnce {
		caches <- btf.NewCache()
	}
	take, rest := ahead(order, loadersAtOnce, func(i int) loaded {
		cache := <-caches
		defer func() { caches <- cache }()
		prog, err := e.load(hooks[i], cache)
		return loaded{prog, err}
	})
	next = func() (*ebpf.Program, error) { l := take(); return l.prog, l.err }
	stop = func() {
		for _, l := range rest() {
			if l.prog != nil {
				l.prog.Close()
			}
		}
	}
	return next, stop, nil
}

// loaded is what became of loading a program.
type loaded struct {
	prog *ebpf.Program
	err  error
}

// ahead does the jobs 0 to len(order)-1, begun in that order and so many at a time. take waits for those of 0, 1, 2 and so on in
// turn; rest ends the work, and returns what was done and not taken.
func ahead[T any](order []int, atOnce int, do func(i int) T) (take func() T, rest func() []T) {
	places := make([]chan T, len(order)) // by job
	for i := range places {
		places[i] = make(chan T, 1)
	}
	end := int64(len(order))
	var begun atomic.Int64
	for range atOnce {
		go func() {
			for n := begun.Add(1); n <= end; n = begun.Add(1) {
				i := order[n-1]
				places[i] <- do(i)
			}
		}()
	}
	taken := 0
	take = func() T {
		taken++
		return <-places[taken-1]
	}
	rest = func() []T {
		var left []T
		for _, i := range order[:min(begun.Swap(end), end)] {
			if i >= taken {
				left = append(left, <-places[i])
			}
		}
		taken = len(order)
		return left
	}
	return take, rest
}

// load loads a hook's program.
func (e *Enforcer) load(h hook, cache *btf.Cache) (*ebpf.Program, error) {
	if h.kind == attachCgroup && e.root.v1 {
		return nil, fmt.Errorf("cgroup programs need a cgroup v2 hierarchy: %w", ErrUnsupported)
	}
	spec, err := e.object()
	if err != nil {
		return nil, err
	}
	return loadProgram(spec, h.program, e.maps, cache)
}

// attachOne attaches a hook's program, which it closes: the pin of the link holds it.
func (e *Enforcer) attachOne(h hook, dir string, prog *ebpf.Program) error {
	defer prog.Close()
	spec, err := e.object()
	if err != nil {
		return err
	}
	var l link.Link
	switch h.kind {
	case attachLSM:
		l, err = link.AttachLSM(link.LSMOptions{Program: prog})
	case attachCgroup:
		l, err = link.AttachCgroup(link.CgroupOptions{Path: e.root.dir, Attach: h.cgroup, Program: prog})
	default:
		l, err = link.AttachTracing(link.TracingOptions{Program: prog, AttachType: spec.Programs[h.program].AttachType})
	}
	if err != nil {
		return fmt.Errorf("attach: %w", err)
	}
	if err := l.Pin(filepath.Join(dir, h.program)); err != nil {
		return errors.Join(fmt.Errorf("pin the link: %w", err), l.Close())
	}
	return l.Close() // the pin holds it
}

// removeOthers removes every directory in dir but keep: unpinning the links in them
// detaches their programs.
func removeOthers(dir, keep string) error {
	entries, err := os.ReadDir(dir)
	if err != nil {
		return fmt.Errorf("list pins: %w", err)
	}
	for _, d := range entries {
		if d.Name() == keep || !d.IsDir() { // a bpffs has files of its own: maps.debug, progs.debug
			continue
		}
		if err := os.RemoveAll(filepath.Join(dir, d.Name())); err != nil {
			return fmt.Errorf("remove old pins: %w", err)
		}
	}
	return nil
}

// Loaded tells whether anything is pinned in pinDir.
func Loaded(pinDir string) bool {
	var st unix.Statfs_t
	return unix.Statfs(pinDir, &st) == nil && st.Type == bpffsMagic
}

// Unload removes every pin below pinDir, which detaches all programs, and unmounts the
// bpffs. It is not an error if there is nothing.
func Unload(pinDir string) error {
	if !Loaded(pinDir) {
		return nil
	}
	if err := removeOthers(pinDir, ""); err != nil {
		return err
	}
	if err := unix.Unmount(pinDir, 0); err != nil && !errors.Is(err, unix.EINVAL) {
		return fmt.Errorf("unmount %s: %w", pinDir, err)
	}
	return nil
}

func (e *Enforcer) fillScopes() error {
	ids, err := e.root.scopeIDs(e.opts.Scopes)
	if err != nil {
		return err
	}
	m := e.maps["bl_scopes"]
	want := map[uint64]bool{}
	for _, id := range ids {
		want[uint64(id)] = true
		if err := m.Put(uint64(id), uint32(1)); err != nil {
			return fmt.Errorf("write the scope map: %w", err)
		}
	}
	var id uint64
	var one uint32
	var stale []uint64
	it := m.Iterate()
	for it.Next(&id, &one) {
		if !want[id] {
			stale = append(stale, id)
		}
	}
	if err := it.Err(); err != nil {
		return fmt.Errorf("list the scope map: %w", err)
	}
	for _, id := range stale {
		if err := m.Delete(id); err != nil && !errors.Is(err, ebpf.ErrKeyNotExist) {
			return fmt.Errorf("clean the scope map: %w", err)
		}
	}
	return nil
}
