// Command actor plays in the containers of a lab what programs do that a policy
// forbids, and says what came of it. It is static and needs nothing of an image.
//
// It owns no state. It never does harm: what it drops, renames and connects to is its
// own image and the lab's network. Row: commands; it imports the standard library and
// golang.org/x/sys only.
package main

import (
	"bufio"
	"bytes"
	"context"
	"crypto/sha256"
	"errors"
	"fmt"
	"io"
	"net"
	"net/http"
	"net/netip"
	"os"
	"os/exec"
	"os/signal"
	"slices"
	"strconv"
	"syscall"
	"time"

	"golang.org/x/sys/unix"
)

const usage = `usage: actor ACT [ARGS]
  say WORD          print "ran WORD" and who runs it
  touch FILE        say and leave FILE behind
  wait              until SIGTERM
  probe             short work every 2 ms, for each duration that standard input has as a line; prints how late it was done
  spawn PATH ARGS   run another program
  drop TO           copy itself to TO and run that
  rename TO         copy itself beside TO, rename the copy over TO and run that
  memfd             copy itself into memory and run that
  loop N PATH ARGS  try to run a program N times
  knock N ADDR      connect a UDP socket N times
  serve ADDR        a web server; reloads on SIGHUP
  get ADDR          print what a web server there says
  api METHOD PATH   ask the Docker API at /var/run/docker.sock; prints status and answer
  dial ADDR         connect and print the first line that comes
  sshd ADDR         answer like an SSH server, first line only
  ssh ADDR          speak like an SSH client, first line only
exit status: 0 it ran; 126 refused; 137 killed; 1 anything else
`

// The exit statuses that docker also uses for these ends.
const (
	exitOther   = 1
	exitRefused = 126
	exitKilled  = 137
)

// acts is every act and the number of arguments that it needs.
var acts = map[string]struct {
	args int
	run  func(args []string) int
}{
	"say":    {1, say},
	"touch":  {1, touch},
	"wait":   {0, wait},
	"probe":  {0, probe},
	"spawn":  {1, func(a []string) int { return spawn(a[0], a[1:]...) }},
	"drop":   {1, drop},
	"rename": {1, rename},
	"memfd":  {0, memfd},
	"loop":   {2, loop},
	"knock":  {2, knock},
	"serve":  {1, serve},
	"get":    {1, get},
	"api":    {2, api},
	"dial":   {1, func(a []string) int { return dial(a[0], "") }},
	"ssh":    {1, func(a []string) int { return dial(a[0], "SSH-2.0-actor\r\n") }},
	"sshd":   {1, sshd},
}

func main() {
	if len(os.Args) < 2 {
		fmt.Fprint(os.Stderr, usage)
		os.Exit(2)
	}
	act, ok := acts[os.Args[1]]
	if !ok || len(os.Args)-2 < act.args {
		fmt.Fprint(os.Stderr, usage)
		os.Exit(2)
	}
	os.Exit(act.run(os.Args[2:]))
}

// knock tells how often connecting a socket passed and was refused. It sends nothing.
func knock(args []string) int {
	n, err := strconv.Atoi(args[0])
	if err != nil {
		return fail(err)
	}
	addr, err := netip.ParseAddrPort(args[1])
	if err != nil {
		return fail(err)
	}
	fd, err := unix.Socket(unix.AF_INET, unix.SOCK_DGRAM|unix.SOCK_CLOEXEC, 0)
	if err != nil {
		return fail(err)
	}
	to := &unix.SockaddrInet4{Addr: addr.Addr().As4(), Port: int(addr.Port())}
	var passed, refused int
	for range n {
		switch err := unix.Connect(fd, to); err {
		case nil:
			passed++
		case unix.EPERM:
			refused++
		default:
			return fail(err)
		}
	}
	fmt.Printf("knock passed=%d refused=%d\n", passed, refused)
	return 0
}

func say(args []string) int {
	fmt.Printf("ran %s uid=%d euid=%d\n", args[0], os.Getuid(), os.Geteuid())
	return 0
}

func touch(args []string) int {
	if err := os.WriteFile(args[0], []byte("ran\n"), 0o644); err != nil {
		return fail(err)
	}
	return say([]string{"touch"})
}

func wait([]string) int {
	c := make(chan os.Signal, 1)
	signal.Notify(c, syscall.SIGTERM, syscall.SIGINT)
	fmt.Println("waiting")
	<-c
	return 0
}

// probe prints, for each round, the median delay and that of the slowest hundredth in nanoseconds: from when
// the work was due until it was done.
func probe([]string) int {
	const every = 2 * time.Millisecond
	var block [64 << 10]byte
	in := bufio.NewScanner(os.Stdin)
	for in.Scan() {
		length, err := time.ParseDuration(in.Text())
		if err != nil {
			return fail(err)
		}
		late := make([]time.Duration, 0, length/every+1)
		for end := time.Now().Add(length); time.Now().Before(end); {
			due := time.Now().Add(every)
			time.Sleep(every)
			sha256.Sum256(block[:])
			late = append(late, time.Since(due))
		}
		slices.Sort(late)
		fmt.Printf("probe %d %d\n", late[len(late)/2], late[len(late)*99/100])
	}
	return 0
}

func fail(err error) int {
	fmt.Println("failed:", err)
	return exitOther
}

// spawn runs a program and tells how it ended.
func spawn(path string, args ...string) int {
	return end(exec.Command(path, args...))
}

func end(cmd *exec.Cmd) int {
	cmd.Stdout, cmd.Stderr = os.Stdout, os.Stderr
	err := cmd.Run()
	switch st := cmd.ProcessState; {
	case err == nil:
		return 0
	case errors.Is(err, syscall.EPERM), errors.Is(err, syscall.EACCES):
		fmt.Println("refused:", err)
		return exitRefused
	case st != nil && st.Sys().(syscall.WaitStatus).Signaled():
		fmt.Println("killed:", st.Sys().(syscall.WaitStatus).Signal())
		return exitKilled
	}
	return fail(err)
}

func copySelf(to string) error {
	in, err := os.Open("/proc/self/exe")
	if err != nil {
		return err
	}
	defer in.Close()
	out, err := os.OpenFile(to, os.O_CREATE|os.O_TRUNC|os.O_WRONLY, 0o755)
	if err != nil {
		return err
	}
	_, err = io.Copy(out, in)
	return errors.Join(err, out.Close())
}

func drop(args []string) int {
	if err := copySelf(args[0]); err != nil {
		return fail(err)
	}
	return spawn(args[0], "say", "dropped")
}

func rename(args []string) int {
	if err := copySelf(args[0] + ".new"); err != nil {
		return fail(err)
	}
	if err := os.Rename(args[0]+".new", args[0]); err != nil {
		return fail(err)
	}
	return spawn(args[0], "say", "renamed")
}

// memfd starts a program that no file system has ever held.
func memfd([]string) int {
	fd, err := unix.MemfdCreate("actor", 0)
	if err != nil {
		return fail(err)
	}
	if err := copySelf("/proc/self/fd/" + strconv.Itoa(fd)); err != nil {
		return fail(err)
	}
	cmd := exec.Command("/proc/self/fd/3", "say", "memfd")
	cmd.ExtraFiles = []*os.File{os.NewFile(uintptr(fd), "memfd")} // 3 in the child
	return end(cmd)
}

// loop tells how often a program ran, was refused, was killed or ended otherwise.
func loop(args []string) int {
	n, err := strconv.Atoi(args[0])
	if err != nil {
		return fail(err)
	}
	var ran, refused, killed, other int
	for range n {
		cmd := exec.Command(args[1], args[2:]...)
		err := cmd.Run()
		switch st := cmd.ProcessState; {
		case err == nil:
			ran++
		case errors.Is(err, syscall.EPERM), errors.Is(err, syscall.EACCES):
			refused++
		case st != nil && st.Sys().(syscall.WaitStatus).Signaled():
			killed++
		default:
			other++
		}
	}
	fmt.Printf("loop ran=%d refused=%d killed=%d other=%d\n", ran, refused, killed, other)
	return 0
}

func serve(args []string) int {
	l, err := net.Listen("tcp", args[0])
	if err != nil {
		return fail(err)
	}
	c := make(chan os.Signal, 1)
	signal.Notify(c, syscall.SIGTERM, syscall.SIGHUP)
	page := make(chan string, 1)
	page <- "served 1"
	srv := &http.Server{ReadHeaderTimeout: 5 * time.Second, Handler: http.HandlerFunc(func(w http.ResponseWriter, _ *http.Request) {
		p := <-page
		page <- p
		fmt.Fprintln(w, p)
	})}
	done := make(chan error, 1)
	go func() { done <- srv.Serve(l) }()
	for n := 2; ; n++ {
		select {
		case err := <-done:
			return fail(err)
		case s := <-c:
			if s == syscall.SIGTERM {
				srv.Close()
				return 0
			}
			<-page
			page <- fmt.Sprintf("served %d", n)
		}
	}
}

// api asks whatever answers at the usual place of the Docker daemon's socket.
func api(a []string) int {
	client := http.Client{Timeout: 30 * time.Second, Transport: &http.Transport{
		DialContext: func(ctx context.Context, _, _ string) (net.Conn, error) {
			return (&net.Dialer{}).DialContext(ctx, "unix", "/var/run/docker.sock")
		},
	}}
	req, err := http.NewRequest(a[0], "http://docker"+a[1], nil)
	if err != nil {
		return fail(err)
	}
	resp, err := client.Do(req)
	if err != nil {
		return fail(err)
	}
	defer resp.Body.Close()
	fmt.Println(resp.StatusCode)
	if _, err := io.Copy(os.Stdout, io.LimitReader(resp.Body, 1<<20)); err != nil {
		return fail(err)
	}
	return 0
}

func get(args []string) int {
	c := &http.Client{Timeout: 3 * time.Second}
	r, err := c.Get("http://" + args[0] + "/")
	if err != nil {
		return fail(err)
	}
	defer r.Body.Close()
	if _, err := io.Copy(os.Stdout, io.LimitReader(r.Body, 4096)); err != nil {
		return fail(err)
	}
	return 0
}

// dial connects and prints the first line that comes; with a hello of its own also
// what comes after that was heard.
func dial(addr, hello string) int {
	c, err := net.DialTimeout("tcp", addr, 3*time.Second)
	if err != nil {
		if errors.Is(err, syscall.EPERM) {
			fmt.Println("refused:", err)
			return exitRefused
		}
		return fail(err)
	}
	defer c.Close()
	if err := c.SetDeadline(time.Now().Add(3 * time.Second)); err != nil {
		return fail(err)
	}
	r := bufio.NewReaderSize(c, 512)
	if line, err := r.ReadSlice('\n'); err != nil {
		fmt.Println("connected, but no line came:", err)
		return exitOther
	} else if hello == "" {
		fmt.Printf("got %s\n", bytes.TrimSpace(line))
		return 0
	}
	if _, err := io.WriteString(c, hello); err != nil {
		return fail(err)
	}
	line, err := r.ReadSlice('\n')
	if err != nil {
		fmt.Println("connected, but not heard:", err)
		return exitOther
	}
	fmt.Printf("got %s\n", bytes.TrimSpace(line))
	return 0
}

func sshd(args []string) int {
	l, err := net.Listen("tcp", args[0])
	if err != nil {
		return fail(err)
	}
	fmt.Println("listening")
	for {
		c, err := l.Accept()
		if err != nil {
			return fail(err)
		}
		go answer(c)
	}
}

// answer sends the server's line first, as SSH has it, and welcomes a client whose own
// line gets through.
func answer(c net.Conn) {
	defer c.Close()
	if err := c.SetDeadline(time.Now().Add(5 * time.Second)); err != nil {
		return
	}
	if _, err := io.WriteString(c, "SSH-2.0-actor\r\n"); err != nil {
		return
	}
	line, err := bufio.NewReaderSize(c, 512).ReadSlice('\n')
	if err == nil && bytes.HasPrefix(line, []byte("SSH-")) {
		_, _ = io.WriteString(c, "welcome\n") // a client that has gone is no concern of ours
	}
}
