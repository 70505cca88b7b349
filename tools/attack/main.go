// Command attack plays one named attack against the container it runs in, and says
// whether it won. Each attack is a technique by which a rule of a runtime policy could
// be got around; the threat model names them by the same ids.
//
// It owns a scratch directory for the time of one attack. It never reaches outside its
// container, and it is static and small so that a container needs nothing else but
// what `ctr mkroot` puts there. It depends on golang.org/x/sys/unix only.
package main

import (
	"errors"
	"flag"
	"fmt"
	"os"
	"text/tabwriter"
)

const usageText = `usage: attack [flags] NAME
       attack list            names, technique ids and needs
       attack serve ADDR HOW  speak as an SSH server to the first who connects
       attack dial ADDR HOW   speak as an SSH client
       attack ask ADDR        send a question by UDP and print the answer
       attack answer ADDR     give UDP questions back
       attack listen          listen once by TCP
HOW: whole, bytes (one segment a byte), banner (lines first), deep (7 KiB of lines first);
     of serve also bound (binds, and waits before it listens)

exit status: 0 the attack WON; 1 it was refused or killed; 2 it could not be tried; 64 usage
`

const (
	exitWon     = 0
	exitRefused = 1
	exitUntried = 2
	exitUsage   = 64
)

// What an attack needs beyond being run as a user that is not root.
const (
	needRoot   = "root"   // it starts as user 0
	needVolume = "volume" // --home is a volume: an image's folders cannot be renamed
	needX32    = "x32"    // a kernel with CONFIG_X86_X32, which Debian's has not
	needBPF    = "bpf"    // user 0 with CAP_SYS_ADMIN and CAP_BPF
	needSocket = "socket" // --sock is a socket that answers
	// needAbstract is the host's network namespace, where --sock is an abstract socket that answers.
	needAbstract = "abstract"
	needRaw      = "raw"    // user 0 with CAP_NET_RAW
	needHandle   = "handle" // user 0 with CAP_DAC_READ_SEARCH, and --home is a volume
	needMove     = "move"   // user 0 with CAP_SYS_ADMIN, and --home is a volume
	needAdmin    = "admin"  // user 0 with CAP_SYS_ADMIN
	needModule   = "module" // user 0 with CAP_SYS_MODULE
	needPerf     = "perf"   // user 0 with CAP_PERFMON
	needBoot     = "boot"   // user 0 with CAP_SYS_BOOT
	needRawIO    = "rawio"  // user 0 with CAP_SYS_RAWIO
	// needNetAdmin is user 0 with CAP_NET_ADMIN, in a network namespace of its own.
	needNetAdmin = "netadmin"
	// needHostPID is user 0 in the host's PID namespace, started by a process outside.
	needHostPID  = "hostpid"
	needResource = "resource" // user 0 with CAP_SYS_RESOURCE
	needHostNS   = "hostns"   // user 0 in the host's network, IPC and UTS namespaces
	needOther    = "other"    // --pid is a process of another container; see needHostPID
	needPeer     = "peer"     // a device to a host that is --peer
	needPeerRaw  = "peerraw"  // the same, user 0 with CAP_NET_RAW
	needHost     = "host"     // user 0, and --host is a host's directories
	// The same with CAP_SYS_ADMIN or CAP_DAC_READ_SEARCH.
	needHostAdmin  = "hostadmin"
	needHostHandle = "hosthandle"
	// needAgent is user 0 in the host's PID namespace with CAP_SYS_NICE and CAP_SYS_PTRACE;
	// --agent is a process.
	needAgent = "agent"
	// needEnter is needHostPID with CAP_SYS_ADMIN and CAP_SYS_CHROOT, needJoin is needOther with CAP_SYS_ADMIN.
	needEnter = "enter"
	needJoin  = "join"
	// needTwice is needVolume, and --at is the same volume, read-only.
	needTwice  = "twice"
	needBinfmt = "binfmt" // a handler of binfmt_misc on the host; see e10Binfmt
)

// attack is one technique.
type attack struct {
	name, id string
	needs    string
	about    string
	run      func(*env) error // nil: it won; see classify for the rest
}

// attacks lists all of them in the order of their ids.
func attacks() []attack {
	var all []attack
	for _, family := range [][]attack{execAttacks(), evadeAttacks(), privAttacks(), sshAttacks(), keyAttacks(), fileAttacks(), pathAttacks(), privilegeAttacks(), controlAttacks(), networkAttacks(), forgeAttacks(), dnsAttacks(), socketAttacks(), phaseAttacks(), hostAttacks(), kernelAttacks(), gapAttacks(), indirectAttacks(), verbAttacks()} {
		all = append(all, family...)
	}
	return all
}

func main() { os.Exit(run(os.Args[1:])) }

func run(args []string) int {
	e := &env{}
	fs := flag.NewFlagSet("attack", flag.ContinueOnError)
	fs.Usage = func() {
		fmt.Fprint(fs.Output(), usageText+"flags:\n")
		fs.PrintDefaults()
	}
	fs.StringVar(&e.base, "dir", "/tmp", "where files are dropped")
	fs.StringVar(&e.target, "target", "/bin/id", "program of the image whose copy or alias is executed; prints uid=")
	fs.StringVar(&e.owned, "owned", "/home/app/bin/id", "as --target, but the attacker's own file")
	fs.StringVar(&e.home, "home", "/home/app", "folder with the .ssh that is attacked")
	fs.StringVar(&e.sock, "sock", "/run/engine/docker.sock", "socket of the container engine")
	fs.StringVar(&e.peer, "peer", "", "address and port of whom the attacker has a device to")
	fs.StringVar(&e.over, "over", "", "another address at the other end of that device")
	fs.StringVar(&e.host, "host", "/host", "a host's directories: usr/bin/dockerd and others")
	fs.IntVar(&e.agent, "agent", 0, "process that is attacked as the agent")
	fs.StringVar(&e.at, "at", "/etc", "directory or file of the attacks that plant a file or read one")
	fs.IntVar(&e.pid, "pid", 0, "a process of another container, for the attacks on those")
	fs.IntVar(&e.count, "count", 200, "tries of the attacks that retry")
	fs.StringVar(&e.wait, "wait", "", "file that an attack of two steps waits for between them, having made the same with .ready added")
	fs.BoolVar(&e.late, "late", false, "the attack begins with that wait")
	if err := fs.Parse(args); err != nil {
		if errors.Is(err, flag.ErrHelp) {
			return 0
		}
		return exitUsage
	}
	switch name := fs.Arg(0); {
	case name == "list" && fs.NArg() == 1:
		return list()
	case (name == "serve" || name == "dial") && fs.NArg() == 3:
		return talk(e, name, fs.Arg(1), fs.Arg(2))
	case (name == "ask" || name == "answer") && fs.NArg() == 2:
		return exchange(name, fs.Arg(1))
	case name == "resolve" && fs.NArg() == 2:
		return resolve(e, fs.Arg(1))
	case name == "listen" && fs.NArg() == 1:
		return listenOnce()
	case fs.NArg() == 1:
		for _, a := range attacks() {
			if a.name == name {
				return play(a, e)
			}
		}
		fmt.Fprintf(os.Stderr, "attack: no attack %q; attack list names them\n", name)
		return exitUsage
	}
	fs.Usage()
	return exitUsage
}

func list() int {
	w := tabwriter.NewWriter(os.Stdout, 0, 0, 2, ' ', 0)
	fmt.Fprintln(w, "NAME\tID\tNEEDS\tWHAT")
	for _, a := range attacks() {
		needs := a.needs
		if needs == "" {
			needs = "-"
		}
		fmt.Fprintf(w, "%s\t%s\t%s\t%s\n", a.name, a.id, needs, a.about)
	}
	if err := w.Flush(); err != nil {
		return exitUntried
	}
	return 0
}

func play(a attack, e *env) int {
	dir, err := os.MkdirTemp(e.base, "attack-")
	if err != nil {
		fmt.Fprintf(os.Stderr, "%s: cannot try: %v\n", a.name, err)
		return exitUntried
	}
	e.dir = dir
	if e.late {
		err = e.turn()
	}
	if err == nil {
		err = a.run(e)
	}
	_ = os.RemoveAll(dir) // may be busy: what was mounted there ends with its namespace
	switch {
	case err == nil:
		fmt.Fprintf(os.Stdout, "%s: %s: WON\n", a.name, a.id)
		return exitWon
	case refused(err):
		fmt.Fprintf(os.Stdout, "%s: %s: refused: %v\n", a.name, a.id, err)
		return exitRefused
	default:
		fmt.Fprintf(os.Stderr, "%s: %s: cannot try: %v\n", a.name, a.id, err)
		return exitUntried
	}
}
