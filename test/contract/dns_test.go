package contract

import (
	"encoding/binary"
	"net/netip"
	"reflect"
	"strings"
	"testing"

	"golang.org/x/net/dns/dnsmessage"

	"github.com/belay-project/belay/bpf/pure"
)

// dnsReference reads a message as bpf/pure/dns.h does, by another parser. It knows the shape of
// messages that hold nothing unusual; ok is false for others.
func dnsReference(b []byte) (m pure.DNSMessage, ok bool) {
	var p dnsmessage.Parser
	h, err := p.Start(b)
	if err != nil {
		return m, false
	}
	qs, err := p.AllQuestions()
	if err != nil || len(qs) != 1 || qs[0].Class != dnsmessage.ClassINET {
		return m, false
	}
	m = pure.DNSMessage{
		ID: h.ID, Type: uint16(qs[0].Type), Query: !h.Response && h.OpCode == 0,
		Answer: h.Response && h.OpCode == 0 && h.RCode == dnsmessage.RCodeSuccess,
		Name:   strings.ToLower(strings.TrimSuffix(qs[0].Name.String(), ".")),
	}
	as, err := p.AllAnswers()
	if err != nil {
		return m, false
	}
	m.Whole = len(as) <= 32
	ttl := ^uint32(0)
	for _, a := range as[:min(len(as), 32)] {
		var addr netip.Addr
		switch r := a.Body.(type) {
		case *dnsmessage.AResource:
			addr = netip.AddrFrom4(r.A)
		case *dnsmessage.AAAAResource:
			addr = netip.AddrFrom16(r.AAAA).Unmap()
		case *dnsmessage.CNAMEResource:
		default:
			continue
		}
		if a.Header.Class != dnsmessage.ClassINET {
			continue
		}
		own := a.Header.TTL
		if own>>31 != 0 {
			own = 0
		}
		ttl = min(ttl, own)
		if !addr.IsValid() || !opens(addr) {
			continue
		}
		m.Addrs = append(m.Addrs, pure.DNSAddr{Addr: addr.As16(), TTL: max(5, min(ttl, 86400))})
	}
	return m, true
}

func opens(a netip.Addr) bool {
	if a.Is4() {
		b := a.As4()
		return b[0] != 0 && b[0] < 224 && !a.IsLoopback() && !a.IsLinkLocalUnicast()
	}
	b := a.As16()
	return !a.IsMulticast() && !a.IsLinkLocalUnicast() && [12]byte(b[:12]) != [12]byte{}
}

func answer(t testing.TB, name string, more ...dnsmessage.Resource) []byte {
	t.Helper()
	n := dnsmessage.MustNewName(name)
	m := dnsmessage.Message{
		Header:    dnsmessage.Header{ID: 7, Response: true},
		Questions: []dnsmessage.Question{{Name: n, Type: dnsmessage.TypeA, Class: dnsmessage.ClassINET}},
	}
	for _, r := range more {
		if r.Header.Name.Length == 0 {
			r.Header.Name = n
		}
		if r.Header.Class == 0 {
			r.Header.Class = dnsmessage.ClassINET
		}
		m.Answers = append(m.Answers, r)
	}
	b, err := m.Pack()
	if err != nil {
		t.Fatal(err)
	}
	return b
}

func a4(ttl uint32, ip ...byte) dnsmessage.Resource {
	return dnsmessage.Resource{Header: dnsmessage.ResourceHeader{TTL: ttl}, Body: &dnsmessage.AResource{A: [4]byte(ip)}}
}

func a6(ttl uint32, ip string) dnsmessage.Resource {
	return dnsmessage.Resource{Header: dnsmessage.ResourceHeader{TTL: ttl}, Body: &dnsmessage.AAAAResource{AAAA: netip.MustParseAddr(ip).As16()}}
}

func alias(ttl uint32, to string) dnsmessage.Resource {
	return dnsmessage.Resource{Header: dnsmessage.ResourceHeader{TTL: ttl}, Body: &dnsmessage.CNAMEResource{CNAME: dnsmessage.MustNewName(to)}}
}

func TestDNS(t *testing.T) {
	b := answer(t, "API.Example.org.", alias(30, "cdn.example.net."), a4(300, 192, 0, 2, 1), a6(1<<31, "2001:db8::1"), a4(9, 127, 0, 0, 1), a4(9, 169, 254, 169, 254), a4(9, 224, 0, 0, 1), a6(9, "fe80::1"), a6(9, "::ffff:10.0.0.1"))
	got, ok := pure.ReadDNS(append(make([]byte, 28), b...), 28)
	want, wantOK := dnsReference(b)
	if !ok || !wantOK || !reflect.DeepEqual(got, want) {
		t.Errorf("got %+v\nwant %+v", got, want)
	}
	if got.Name != "api.example.org" || !got.Answer || got.Query || !got.Whole || len(got.Addrs) != 3 || got.Addrs[0].TTL != 30 || got.Addrs[1].TTL != 5 {
		t.Errorf("got %+v", got)
	}
}

// What is no plain answer opens nothing, or only what is before the damage.
func TestDNSHostile(t *testing.T) {
	good := answer(t, "a.example.org.", a4(60, 192, 0, 2, 1), a4(60, 192, 0, 2, 2))
	at := len(good) - 32 // the first record: a pointer to the question
	for name, c := range map[string]struct {
		change func([]byte) []byte
		addrs  int
		ok     bool
	}{
		"as it is":                  {func(b []byte) []byte { return b }, 2, true},
		"a pointer to itself":       {func(b []byte) []byte { b[at+1] = byte(at); return b }, 0, true},
		"a pointer forward":         {func(b []byte) []byte { b[at+1] = byte(at + 16); return b }, 0, true},
		"a pointer to the header":   {func(b []byte) []byte { b[at+1] = 4; return b }, 0, true},
		"a loop in the second":      {func(b []byte) []byte { b[at+17] = byte(at + 16); return b }, 1, true},
		"a label of reserved type":  {func(b []byte) []byte { b[at] = 0x80; return b }, 0, true},
		"data beyond the end":       {func(b []byte) []byte { return b[:len(b)-1] }, 1, true},
		"a length that is wrong":    {func(b []byte) []byte { b[at+11] = 5; return b }, 0, true},
		"more answers than records": {func(b []byte) []byte { b[7] = 9; return b }, 2, true},
		"two questions":             {func(b []byte) []byte { b[5] = 2; return b }, 0, false},
		"no question":               {func(b []byte) []byte { b[5] = 0; return b }, 0, false},
		"compressed question":       {func(b []byte) []byte { b[12], b[13] = 0xc0, 12; return b }, 0, false},
		"another class":             {func(b []byte) []byte { b[at-1] = 3; return b }, 0, false},
		"only a header":             {func(b []byte) []byte { return b[:12] }, 0, false},
	} {
		got, ok := pure.ReadDNS(c.change(append([]byte{}, good...)), 0)
		if ok != c.ok || len(got.Addrs) != c.addrs || got.Whole != (name == "as it is") && ok {
			t.Errorf("%s: %+v, %v", name, got, ok)
		}
	}
	many := make([]dnsmessage.Resource, 40)
	for i := range many {
		many[i] = a4(60, 192, 0, 2, byte(i+1))
	}
	if got, ok := pure.ReadDNS(answer(t, "a.example.org.", many...), 0); !ok || got.Whole || len(got.Addrs) != 32 {
		t.Errorf("40 addresses: %+v, %v", got, ok)
	}
	for _, name := range []string{"a b.example.org.", "a\\000.org.", strings.Repeat("a.", 40), "."} {
		if got, ok := pure.ReadDNS(answer(t, name, a4(60, 192, 0, 2, 1)), 0); ok && got.Name != "" {
			t.Errorf("%q is a name: %+v", name, got)
		}
	}
	long := strings.Repeat(strings.Repeat("a", 61)+".", 4) // 248 characters
	if got, ok := pure.ReadDNS(answer(t, long), 0); !ok || got.Name+"." != long {
		t.Errorf("a long name: %+v, %v", got, ok)
	}
	for _, c := range []struct {
		flags         uint16
		query, answer bool
	}{{0x0100, true, false}, {0x8180, false, true}, {0x8183, false, false}, {0xa000, false, false}, {0x2000, false, false}} {
		b := append([]byte{}, good...)
		binary.BigEndian.PutUint16(b[2:], c.flags)
		if got, ok := pure.ReadDNS(b, 0); !ok || got.Query != c.query || got.Answer != c.answer {
			t.Errorf("flags %#x: %+v", c.flags, got)
		}
	}
}

// What another parser reads, this one reads the same, or it opens nothing.
func FuzzDNS(f *testing.F) {
	f.Add(answer(f, "a.example.org.", alias(1, "b.example.org."), a4(60, 192, 0, 2, 1), a6(7, "2001:db8::2")), 28)
	f.Add(answer(f, "*.example.org."), 0)
	f.Add([]byte("\x00\x07\x81\x80\x00\x01\x00\x01\x00\x00\x00\x00\x01a\x00\x00\x01\x00\x01\xc0\x12\x00\x01\x00\x01\x00\x00\x00\x00\x00\x04\x01\x02\x03\x04"), 48)
	f.Fuzz(func(t *testing.T, b []byte, off int) {
		if off < 0 || off > 1<<16 || len(b) > 1<<16 {
			return
		}
		got, ok := pure.ReadDNS(append(make([]byte, off), b...), off)
		if !ok || got.Name == "" || !got.Whole {
			return
		}
		want, wantOK := dnsReference(b)
		if wantOK && !reflect.DeepEqual(got, want) {
			t.Fatalf("got %+v\nwant %+v", got, want)
		}
	})
}
