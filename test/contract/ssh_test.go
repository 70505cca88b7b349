//go:build cgo

package contract

import (
	"bytes"
	"strings"
	"testing"
	"unsafe"

	"github.com/belay-project/belay/bpf/pure"
	"github.com/belay-project/belay/internal/enforce"
	"github.com/belay-project/belay/internal/policy"
	"github.com/belay-project/belay/internal/verdict"
)

// speaksSSH is the reference: a line that starts with SSH- within the first 8 KiB.
func speaksSSH(stream []byte) bool {
	if len(stream) > 8192 {
		stream = stream[:8192]
	}
	stream = bytes.ReplaceAll(stream, []byte("\r"), nil)
	for line := range bytes.SplitSeq(stream, []byte("\n")) {
		if bytes.HasPrefix(line, []byte("SSH-")) {
			return true
		}
	}
	return false
}

// cut makes segments of a stream: lengths from cuts, each sent again when a cut is odd.
func cut(stream, cuts []byte) []pure.Segment {
	var out []pure.Segment
	seq := uint32(0xfffffff0) // sequence numbers wrap
	for i := 0; len(stream) > 0; i++ {
		n := len(stream)
		if len(cuts) > 0 {
			n = min(n, 1+int(cuts[i%len(cuts)]))
		}
		s := pure.Segment{Seq: seq, Bytes: stream[:n]}
		out = append(out, s)
		if len(cuts) > 0 && cuts[i%len(cuts)]&1 == 1 {
			out = append(out, s)
		}
		seq += uint32(n)
		stream = stream[n:]
	}
	return out
}

func TestSSHStream(t *testing.T) {
	for name, stream := range map[string]string{
		"first line":       "SSH-2.0-x\r\n",
		"after lines":      "hello\r\nworld\nSSH-2.0-x",
		"in a line":        "x SSH-2.0-x\n",
		"other protocol":   "HTTP/1.1 200 OK\r\n\r\n",
		"split token":      "S\nSSH-",
		"end of window":    strings.Repeat("x", 8187) + "\nSSH-",
		"beyond window":    strings.Repeat("x", 8188) + "\nSSH-",
		"carriage returns": "S\rS\rH\r-2.0",
	} {
		for _, cuts := range [][]byte{nil, {0}, {1}, {2}, {3, 0, 7}, {255}} {
			if got, want := pure.ScanSSH(cut([]byte(stream), cuts)), speaksSSH([]byte(stream)); got != want {
				t.Errorf("%s cut by %v: %v, want %v", name, cuts, got, want)
			}
		}
	}
}

func FuzzSSHStream(f *testing.F) {
	f.Add([]byte("hello\r\nSSH-2.0-x"), []byte{0})
	f.Add([]byte(strings.Repeat("x", 8187)+"\nSSH-"), []byte{254})
	f.Fuzz(func(t *testing.T, stream, cuts []byte) {
		if got, want := pure.ScanSSH(cut(stream, cuts)), speaksSSH(stream); got != want {
			t.Fatalf("%q cut by %v: %v, want %v", stream, cuts, got, want)
		}
	})
}

// The SSH rules over every act, end and list.
func TestSSHDecision(t *testing.T) {
	parse := func(spec string) *policy.Effective {
		ps, err := policy.Parse("t.yaml", []byte("apiVersion: belay.dev/v1\nkind: RuntimePolicy\nmetadata: {name: p}\nspec:\n"+spec))
		if err != nil {
			t.Fatal(err)
		}
		set, err := policy.NewSet(ps)
		if err != nil {
			t.Fatal(err)
		}
		return set.Floor()
	}
	server, client := parse("  mode: enforce\n  ssh: {server: deny}\n"), parse("  mode: enforce\n  ssh: {client: deny}\n")
	to, audit := parse("  mode: enforce\n  ssh: {client: {to: [\"10.0.0.0/8:22\"]}}\n"), parse("  mode: audit\n  ssh: {server: deny, client: deny}\n")
	for _, c := range []struct {
		name   string
		eff    *policy.Effective
		act    uint8
		mark   uint8
		port   uint16
		listed bool
		want   verdict.Verdict
		rule   verdict.Rule
	}{
		{"server speaks", server, pure.NetStream, pure.MarkAccepted, 0, false, verdict.Deny, verdict.RuleSSHServer},
		{"server, dialled stream", server, pure.NetStream, pure.MarkDialled, 0, false, verdict.Allow, verdict.RuleNone},
		{"server, end unknown", server, pure.NetStream, 0, 0, false, verdict.Deny, verdict.RuleSSHServer},
		{"server binds 22", server, pure.NetListen, 0, 22, false, verdict.Deny, verdict.RuleSSHServer},
		{"server binds 80", server, pure.NetListen, 0, 80, false, verdict.Allow, verdict.RuleNone},
		{"client speaks", client, pure.NetStream, pure.MarkDialled, 0, false, verdict.Deny, verdict.RuleSSHClient},
		{"client, accepted stream", client, pure.NetStream, pure.MarkAccepted, 0, false, verdict.Allow, verdict.RuleNone},
		{"client connects to 22", client, pure.NetConnect, 0, 22, false, verdict.Deny, verdict.RuleSSHClient},
		{"client connects to 443", client, pure.NetConnect, 0, 443, false, verdict.Allow, verdict.RuleNone},
		{"deny has no list", client, pure.NetConnect, 0, 22, true, verdict.Deny, verdict.RuleSSHClient},
		{"to, listed", to, pure.NetConnect, 0, 22, true, verdict.Allow, verdict.RuleNone},
		{"to, not listed", to, pure.NetConnect, 0, 22, false, verdict.Deny, verdict.RuleSSHClient},
		{"audit", audit, pure.NetConnect, 0, 22, false, verdict.Audit, verdict.RuleSSHClient},
		{"no policy", nil, pure.NetConnect, 0, 22, false, verdict.Deny, verdict.RuleSSHClient},
		{"no policy, other port", nil, pure.NetConnect, 0, 80, false, verdict.Allow, verdict.RuleNone},
	} {
		var at unsafe.Pointer
		if c.eff != nil {
			p := enforce.EncodePolicy(c.eff, 1)
			at = unsafe.Pointer(&p)
		}
		d := pure.DecideNet(at, c.act, c.mark, c.port, [2]bool{c.listed, c.listed})
		if verdict.Verdict(d.Verdict) != c.want || verdict.Rule(d.Rule) != c.rule {
			t.Errorf("%s: %v by %v, want %v by %v", c.name, verdict.Verdict(d.Verdict), verdict.Rule(d.Rule), c.want, c.rule)
		}
	}
}
