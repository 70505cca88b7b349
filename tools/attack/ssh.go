package main

import (
	"bufio"
	"bytes"
	"errors"
	"fmt"
	"io"
	"net"
	"net/netip"
	"os"
	"strings"
	"time"

	"golang.org/x/sys/unix"
)

// version is the first line of an SSH connection, RFC 4253 section 4.2.
const version = "SSH-2.0-x\r\n"

// answerTime is how long a peer waits for that line.
const answerTime = 5 * time.Second

// sshAttacks are about speaking SSH: N2.
func sshAttacks() []attack {
	server := func(addr, how string) func(*env) error {
		return func(e *env) error { return sshServer(e, addr, how) }
	}
	client := func(addr, how string) func(*env) error {
		return func(*env) error { return sshClient(addr, how) }
	}
	return []attack{
		{"n2-program", "N2", "", "a program named sshd", func(e *env) error { return e.exec("/usr/sbin/sshd") }},
		{"n2-server", "N2", "", "an SSH server on any port", server("127.0.0.1:0", "whole")},
		{"n2-server-22", "N2", "", "an SSH server on port 22", server("127.0.0.1:22", "whole")},
		{"n2-server-bytes", "N2", "", "its version line byte by byte", server("127.0.0.1:0", "bytes")},
		{"n2-server-banner", "N2", "", "its version line after other lines", server("127.0.0.1:0", "banner")},
		{"n2-server-deep", "N2", "", "its version line after 7 KiB of other lines", server("127.0.0.1:0", "deep")},
		{"n2-server-v6", "N2", "", "an SSH server on IPv6", server("[::1]:0", "whole")},
		{"n2-server-v6-bytes", "N2", "", "on IPv6, byte by byte", server("[::1]:0", "bytes")},
		{"n2-server-mapped", "N2", "", "an IPv6 socket spoken to by IPv4", server("[::]:0", "whole")},
		{"n2-server-bound", "N2", "", "listen on a port 22 that was bound before", serverBound},
		{"n2-client", "N2", "", "an SSH client to any port", client("127.0.0.1:0", "whole")},
		{"n2-client-22", "N2", "", "an SSH client to port 22", client("127.0.0.1:22", "whole")},
		{"n2-client-bytes", "N2", "", "its version line byte by byte", client("127.0.0.1:0", "bytes")},
		{"n2-client-v6", "N2", "", "an SSH client by IPv6", client("[::1]:0", "whole")},
	}
}

// sshServer lets a child be the server, because the child may be killed for it.
func sshServer(e *env, addr, how string) error {
	return withServer(e, addr, how, func(ready io.Reader) error {
		got, err := firstServed(ready, addr)
		return verdict(got, err)
	})
}

// withServer runs the child while use runs; ready is what it prints.
func withServer(e *env, addr, how string, use func(ready io.Reader) error) error {
	r, w, err := os.Pipe()
	if err != nil {
		return untried(err)
	}
	defer r.Close()
	proc, err := self([]*os.File{nil, w, os.Stderr}, "--wait", e.wait, "serve", addr, how)
	_ = w.Close()
	if err != nil {
		return untried(err)
	}
	err = use(r)
	_ = proc.Kill()
	_, _ = proc.Wait()
	return err
}

// serverBound has won when somebody can connect: what is said then is another attack.
func serverBound(e *env) error {
	return withServer(e, "127.0.0.1:22", "bound", func(ready io.Reader) error {
		c, err := dialServed(ready, "")
		if err != nil {
			return err
		}
		return untried(c.Close())
	})
}

// firstServed connects to the address that the server prints and reads to the version
// line.
func firstServed(ready io.Reader, addr string) (string, error) {
	c, err := dialServed(ready, addr)
	if err != nil {
		return "", err
	}
	defer c.Close()
	return readVersion(c)
}

func dialServed(ready io.Reader, addr string) (net.Conn, error) {
	line, err := bufio.NewReader(ready).ReadString('\n')
	if err != nil {
		return nil, fmt.Errorf("%w: the server ended before it listened", errRefused)
	}
	at := strings.TrimSpace(line)
	if strings.HasPrefix(addr, "[::]") {
		_, port, err := net.SplitHostPort(at)
		if err != nil {
			return nil, untried(err)
		}
		at = "127.0.0.1:" + port
	}
	c, err := net.DialTimeout("tcp", at, answerTime)
	if err != nil {
		return nil, fmt.Errorf("%w: %w", errRefused, err)
	}
	return c, nil
}

func readVersion(c net.Conn) (string, error) {
	if err := c.SetReadDeadline(time.Now().Add(answerTime)); err != nil {
		return "", untried(err)
	}
	var got bytes.Buffer
	buf := make([]byte, 512)
	for got.Len() < 16<<10 && !strings.Contains(got.String(), version) {
		n, err := c.Read(buf)
		got.Write(buf[:n])
		if err != nil {
			return got.String(), err
		}
	}
	return got.String(), nil
}

// verdict judges what the peer received.
func verdict(got string, err error) error {
	switch {
	case strings.Contains(got, version):
		return nil
	case refused(err):
		return err
	default:
		return fmt.Errorf("%w: the peer received %d bytes and no version line: %w", errRefused, len(got), err)
	}
}

func sshClient(addr, how string) error {
	return sshClientIn(addr, how, func(act func() error) error { return act() })
}

// sshClientIn has who calls choose where the client starts; its peer listens before that.
func sshClientIn(addr, how string, choose func(act func() error) error) error {
	l, err := net.Listen("tcp", addr)
	if err != nil {
		return untried(err)
	}
	defer l.Close()
	return choose(func() error {
		proc, err := self([]*os.File{nil, nil, nil}, "dial", l.Addr().String(), how)
		if err != nil {
			return untried(err)
		}
		got, err := firstDialled(l.(*net.TCPListener))
		_ = proc.Kill()
		_, _ = proc.Wait()
		return verdict(got, err)
	})
}

func firstDialled(l *net.TCPListener) (string, error) {
	if err := l.SetDeadline(time.Now().Add(answerTime)); err != nil {
		return "", untried(err)
	}
	c, err := l.Accept()
	if err != nil {
		return "", fmt.Errorf("%w: nobody connected: %w", errRefused, err)
	}
	defer c.Close()
	return readVersion(c)
}

// self starts this program again.
func self(files []*os.File, args ...string) (*os.Process, error) {
	exe, err := os.Executable()
	if err != nil {
		return nil, err
	}
	return os.StartProcess(exe, append([]string{"attack"}, args...), &os.ProcAttr{Env: os.Environ(), Files: files})
}

// talk is `attack serve` and `attack dial`.
func talk(e *env, verb, addr, how string) int {
	err := func() error {
		if verb == "serve" {
			return serve(e, addr, how)
		}
		c, err := net.DialTimeout("tcp", addr, answerTime)
		if err != nil {
			return err
		}
		return speak(c, how)
	}()
	switch {
	case err == nil:
		return exitWon
	case refused(err):
		fmt.Fprintf(os.Stderr, "attack: refused: %v\n", err)
		return exitRefused
	}
	fmt.Fprintf(os.Stderr, "attack: %v\n", err)
	return exitUntried
}

func serve(e *env, addr, how string) error {
	l, err := e.listen(addr, how == "bound")
	if err != nil {
		return err
	}
	defer l.Close()
	fmt.Fprintln(os.Stdout, l.Addr())
	c, err := l.Accept()
	if err != nil {
		return err
	}
	return speak(c, how)
}

// listen binds and listens. late: with a turn between the two.
func (e *env) listen(addr string, late bool) (net.Listener, error) {
	if !late {
		return net.Listen("tcp", addr)
	}
	at, err := netip.ParseAddrPort(addr)
	if err != nil {
		return nil, untried(err)
	}
	fd, err := unix.Socket(unix.AF_INET, unix.SOCK_STREAM|unix.SOCK_CLOEXEC|unix.SOCK_NONBLOCK, 0)
	if err != nil {
		return nil, untried(err)
	}
	f := os.NewFile(uintptr(fd), "socket")
	defer f.Close()
	if err := unix.Bind(fd, &unix.SockaddrInet4{Addr: at.Addr().As4(), Port: int(at.Port())}); err != nil {
		return nil, err
	}
	if err := e.turn(); err != nil {
		return nil, err
	}
	if err := unix.Listen(fd, 1); err != nil {
		return nil, err
	}
	return net.FileListener(f)
}

// speak says the version line in one of several ways and waits for the peer to hang up.
func speak(c net.Conn, how string) error {
	defer c.Close()
	var err error
	switch how {
	case "whole", "bound":
		_, err = io.WriteString(c, version)
	case "bytes":
		// Go sets TCP_NODELAY, and a pause lets each byte leave as a segment of its own.
		for i := 0; i < len(version) && err == nil; i++ {
			_, err = c.Write([]byte{version[i]})
			pause(2 * time.Millisecond)
		}
	case "banner":
		if _, err = io.WriteString(c, "welcome\r\nmind the step\r\n"); err == nil {
			pause(2 * time.Millisecond)
			_, err = io.WriteString(c, version)
		}
	case "deep":
		_, err = io.WriteString(c, strings.Repeat(strings.Repeat("-", 62)+"\r\n", 112)+version)
	default:
		return fmt.Errorf("speak %q: want whole, bytes, banner or deep", how)
	}
	if err != nil {
		return err
	}
	if err := c.SetReadDeadline(time.Now().Add(answerTime)); err != nil {
		return err
	}
	_, err = c.Read(make([]byte, 1))
	if errors.Is(err, io.EOF) || errors.Is(err, os.ErrDeadlineExceeded) {
		return nil
	}
	return err
}
