package main

import (
	"bytes"
	"encoding/xml"
	"errors"
	"fmt"
	"io"
	"strings"
	"testing"
	"time"

	"github.com/belay-project/belay/internal/ident"
	"github.com/belay-project/belay/internal/journal"
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
