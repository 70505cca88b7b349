package doctor

import (
	"context"
	"fmt"
	"io/fs"
	"path"
	"slices"
	"strconv"
	"strings"
	"syscall"
	"time"

	"github.com/belay-project/belay/internal/control"
	"github.com/belay-project/belay/internal/gate/preflight"
	"github.com/belay-project/belay/internal/policy"
)

const (
	// The journal takes at most 256 MiB unless the agent was told otherwise.
	littleBytes  = 512 << 20
	tooFewBytes  = 32 << 20
	littleInodes = 1000

	databaseOld = 7 * 24 * time.Hour
	// clockSlack is how far ahead of the clock the database may have been made.
	clockSlack = time.Hour
)

// sockets are where engines listen by default.
var sockets = []string{"/run/docker.sock", "/run/docker-upstream/docker.sock", "/run/containerd/containerd.sock", "/run/podman/podman.sock", "/run/crio/crio.sock"}

// checkEngines tells which engines listen where, and whom their sockets let in. Whether
// that is a way around the gate is for checkGate.
func (e *examination) checkEngines() {
	const id = "engine.socket"
	groups, gerr := e.groups()
	found, named := 0, map[string]bool{}
	own := path.Join(e.RunDir, "docker.sock")
	for _, p := range append(slices.Clone(sockets), own) {
		name := p
		if p == own { // the directory is the operator's word, and so in no text
			name = "docker.sock of --run-dir"
		}
		info, err := e.stat(p)
		switch {
		case missing(err):
			continue
		case err != nil:
			e.add(id, Warn, name+" cannot be looked at", errorText(err), asRoot)
			continue
		case info.Mode()&fs.ModeSocket == 0:
			e.add(id, Warn, name+" is no socket", p, "remove it and restart who should listen there")
			continue
		}
		found++
		e.checkSocket(p, name, info, groups, named)
	}
	if found == 0 {
		e.add(id, Info, "no container engine listens in its usual place", "", "if one runs elsewhere, name it to the agent with --docker-host or --containerd")
	}
	if gerr != nil {
		e.add("engine.group", Warn, "who is in which group cannot be read", errorText(gerr), asRoot)
	}
}

func (e *examination) checkSocket(p, name string, info fs.FileInfo, groups map[uint32]group, named map[string]bool) {
	const id = "engine.socket"
	st, ok := info.Sys().(*syscall.Stat_t)
	if !ok {
		e.add(id, Warn, "whose "+name+" is cannot be told", p, asRoot)
		return
	}
	g := groups[st.Gid]
	what := fmt.Sprintf("%s has mode %04o, uid %d, gid %d", name, info.Mode().Perm(), st.Uid, st.Gid)
	acl, err := e.System.ACL(p)
	switch {
	case info.Mode().Perm()&0o002 != 0:
		e.add(id, Warn, what+": everybody may connect, which is well for the gate's socket alone", "group "+g.name, "chmod o-w "+p+", and in the unit or configuration of who makes it")
	case err != nil:
		e.add(id, Warn, what+", and whether it has an access control list cannot be read", errorText(err), asRoot)
	case acl:
		e.add(id, Warn, what+", and an access control list lets others connect", "group "+g.name, "getfacl "+p+"; setfacl -b "+p)
	default:
		e.add(id, OK, what, "group "+g.name, "")
	}
	if st.Gid == 0 || info.Mode().Perm()&0o020 == 0 || named[g.name] || g.name == "" {
		return
	}
	named[g.name] = true
	e.add("engine.group", Info, fmt.Sprintf("the group of %s (gid %d) has %d members, who may use it", name, st.Gid, len(g.members)),
		g.name+": "+strings.Join(g.members, ", "), "gpasswd -d USER GROUP takes one out; docs/gate.md has the gate judge what they do")
}

// group is a line of /etc/group, with those added whose primary group it is.
type group struct {
	name    string
	members []string
}

// groups reads group(5) and passwd(5). Users of other name services are not in it.
func (e *examination) groups() (map[uint32]group, error) {
	text, err := e.read("/etc/group")
	if err != nil {
		return nil, err
	}
	out := map[uint32]group{}
	for l := range strings.Lines(text) {
		f := strings.Split(strings.TrimSpace(l), ":")
		if len(f) < 4 {
			continue
		}
		gid, err := strconv.ParseUint(f[2], 10, 32)
		if err != nil {
			continue
		}
		g := group{name: f[0]}
		if f[3] != "" {
			g.members = strings.Split(f[3], ",")
		}
		out[uint32(gid)] = g
	}
	if text, err = e.read("/etc/passwd"); err != nil {
		return out, err
	}
	for l := range strings.Lines(text) {
		f := strings.Split(strings.TrimSpace(l), ":")
		if len(f) < 4 {
			continue
		}
		gid, err := strconv.ParseUint(f[3], 10, 32)
		if g, ok := out[uint32(gid)]; err == nil && ok && !slices.Contains(g.members, f[0]) {
			g.members = append(g.members, f[0])
			out[uint32(gid)] = g
		}
	}
	return out, nil
}

// checkGate reuses what belay-agent preflight looks at.
func (e *examination) checkGate(ctx context.Context) {
	const id = "gate.docker"
	first := slices.Index(ids, id)
	if !slices.ContainsFunc(ids[first:], e.wants) {
		return // it asks the daemon, which can take long
	}
	if e.Preflight == nil {
		e.add(id, Info, "ways around the gate were not looked for: there is to be no Docker here", "", "leave out --docker-host none")
		return
	}
	docker, err := e.dockerThere()
	switch {
	case err != nil:
		e.add(id, Warn, "whether Docker runs cannot be told", errorText(err), asRoot)
	case !docker:
		e.add(id, Info, "Docker does not run: there are no ways around the gate to look for", "", "run belay doctor again when it runs")
		return
	}
	unused := e.gateUnused()
	for _, f := range e.Preflight(ctx).Findings {
		s := severityOf(f.Severity)
		if s == Fail && unused && slices.Contains(onlyAround, f.ID) {
			s, f.What = Info, f.What+"; no AccessPolicy or ImagePolicy is in force, so that there is no gate to go around yet"
		}
		e.out = append(e.out, Finding{ID: f.ID, Severity: s, Text: f.What, Why: f.Why, Fix: f.Fix})
	}
}

// onlyAround are findings that every host with Docker has before its gate is used, and that only mean that
// the gate can be walked around.
var onlyAround = []string{"daemon.socket", "docker.group", "plugin.inforce", "systemd.socket"}

// gateUnused tells whether the gate has nothing to refuse by: no policy of it is in force. An agent that does
// not answer says nothing of the kind.
func (e *examination) gateUnused() bool {
	return e.status != nil && !slices.ContainsFunc(e.status.Policies.Policies, func(p control.PolicyStatus) bool {
		return p.Kind == policy.AccessKind || p.Kind == policy.ImageKind
	})
}

// severityOf puts preflight's severities among ours: what is unknown is a warning.
func severityOf(s preflight.Severity) Severity {
	switch s {
	case preflight.OK:
		return OK
	case preflight.Warn, preflight.Unknown:
		return Warn
	}
	return Fail
}

// dockerThere tells whether a dockerd runs, or something listens in its place.
func (e *examination) dockerThere() (bool, error) {
	for _, p := range sockets[:2] {
		if _, err := e.stat(p); err == nil {
			return true, nil
		}
	}
	entries, err := fs.ReadDir(e.Root, "proc")
	if err != nil {
		return false, err
	}
	return slices.ContainsFunc(entries, func(d fs.DirEntry) bool {
		_, err := strconv.Atoi(d.Name())
		return err == nil && e.word("/proc/"+d.Name()+"/comm") == "dockerd"
	}), nil
}

func (e *examination) checkMachine() {
	const id = "clock.synchronised"
	switch in, err := e.System.Synchronised(); {
	case err != nil:
		e.add(id, Warn, "whether the clock is synchronised cannot be read", errorText(err), asRoot)
	case !in:
		e.add(id, Warn, "nobody synchronises the clock: times of records, codes of second factors and ages of scans go wrong with it", "", "apt install chrony, or systemctl enable --now systemd-timesyncd")
	default:
		e.add(id, OK, "the clock is synchronised", "", "")
	}
	e.checkDisk("disk.state", "the state", e.StateDir)
	e.checkDisk("disk.journal", "the journal", e.Journal)
}

// checkDisk looks at the room that what has in dir. The directory is the operator's word, and so in no text.
func (e *examination) checkDisk(id, what, dir string) {
	s, err := e.System.Space(dir)
	mib := s.Free >> 20
	room := "make room below " + dir + ", or move it with the agent's --state-dir"
	switch {
	case missing(err) && e.status == nil:
		e.add(id, Info, "the directory of "+what+" is not there yet: the agent makes it", dir, "start the agent")
	case err != nil:
		e.add(id, Warn, "the room for "+what+" cannot be read", errorText(err), "name the agent's directory with --state-dir; "+asRoot)
	case s.Free < tooFewBytes:
		e.add(id, Fail, fmt.Sprintf("%d MiB are left for %s: records are lost, or the oldest dropped", mib, what), dir, room)
	case s.Counted && s.Inodes == 0:
		e.add(id, Fail, "no inode is left for "+what, dir, room)
	case s.Free < littleBytes:
		e.add(id, Warn, fmt.Sprintf("%d MiB are left for %s", mib, what), dir, room)
	case s.Counted && s.Inodes < littleInodes:
		e.add(id, Warn, fmt.Sprintf("%d inodes are left for %s", s.Inodes, what), dir, room)
	default:
		e.add(id, OK, fmt.Sprintf("%d MiB are left for %s", mib, what), dir, "")
	}
}

func (e *examination) checkScanner() {
	const id = "scan.database"
	asOf, leftOut, err := e.Database()
	age := e.Now().Sub(asOf)
	switch {
	case missing(err):
		e.add(id, Warn, "there is no vulnerability database: no image is matched", "", "belay db update, or belay db import on a host without network")
	case err != nil:
		e.add(id, Warn, "the vulnerability database cannot be read", errorText(err), "belay db verify; belay db update makes it anew")
	case age > databaseOld:
		e.add(id, Warn, fmt.Sprintf("the vulnerability database is %d days old", int(age.Hours()/24)), "", "belay db update, best each day by a timer")
	case age < -clockSlack:
		e.add(id, Warn, "the vulnerability database is of the future: a clock is wrong", "", "see clock.synchronised, then belay db update")
	case leftOut > 0:
		e.add(id, Warn, fmt.Sprintf("the vulnerability database lacks %d records that could not be read: what they are about is not found", leftOut), "",
			"belay db update, or import once more, which names some of them; tell their publisher")
	default:
		e.add(id, OK, fmt.Sprintf("the vulnerability database is %d hours old", max(0, int(age.Hours()))), "", "")
	}
	e.checkProgram()
}

func (e *examination) checkProgram() {
	const id = "scan.scanner"
	info, err := e.stat(e.Scanner)
	switch {
	case missing(err):
		e.add(id, Warn, "there is no scanner: no image is scanned", e.Scanner, "install belay-scanner beside belay and belay-agent, or name it with --scanner")
	case err != nil:
		e.add(id, Warn, "the scanner cannot be looked at", errorText(err), asRoot)
	case !info.Mode().IsRegular() || info.Mode().Perm()&0o111 == 0:
		e.add(id, Warn, "the scanner is no program", e.Scanner, "install belay-scanner anew")
	case info.Mode().Perm()&0o022 != 0 && !info.Mode().IsDir():
		e.add(id, Fail, "others than its owner can change the scanner", e.Scanner, "chmod go-w "+e.Scanner)
	case e.status != nil && e.status.ScannerError != "":
		e.add(id, Warn, "the agent cannot start the scanner: no image is scanned", e.status.ScannerError, "belay-agent run --sandbox-without cgroup on a host without the memory controller, or boot it with cgroup_enable=memory")
	default:
		e.add(id, OK, "the scanner is there", e.Scanner, "")
	}
}
