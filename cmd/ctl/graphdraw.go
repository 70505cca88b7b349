package main

import (
	"cmp"
	"fmt"
	"io"
	"slices"
	"strings"

	"github.com/belay-project/belay/internal/verdict"
)

// Sizes of the drawing, in pixels, and of names, in characters.
const (
	boxWidth, boxHeight = 300, 26
	rowHeight           = 40
	columnGap           = 220
	margin              = 20
	maxLabel            = 42
)

// columns are where kinds of nodes are drawn, from the left.
var columns = map[string]int{nodePeer: 0, nodeContainer: 1, nodeProgram: 2, nodeAddress: 2}

var kindFill = map[string]string{nodePeer: "#eef2f7", nodeContainer: "#dbeafe", nodeProgram: "#f3f4f6", nodeAddress: "#fef3c7"}

func decisionStroke(d verdict.Decision) string {
	switch d {
	case verdict.Denied, verdict.Killed:
		return "#dc2626"
	case verdict.WouldDeny:
		return "#d97706"
	}
	return "#16a34a"
}

type point struct{ x, y int }

// layout places nodes: containers by their names, the others beside the containers that they are
// joined to, so that few lines cross.
func (g *graph) layout() (at map[string]point, width, height int) {
	var lists [3][]graphNode
	for _, n := range g.Nodes {
		lists[columns[n.Kind]] = append(lists[columns[n.Kind]], n)
	}
	byName := func(a, b graphNode) int { return cmp.Or(strings.Compare(a.Name, b.Name), strings.Compare(a.ID, b.ID)) }
	slices.SortFunc(lists[1], byName)
	row := map[string]int{}
	for i, n := range lists[1] {
		row[n.ID] = i
	}
	sum, num := map[string]int{}, map[string]int{}
	for _, e := range g.Edges {
		for _, p := range [][2]string{{e.From, e.To}, {e.To, e.From}} {
			if r, ok := row[p[1]]; ok {
				sum[p[0]], num[p[0]] = sum[p[0]]+r, num[p[0]]+1
			}
		}
	}
	mean := func(n graphNode) int { return 1000 * sum[n.ID] / max(1, num[n.ID]) }
	for _, i := range []int{0, 2} {
		slices.SortFunc(lists[i], func(a, b graphNode) int {
			return cmp.Or(cmp.Compare(mean(a), mean(b)), strings.Compare(a.Kind, b.Kind), byName(a, b))
		})
	}
	most := max(len(lists[0]), len(lists[1]), len(lists[2]), 1)
	at = map[string]point{}
	x := margin
	for i, list := range lists {
		if len(list) == 0 && i == 0 {
			continue // nobody reached a container
		}
		for j, n := range list { // spread over the height of the longest
			at[n.ID] = point{x, 2*margin + rowHeight + (2*j+1)*most*rowHeight/(2*len(list)) - rowHeight/2}
		}
		x += boxWidth + columnGap
	}
	return at, x - columnGap + margin, 3*margin + rowHeight + most*rowHeight
}

// writeSVG draws the graph with nothing but shapes and texts: no script, no style sheet, no reference to
// anything outside.
func (g *graph) writeSVG(w io.Writer) error {
	at, width, height := g.layout()
	var b strings.Builder
	fmt.Fprintf(&b, `<svg xmlns="http://www.w3.org/2000/svg" width="%d" height="%d" viewBox="0 0 %d %d" font-family="sans-serif" font-size="12">`+"\n", width, height, width, height)
	fmt.Fprintf(&b, `<rect width="%d" height="%d" fill="#ffffff"/>`+"\n", width, height)
	head := fmt.Sprintf("%s, %s", count(len(g.Nodes), "thing", "things"), count(len(g.Edges), "line", "lines"))
	if m := g.missing(); m != "" {
		head += "; " + m
	}
	fmt.Fprintf(&b, `<text x="%d" y="%d" font-size="14">%s</text>`+"\n", margin, margin+14, markup(head))
	for i, d := range []verdict.Decision{verdict.Denied, verdict.WouldDeny, verdict.Allowed} {
		fmt.Fprintf(&b, `<text x="%d" y="%d" fill="%s">%s</text>`+"\n", margin+i*110, margin+34, decisionStroke(d), strings.ReplaceAll(string(d), "_", " "))
	}
	lines := map[[2]string]int{}
	for _, e := range g.Edges {
		from, to := at[e.From], at[e.To]
		pair := [2]string{e.From, e.To}
		bend := 12 * lines[pair] // lines of one pair do not lie on each other
		lines[pair]++
		x1, y1, x2, y2 := from.x+boxWidth, from.y+boxHeight/2+bend, to.x, to.y+boxHeight/2+bend
		cx1, cx2, label, anchor := x1+columnGap/2, x2-columnGap/2, x2-4, "end"
		if from.x == to.x { // from one container around to another
			x2 += boxWidth
			cx2, label, anchor = cx1, x2+8, "start"
		}
		fmt.Fprintf(&b, `<path d="M%d %d C%d %d %d %d %d %d" fill="none" stroke="%s" stroke-width="%d"><title>%s</title></path>`+"\n",
			x1, y1, cx1, y1, cx2, y2, x2, y2, decisionStroke(e.Decision), 1+min(3, len(fmt.Sprint(e.Count))-1), markup(edgeTitle(e)))
		fmt.Fprintf(&b, `<text x="%d" y="%d" text-anchor="%s" font-size="10" fill="%s">%s</text>`+"\n", label, y2-3, anchor, decisionStroke(e.Decision), markup(e.label()))
	}
	for _, n := range g.Nodes {
		p := at[n.ID]
		fmt.Fprintf(&b, `<g><title>%s</title><rect x="%d" y="%d" width="%d" height="%d" rx="4" fill="%s" stroke="#64748b"/><text x="%d" y="%d">%s</text></g>`+"\n",
			markup(n.title()), p.x, p.y, boxWidth, boxHeight, kindFill[n.Kind], p.x+8, p.y+boxHeight/2+4, markup(n.label(maxLabel)))
	}
	b.WriteString("</svg>\n")
	_, err := io.WriteString(w, b.String())
	return err
}

func edgeTitle(e graphEdge) string {
	s := e.label()
	if len(e.Rules) > 0 {
		s += ", " + strings.Join(e.Rules, ", ")
	}
	return clean(s)
}

// markup escapes text for XML, in elements and in attributes. clean has left only what is printable.
var markupOf = strings.NewReplacer("&", "&amp;", "<", "&lt;", ">", "&gt;", `"`, "&quot;", "'", "&apos;")

func markup(s string) string { return markupOf.Replace(clean(s)) }

// writeMermaid writes a flowchart. Names stand in quotes, with every character that could end them or mean
// something to Mermaid or to HTML as its number.
func (g *graph) writeMermaid(w io.Writer) error {
	var b strings.Builder
	b.WriteString("flowchart LR\n")
	if m := g.missing(); m != "" {
		fmt.Fprintf(&b, "%%%% %s\n", m)
	}
	shapes := map[string][2]string{nodeContainer: {"[", "]"}, nodeProgram: {"(", ")"}, nodeAddress: {"([", "])"}, nodePeer: {"([", "])"}}
	for _, n := range g.Nodes {
		s := shapes[n.Kind]
		fmt.Fprintf(&b, "  %s%s\"%s\"%s\n", n.ID, s[0], mermaidText(n.label(maxLabel)), s[1])
	}
	for i, e := range g.Edges {
		fmt.Fprintf(&b, "  %s -- \"%s\" --> %s\n  linkStyle %d stroke:%s\n", e.From, mermaidText(e.label()), e.To, i, decisionStroke(e.Decision))
	}
	_, err := io.WriteString(w, b.String())
	return err
}

// mermaidText keeps letters, digits and what is harmless; all else becomes #NUMBER;.
func mermaidText(s string) string {
	var b strings.Builder
	for _, r := range s {
		switch {
		case r >= 'a' && r <= 'z', r >= 'A' && r <= 'Z', r >= '0' && r <= '9', strings.ContainsRune(" /._-:×…", r):
			b.WriteRune(r)
		default:
			fmt.Fprintf(&b, "#%d;", r)
		}
	}
	return b.String()
}
