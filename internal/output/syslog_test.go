package output

import (
	"bufio"
	"context"
	"crypto/tls"
	"fmt"
	"io"
	"net"
	"os"
	"path/filepath"
	"regexp"
	"strconv"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"time"
)

// form is a message of RFC 5424 from its priority to its structured data.
var form = regexp.MustCompile(`^<(\d{1,3})>1 (\d{4}-\d\d-\d\dT\d\d:\d\d:\d\d\.\d{6}Z) ([!-~]{1,255}) belay-agent - ([!-~]{1,32}) \[origin software="belay-agent"\] (\{.*\})$`)

func TestMessage(t *testing.T) {
	r := record(41)
	r.Host = "web 1\n"
	body, err := belay(t)(r)
	if err != nil {
		t.Fatal(err)
	}
	m := form.FindSubmatch(message(nil, r, 10, body))
	if m == nil {
		t.Fatalf("not of the form: %q", message(nil, r, 10, body))
	}
	if string(m[1]) != "84" || string(m[2]) != "2026-03-01T12:00:00.123456Z" || string(m[3]) != "web_1_" || string(m[4]) != "exec" {
		t.Errorf("got %q, want authpriv.warning (84), the time, the host and the kind", m[1:5])
	}
	if strings.Contains(string(m[5]), "hunter2") {
		t.Errorf("a secret of the arguments is in %s", m[5])
	}
}

// server is a syslog receiver over TCP or TLS that can be killed and started again.
type server struct {
	t     *testing.T
	addr  string
	tls   *tls.Config
	got   *received
	mu    sync.Mutex // guards l and conns
	l     net.Listener
	conns []net.Conn
	dead  atomic.Bool
	deaf  atomic.Bool // it reads no more: what comes stays in its machine
	wg    sync.WaitGroup
}

func (s *server) start() {
	s.t.Helper()
	var l net.Listener
	var err error
	for range 500 { // the port of the one before may take a moment
		if l, err = net.Listen("tcp", s.addr); err == nil {
			break
		}
		time.Sleep(10 * time.Millisecond)
	}
	if err != nil {
		s.t.Fatal(err)
	}
	s.addr = l.Addr().String()
	s.dead.Store(false)
	s.mu.Lock()
	s.l = l
	s.mu.Unlock()
	s.wg.Go(func() {
		for {
			c, err := l.Accept()
			if err != nil {
				return
			}
			s.mu.Lock()
			s.conns = append(s.conns, c)
			s.mu.Unlock()
			s.wg.Go(func() { s.read(c) })
		}
	})
}

// read takes messages by their counted octets. One that is cut is of a connection that broke.
func (s *server) read(c net.Conn) {
	defer c.Close()
	var in io.Reader = c
	if s.tls != nil {
		in = tls.Server(c, s.tls)
	}
	br := bufio.NewReader(in)
	for {
		for s.deaf.Load() {
			if s.dead.Load() {
				return
			}
			time.Sleep(time.Millisecond)
		}
		count, err := br.ReadString(' ')
		if err != nil {
			return
		}
		n, err := strconv.Atoi(strings.TrimSuffix(count, " "))
		if err != nil {
			s.t.Errorf("the count is %q", count)
			return
		}
		msg := make([]byte, n)
		if _, err := io.ReadFull(br, msg); err != nil {
			return
		}
		m := form.FindSubmatch(msg)
		if m == nil {
			s.t.Errorf("not of the form: %q", msg)
			return
		}
		if err := s.got.add(m[5]); err != nil {
			s.t.Error(err)
		}
	}
}

// kill ends the listener and its connections by a reset, with what they have not read.
func (s *server) kill() {
	s.mu.Lock()
	s.l.Close()
	for _, c := range s.conns {
		_ = c.(*net.TCPConn).SetLinger(0)
		c.Close()
	}
	s.conns = nil
	s.mu.Unlock()
	s.dead.Store(true)
	s.wg.Wait()
}

// TestSyslogSurvivesItsReceiver: a receiver is killed in the middle, away for a while, and comes
// back: it has every record of the journal, and the counts say so.
func TestSyslogSurvivesItsReceiver(t *testing.T) {
	for _, network := range []string{"tcp", "tls"} {
		t.Run(network, func(t *testing.T) {
			srv := &server{t: t, addr: "127.0.0.1:0", got: newReceived()}
			options := ""
			if network == "tls" {
				var ca string
				ca, srv.tls = certificates(t)
				options = ",ca=" + ca
			}
			srv.start()
			w, end := begin(t, Options{Specs: []string{"syslog:" + network + "://" + srv.addr + options}})
			w.append(40)
			waitFor(t, "a connection", func() bool { return srv.got.distinct() == 40 })
			// What its machine has acknowledged and it has not read dies with it.
			srv.deaf.Store(true)
			w.append(40)
			waitFor(t, "the receiver's machine to have them", func() bool { return w.out.Status()[0].Sent == 80 })
			srv.kill()
			srv.deaf.Store(false)
			srv.start()
			for range 3 {
				for range 20 {
					w.append(20)
					time.Sleep(time.Millisecond)
				}
				srv.kill()
				began := time.Now()
				w.append(300)
				if d := time.Since(began); d > 5*time.Second {
					t.Errorf("a dead receiver kept the journal waiting for %v", d)
				}
				waitFor(t, "the trouble to be told", func() bool { return w.out.Status()[0].Error != "" })
				srv.start()
				w.append(50)
			}
			total := len(w.ids())
			waitFor(t, fmt.Sprintf("%d records", total), func() bool { return srv.got.distinct() == total && w.out.Status()[0].Sent == uint64(total) })
			if c, _ := w.health.Component(component); c.Reason != "" {
				t.Errorf("it came back, and health says %+v", c)
			}
			end()
			srv.kill()
			w.wantAll(srv.got)
			if w.out.Status()[0].Resent == 0 {
				t.Error("nothing was sent again")
			}
			t.Logf("%d records, %d sent again", total, w.out.Status()[0].Resent)
		})
	}
}

// TestSyslogWrongCertificate: a receiver that is not the one that was named gets nothing.
func TestSyslogWrongCertificate(t *testing.T) {
	_, other := certificates(t)
	ca, _ := certificates(t)
	srv := &server{t: t, addr: "127.0.0.1:0", got: newReceived(), tls: other}
	srv.start()
	defer srv.kill()
	w, end := begin(t, Options{Specs: []string{"syslog:tls://" + srv.addr + ",ca=" + ca}})
	w.append(5)
	waitFor(t, "the trouble to be told", func() bool { return strings.Contains(w.out.Status()[0].Error, "certificate") })
	end()
	if srv.got.distinct() != 0 {
		t.Error("records went to somebody else")
	}
}

// TestSyslogDatagrams: a record a datagram, on a socket of the host and over UDP.
func TestSyslogDatagrams(t *testing.T) {
	path := filepath.Join(t.TempDir(), "log")
	listen := func(network, addr string) net.PacketConn {
		t.Helper()
		c, err := net.ListenPacket(network, addr)
		if err != nil {
			t.Fatal(err)
		}
		return c
	}
	read := func(c net.PacketConn, got *received) {
		b := make([]byte, 64<<10)
		for {
			n, _, err := c.ReadFrom(b)
			if err != nil {
				return
			}
			if m := form.FindSubmatch(b[:n]); m == nil {
				t.Errorf("not of the form: %q", b[:n])
			} else if err := got.add(m[5]); err != nil {
				t.Error(err)
			}
		}
	}
	t.Run("unix", func(t *testing.T) {
		got := newReceived()
		var wg sync.WaitGroup
		c := listen("unixgram", path)
		wg.Go(func() { read(c, got) })
		w, end := begin(t, Options{Specs: []string{"syslog:" + path}})
		w.append(100)
		waitFor(t, "100 records", func() bool { return got.distinct() == 100 })
		c.Close() // the logger is restarted
		os.Remove(path)
		w.append(50)
		waitFor(t, "the trouble to be told", func() bool { return w.out.Status()[0].Error != "" })
		c = listen("unixgram", path)
		wg.Go(func() { read(c, got) })
		w.append(50)
		waitFor(t, "200 records", func() bool { return got.distinct() == 200 && w.out.Status()[0].Sent == 200 })
		end()
		w.wantAll(got)
		c.Close()
		wg.Wait()
	})
	t.Run("udp", func(t *testing.T) {
		got := newReceived()
		c := listen("udp", "127.0.0.1:0")
		var wg sync.WaitGroup
		wg.Go(func() { read(c, got) })
		w, end := begin(t, Options{Specs: []string{"syslog:udp://" + c.LocalAddr().String()}})
		w.append(50)
		waitFor(t, "50 records", func() bool { return got.distinct() == 50 })
		end()
		w.wantAll(got)
		c.Close()
		wg.Wait()
	})
}

// TestDeadOutputs: outputs that hang, refuse or are not there keep nobody waiting, and every
// record is counted somewhere.
func TestDeadOutputs(t *testing.T) {
	hangs, err := net.Listen("tcp", "127.0.0.1:0") // accepts in its backlog, and never reads
	if err != nil {
		t.Fatal(err)
	}
	defer hangs.Close()
	r, wr, err := os.Pipe() // nobody reads
	if err != nil {
		t.Fatal(err)
	}
	defer r.Close()
	o := Options{Stdout: wr, Stop: 200 * time.Millisecond, Pump: quick, Specs: []string{
		"stdout", "syslog:tcp://" + hangs.Addr().String(), "syslog:/nowhere", "file:/nowhere/e.json", "syslog:tls://127.0.0.1:1",
	}}
	o.Pump.Queue = 64
	w, end := begin(t, o)
	began := time.Now()
	w.append(5000)
	if d := time.Since(began); d > 5*time.Second {
		t.Errorf("5000 records took %v", d)
	}
	waitFor(t, "the queues to be full", func() bool { return w.out.Status()[2].Dropped["queue_full"] > 4000 })
	wr.Close()
	ended := make(chan struct{})
	go func() { end(); close(ended) }()
	select {
	case <-ended:
	case <-time.After(20 * time.Second):
		t.Fatal("the agent would not stop")
	}
	for _, st := range w.out.Status() {
		sum := st.Sent
		for _, n := range st.Dropped {
			sum += n
		}
		if sum != st.Offered || st.Offered != 5000 {
			t.Errorf("%s: offered %d, sent %d, dropped %v: %d are nowhere", st.Name, st.Offered, st.Sent, st.Dropped, st.Offered-sum)
		}
	}
}

// TestStdout: lines come out, and a reader that goes away is an error and no end of the program.
func TestStdout(t *testing.T) {
	r, wr, err := os.Pipe()
	if err != nil {
		t.Fatal(err)
	}
	got := newReceived()
	var wg sync.WaitGroup
	wg.Go(func() {
		sc := bufio.NewScanner(r)
		for sc.Scan() {
			if err := got.add(sc.Bytes()); err != nil {
				t.Error(err)
			}
		}
	})
	w, end := begin(t, Options{Specs: []string{"stdout"}, Stdout: wr})
	w.append(100)
	waitFor(t, "100 lines", func() bool { return got.distinct() == 100 })
	w.wantAll(got)
	end()
	wr.Close()
	wg.Wait()

	r, wr, err = os.Pipe()
	if err != nil {
		t.Fatal(err)
	}
	s, err := newStdout(wr, belay(t))
	if err != nil {
		t.Fatal(err)
	}
	r.Close()
	if err := s.send(context.Background(), records(1)); err == nil || !strings.Contains(err.Error(), "broken pipe") {
		t.Errorf("got %v, want a broken pipe", err)
	}
	wr.Close()
}
