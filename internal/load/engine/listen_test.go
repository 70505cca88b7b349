package engine

import (
	"net"
	"os"
	"path/filepath"
	"slices"
	"testing"

	"github.com/belay-project/belay/internal/load/plan"
)

// TestListening: what listens is told of, and connections, clients and ports of no kind are not.
func TestListening(t *testing.T) {
	dir := t.TempDir()
	if err := os.Mkdir(filepath.Join(dir, "net"), 0o700); err != nil {
		t.Fatal(err)
	}
	head := "  sl  local_address rem_address   st tx_queue rx_queue tr tm->when retrnsmt   uid  timeout inode\n"
	for name, text := range map[string]string{
		"tcp":  head + "   0: 00000000:01BB 00000000:0000 0A 0 0 0 0 0 77\n   1: 0100007F:1F90 00000000:0000 0A 0 0 0 0 0 78\n   2: 0A00000A:C350 0B00000A:01BB 01 0 0 0 0 0 79\n",
		"tcp6": head + "   0: 00000000000000000000000000000000:01BB 0:0000 0A 0 0 0 0 0 80\n",
		"udp":  head + "   0: 3500007F:0035 00000000:0000 07 0 0 0 0 0 81\n   1: 00000000:C350 00000000:0000 07 0 0 0 0 0 82\n",
	} {
		if err := os.WriteFile(filepath.Join(dir, "net", name), []byte(text), 0o600); err != nil {
			t.Fatal(err)
		}
	}
	got, err := Listening(dir)
	want := []plan.Port{{Port: 443, Protocol: "tcp"}, {IP: "127.0.0.1", Port: 8080, Protocol: "tcp"}, {IP: "127.0.0.53", Port: 53, Protocol: "udp"}}
	if err != nil || !slices.Equal(got, want) {
		t.Errorf("got %+v, %v, want %+v", got, err, want)
	}
	if err := os.WriteFile(filepath.Join(dir, "net", "tcp"), []byte(head+"   0: zz:01BB 0:0 0A\n"), 0o600); err != nil {
		t.Fatal(err)
	}
	if _, err := Listening(dir); err == nil {
		t.Error("a list of another form is read")
	}
	l, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	defer l.Close()
	port := l.Addr().(*net.TCPAddr).Port
	if got, err = Listening("/proc/self"); err != nil || !slices.Contains(got, plan.Port{IP: "127.0.0.1", Port: port, Protocol: "tcp"}) {
		t.Errorf("port %d of this process is not in %+v, %v", port, got, err)
	}
}
