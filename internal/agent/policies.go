package agent

import (
	"bytes"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"sync"
	"syscall"
	"time"

	"github.com/belay-project/belay/internal/atomicfile"
	"github.com/belay-project/belay/internal/control"
	"github.com/belay-project/belay/internal/policy"
	"github.com/belay-project/belay/internal/verdict"
)

// policies holds the set in force. It is replaced as a whole, or not at all.
type policies struct {
	dir      string
	lastGood string

	// mu guards what follows.
	mu      sync.Mutex
	set     *policy.Set
	refused map[string]string // policy name to why this host does not take it
	all     []*policy.RuntimePolicy
	loaded  time.Time
	broken  string // why the directory's present content is not in force
	print   string // fingerprint of the directory at the last load
}

// load reads the policy directory. If its content is bad, the last good policies stay in
// force, and the error says what is wrong; without any last good ones there is no set.
func (p *policies) load() error {
	p.mu.Lock()
	defer p.mu.Unlock()
	p.print = fingerprint(p.dir)
	set, err := policy.LoadDir(p.dir)
	if err == nil {
		p.set, p.all, p.broken, p.loaded = set, set.Policies(), "", time.Now()
		return p.keep()
	}
	p.broken = err.Error()
	if p.set != nil {
		return err
	}
	last, lerr := policy.ParseFiles(p.lastGood)
	if lerr != nil {
		return err
	}
	p.set, p.all, p.loaded = last, last.Policies(), time.Now()
	return err
}

// keep saves the set as the last good one, for a start at which the directory is broken.
func (p *policies) keep() error {
	var b bytes.Buffer
	for i, rp := range p.set.Policies() {
		if i > 0 {
			b.WriteString("---\n")
		}
		b.Write(rp.Canonical())
	}
	if err := atomicfile.WriteFile(p.lastGood, b.Bytes(), 0o600); err != nil {
		return fmt.Errorf("keep the policies for the next start: %w", err)
	}
	return nil
}

// refuse takes out of the set the policies that require a level which this host does
// not give. Returns true if there are any.
func (p *policies) refuse(levels map[verdict.Rule]verdict.Level) (bool, error) {
	p.mu.Lock()
	defer p.mu.Unlock()
	p.refused = map[string]string{}
	var keep []*policy.RuntimePolicy
	for _, rp := range p.all {
		var short []string
		for _, r := range rp.Denies() {
			if rp.Spec.Require != verdict.Unsupported && levels[r] < rp.Spec.Require {
				short = append(short, fmt.Sprintf("%s gets %s", r, levels[r]))
			}
		}
		if len(short) > 0 {
			p.refused[rp.Name] = fmt.Sprintf("requires %s, but here %s", rp.Spec.Require, strings.Join(short, ", "))
			continue
		}
		keep = append(keep, rp)
	}
	if len(p.refused) == 0 {
		return false, nil
	}
	set, err := policy.NewSet(keep)
	if err != nil {
		return false, err
	}
	p.set = set
	return true, nil
}

func (p *policies) current() *policy.Set {
	p.mu.Lock()
	defer p.mu.Unlock()
	return p.set
}

func (p *policies) changed() bool {
	p.mu.Lock()
	defer p.mu.Unlock()
	return fingerprint(p.dir) != p.print
}

// helpers returns the host programs that policies name as the runtimes' own.
func (p *policies) helpers() []string {
	var out []string
	for _, rp := range p.current().Policies() {
		if rp.Spec.Exec != nil {
			out = append(out, rp.Spec.Exec.RuntimeHelpers...)
		}
	}
	slices.Sort(out)
	return slices.Compact(out)
}

func (p *policies) status() control.PolicySet {
	p.mu.Lock()
	defer p.mu.Unlock()
	s := control.PolicySet{Dir: p.dir, Loaded: p.loaded, Error: p.broken}
	if p.set != nil {
		s.Revision = p.set.Revision()
	}
	for _, rp := range p.all {
		s.Policies = append(s.Policies, control.PolicyStatus{
			Name: rp.Name, Revision: rp.Revision, Mode: rp.Spec.Mode.String(), File: rp.File, Line: rp.Line, Refused: p.refused[rp.Name],
		})
	}
	return s
}

// fingerprint changes when a file of the directory does: names, sizes, inodes, times.
func fingerprint(dir string) string {
	entries, err := os.ReadDir(dir)
	if err != nil {
		if errors.Is(err, fs.ErrNotExist) {
			return "absent"
		}
		return err.Error()
	}
	var b strings.Builder
	for _, e := range entries {
		if info, err := os.Stat(filepath.Join(dir, e.Name())); err == nil {
			fmt.Fprintf(&b, "%s %d %d", e.Name(), info.Size(), info.ModTime().UnixNano())
			if st, ok := info.Sys().(*syscall.Stat_t); ok {
				fmt.Fprintf(&b, " %d %d", st.Ino, st.Ctim.Nano())
			}
			b.WriteByte('\n')
		}
	}
	return b.String()
}
