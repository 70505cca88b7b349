package main

import (
	"bytes"
	"encoding/xml"
	"errors"
	"fmt"
	"io"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"github.com/belay-project/belay/internal/control"
	"github.com/belay-project/belay/internal/ident"
	"github.com/belay-project/belay/internal/journal"
	"github.com/belay-project/belay/internal/scan/inuse"
	"github.com/belay-project/belay/internal/verdict"
)

func execRecord(container, file string, d verdict.Decision) *journal.Record {
	r := &journal.Record{Kind: journal.KindExec, Time: time.Unix(1700000000, 0).UTC(), Decision: d,
		Container: &journal.Container{ID: ident.ContainerID(fmt.Sprintf("%064x", len(container))), Name: container},
		Process:   &journal.Process{Executable: &journal.Executable{Path: file}}}
	if d != verdict.Allowed {
		r.Policy = &journal.Policy{Rule: "exec.drift"}
	}
	return r
}

func connectRecord(container, hook, addr string, port uint16, d verdict.Decision) *journal.Record {
	r := execRecord(container, "/bin/x", d)
	r.Kind, r.Hook, r.Object = journal.KindNetwork, hook, &journal.Object{Type: "socket", Addr: addr, Port: port, Protocol: "tcp"}
	return r
}

func graphOf(records ...*journal.Record) *graph {
	b := graphBuilder{}
	for _, r := range records {
		b.add(r)
	}
	return b.graph()
}

func TestGraph(t *testing.T) {
	g := graphOf(
		execRecord("web", "/bin/sh", verdict.Allowed), execRecord("web", "/bin/sh", verdict.Allowed),
		execRecord("web", "/tmp/x", verdict.Denied), execRecord("db-1", "/bin/sh", verdict.WouldDeny),
		connectRecord("web", "connect", "10.0.0.1", 22, verdict.Denied),
		connectRecord("web", "cgroup_skb_ingress", "192.0.2.9", 0, verdict.Denied),
		connectRecord("web", "bind", "", 0, verdict.Denied),
		&journal.Record{Kind: journal.KindAgent}, &journal.Record{Kind: journal.KindLoss, Lost: map[string]uint64{"ring_full": 3}},
	)
	if len(g.Nodes) != 6 || len(g.Edges) != 5 || g.Lost != 3 || g.LeftOut != 0 {
		t.Fatalf("got %+v", g)
	}
	names := map[string]string{}
	for _, n := range g.Nodes {
		names[n.ID] = n.Name
	}
	var lines []string
	for _, e := range g.Edges {
		lines = append(lines, names[e.From]+" "+e.label()+" "+names[e.To])
	}
	got := strings.Join(lines, "\n")
	for _, want := range []string{
		"web exec ×2 /bin/sh", "web exec denied /tmp/x", "db-1 exec would deny /bin/sh", "web connect denied 10.0.0.1:22/tcp", "192.0.2.9 reached denied web",
	} {
		if !strings.Contains(got, want) {
			t.Errorf("no line %q in\n%s", want, got)
		}
	}
	if !strings.HasSuffix(got, "×2 /bin/sh") {
		t.Errorf("denials are not first:\n%s", got)
	}
}

// TestGraphBounds: what passes, however often, pushes out no denial, and the rest is counted.
func TestGraphBounds(t *testing.T) {
	b := graphBuilder{}
	const files = maxGraphSeen + 5
	b.add(execRecord("web", "/tmp/evil", verdict.Denied))
	for i := range files {
		b.add(execRecord("web", fmt.Sprintf("/bin/%d", i), verdict.Allowed))
		if i < 1000 {
			b.add(execRecord("web", fmt.Sprintf("/bin/%d", i), verdict.Allowed))
		}
	}
	g := b.graph()
	if len(g.Nodes) != maxGraphNodes || len(g.Edges) > maxGraphEdges || g.Edges[0].Decision != verdict.Denied {
		t.Fatalf("%d nodes, %d edges, first %+v", len(g.Nodes), len(g.Edges), g.Edges[0])
	}
	var in uint64
	for _, e := range g.Edges {
		in += e.Count
	}
	if total := uint64(1 + files + 1000); in+g.LeftOut != total {
		t.Errorf("%d drawn and %d left out of %d records", in, g.LeftOut, total)
	}
	var out bytes.Buffer
	if err := g.writeSVG(&out); err != nil || out.Len() > 256<<10 || !strings.Contains(out.String(), "no room for") {
		t.Errorf("%d bytes (%v)", out.Len(), err)
	}
}

// hostile are names that a container may have chosen.
var hostile = []string{
	`</text><script>alert(1)</script>`, `"]; click n1 href "javascript:alert(1)"`, "a\x1b]0;owned\a", "x\nflowchart TD", "‮gnp.exe", `&lt;#34;`, "%%{init: {}}%%",
	"--> n2", strings.Repeat("é", 5000), "\xff\xfe", "]]>", "'\"`", "end", "",
}

func TestGraphHostileNames(t *testing.T) {
	var records []*journal.Record
	for i, name := range hostile {
		r := execRecord(strings.Repeat("c", i+1), "/tmp/"+name, verdict.Denied)
		r.Container.Name, r.Policy.Rule = name, name
		records = append(records, r, connectRecord("web", "connect", name, 1, verdict.Denied))
	}
	g := graphOf(records...)
	var svg, mermaid bytes.Buffer
	if err := errors.Join(g.writeSVG(&svg), g.writeMermaid(&mermaid)); err != nil {
		t.Fatal(err)
	}
	checkSVG(t, svg.Bytes(), g)
	checkMermaid(t, mermaid.String(), g)
}

// checkSVG reads the drawing and finds only what is drawn.
func checkSVG(t *testing.T, raw []byte, g *graph) {
	t.Helper()
	d, rects := xml.NewDecoder(bytes.NewReader(raw)), 0
	for {
		tok, err := d.Token()
		if errors.Is(err, io.EOF) {
			break
		}
		if err != nil {
			t.Fatalf("no XML: %v", err)
		}
		e, ok := tok.(xml.StartElement)
		if !ok {
			continue
		}
		switch e.Name.Local {
		case "svg", "path", "text", "title", "g":
		case "rect":
			rects++
		default:
			t.Errorf("an element <%s>", e.Name.Local)
		}
		for _, a := range e.Attr {
			if strings.HasPrefix(a.Name.Local, "on") || a.Name.Local == "href" || a.Name.Local == "style" {
				t.Errorf("<%s> has the attribute %s", e.Name.Local, a.Name.Local)
			}
		}
	}
	if rects != 1+len(g.Nodes) {
		t.Errorf("%d boxes for %d nodes", rects, len(g.Nodes))
	}
}

// checkMermaid holds every line to one of the forms that are written.
func checkMermaid(t *testing.T, text string, g *graph) {
	t.Helper()
	lines := strings.Split(strings.TrimSuffix(text, "\n"), "\n")
	if want := 1 + len(g.Nodes) + 2*len(g.Edges); len(lines) != want {
		t.Errorf("%d lines, want %d: a name has made one", len(lines), want)
	}
	for _, l := range lines[1:] {
		if strings.Count(l, `"`) != 2 && !strings.HasPrefix(l, "  linkStyle ") || strings.ContainsAny(l, "<\x1b\\`") || strings.Contains(l, "%%") {
			t.Errorf("line %q", l)
		}
	}
}

func FuzzGraphText(f *testing.F) {
	for _, s := range hostile {
		f.Add(s, s)
	}
	f.Fuzz(func(t *testing.T, name, file string) {
		r := execRecord("c", "/"+file, verdict.Denied)
		r.Container.Name = name
		g := graphOf(r, connectRecord("c", "connect", name, 9, verdict.WouldDeny))
		var svg, mermaid bytes.Buffer
		if err := errors.Join(g.writeSVG(&svg), g.writeMermaid(&mermaid)); err != nil {
			t.Fatal(err)
		}
		checkSVG(t, svg.Bytes(), g)
		checkMermaid(t, mermaid.String(), g)
	})
}

// TestGraphNow: containers that are connected have a line between them, from who connected, and what is no container
// is an address.
func TestGraphNow(t *testing.T) {
	a, b, gone := strings.Repeat("a", 64), strings.Repeat("b", 64), strings.Repeat("c", 64)
	const head, tail = "  sl  local_address rem_address   st tx_queue rx_queue tr tm->when retrnsmt   uid  timeout inode\n", " 00000000:00000000 00:00000000 00000000 0 0 "
	root := t.TempDir()
	for name, text := range map[string]string{
		"10/cgroup": "0::/docker/" + a + "\n", "10/ns/net": "->net:[1]", "10/fd/3": "->socket:[11]", "10/fd/4": "->socket:[12]", "10/fd/5": "->socket:[13]",
		// 172.17.0.2 listens on 80, and has 172.17.0.3 and 192.0.2.9 there
		"10/net/tcp": head + "0: 00000000:0050 00000000:0000 0A" + tail + "9 1\n" + "1: 020011AC:0050 030011AC:9C40 01" + tail + "11 1\n" +
			"2: 020011AC:0050 090200C0:C350 01" + tail + "12 1\n" + "3: 020011AC:0050 090200C0:C351 01" + tail + "13 1\n",
		"20/cgroup": "0::/docker/" + b + "\n", "20/ns/net": "->net:[2]", "20/fd/3": "->socket:[21]", "20/fd/4": "->socket:[22]",
		// 172.17.0.3 is connected to it, and to 203.0.113.5:443
		"20/net/tcp": head + "0: 030011AC:9C40 020011AC:0050 01" + tail + "21 1\n" + "1: 030011AC:9C41 057100CB:01BB 01" + tail + "22 1\n",
		"30/cgroup":  "0::/docker/" + strings.Repeat("d", 64) + "\n", // the agent knows no such container
	} {
		path := filepath.Join(root, name)
		err := os.MkdirAll(filepath.Dir(path), 0o700)
		if to, ok := strings.CutPrefix(text, "->"); ok {
			err = errors.Join(err, os.Symlink(to, path))
		} else {
			err = errors.Join(err, os.WriteFile(path, []byte(text), 0o600))
		}
		if err != nil {
			t.Fatal(err)
		}
	}
	build := graphBuilder{unit: "connections"}
	list := []control.Container{{ID: a, Name: "web"}, {ID: b, Name: "client"}, {ID: gone, Name: "gone"}, {Build: true}}
	if err := build.connections(list, inuse.Proc{Root: root}, testNow); err != nil {
		t.Fatal(err)
	}
	g := build.graph()
	var mermaid, svg bytes.Buffer
	if err := errors.Join(g.writeMermaid(&mermaid), g.writeSVG(&svg)); err != nil {
		t.Fatal(err)
	}
	const want = `flowchart LR
  n1(["192.0.2.9"])
  n2["web"]
  n3["client"]
  n4(["203.0.113.5:443/tcp"])
  n1 -- "connected ×2" --> n2
  linkStyle 0 stroke:#16a34a
  n3 -- "connected" --> n4
  linkStyle 1 stroke:#16a34a
  n3 -- "connected" --> n2
  linkStyle 2 stroke:#16a34a
`
	if mermaid.String() != want {
		t.Errorf("got\n%s\nwant\n%s", mermaid.String(), want)
	}
	checkSVG(t, svg.Bytes(), g)
	if g.Unread || !g.Edges[0].Last.Equal(testNow) {
		t.Errorf("unread %v, seen at %v", g.Unread, g.Edges[0].Last)
	}
}
