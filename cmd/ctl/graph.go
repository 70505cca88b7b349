package main

import (
	"bufio"
	"cmp"
	"errors"
	"fmt"
	"path"
	"slices"
	"strconv"
	"strings"
	"time"

	"github.com/spf13/cobra"

	"github.com/belay-project/belay/internal/journal"
	"github.com/belay-project/belay/internal/verdict"
)

// graphFormat is the value of -o of graph.
type graphFormat string

func (f *graphFormat) String() string { return string(*f) }
func (f *graphFormat) Type() string   { return "svg|mermaid|json" }

func (f *graphFormat) Set(s string) error {
	if s != "svg" && s != "mermaid" && s != "json" {
		return errors.New("want svg, mermaid or json")
	}
	*f = graphFormat(s)
	return nil
}

func graphCommand(t *terminal) *cobra.Command {
	var denials, connected bool
	since, format := sinceFlag{now: t.now}, graphFormat("svg")
	cmd := &cobra.Command{
		Use:   "graph",
		Short: "Draw which container executed what and dealt with which others and addresses",
		Long: `graph draws the records of the agent's journal: containers in the middle, who reached
them on the left, what they executed and connected to on the right, one line for each
pair and decision, with the number of records.

What is not in the journal is not in the picture. Denials and what would have been
denied are always there; programs that were allowed only if the agent runs with
--log-allowed, and connections that were allowed never are. An address is not turned
into a container's name: the records do not say whose it was.

With --now the picture is of the TCP connections that containers have at this moment,
from /proc of this host, as root: between containers, and with addresses. A container is
at the other end where it holds the other end of that very connection: what a proxy or a
published port has changed on the way is an address.

The picture has at most 120 containers and things and 240 lines: those with denials
first, then the most frequent. How much was left out is said in it.`,
		Example: `  belay graph --since 1h > graph.svg
  belay graph --denials -o mermaid
  belay graph --now > connections.svg
  belay graph -o json | jq '.edges[] | select(.decision == "denied")'`,
		Args: noArguments,
		RunE: func(cmd *cobra.Command, _ []string) error {
			b := graphBuilder{}
			var err error
			if connected {
				err = t.connections(cmd.Context(), &b)
			} else {
				q := journal.ReadOptions{Since: since.at, Denials: denials}
				err = t.client().Events(cmd.Context(), q, func(r *journal.Record) error { b.add(r); return nil })
			}
			if err != nil {
				return err
			}
			g := b.graph()
			w := bufio.NewWriter(t.out)
			switch format {
			case "json":
				err = writeJSON(w, g, "  ")
			case "mermaid":
				err = g.writeMermaid(w)
			default:
				err = g.writeSVG(w)
			}
			return errors.Join(err, w.Flush())
		},
	}
	cmd.Flags().VarP(&format, "output", "o", "output format")
	cmd.Flags().Var(&since, "since", "only what happened after this: a time that has passed (10m, 36h, 7d),\na date, or a point in time (RFC 3339)")
	cmd.Flags().BoolVar(&denials, "denials", false, "only what was denied, killed, or would have been in enforce mode")
	cmd.Flags().BoolVar(&connected, "now", false, "the connections of this moment in the place of the journal")
	cmd.MarkFlagsMutuallyExclusive("now", "since")
	cmd.MarkFlagsMutuallyExclusive("now", "denials")
	return cmd
}

// The bounds of a graph. A container chooses names and destinations, and could fill a screen and a memory with them.
const (
	maxGraphNodes = 120
	maxGraphEdges = 240
	maxGraphSeen  = 20_000 // different edges that are counted before the rest is only a number
)

// Kinds of nodes.
const (
	nodeContainer = "container"
	nodeProgram   = "program"
	nodeAddress   = "address"
	nodePeer      = "peer" // an address that reached a container
)

type graphNode struct {
	ID   string `json:"id"`
	Kind string `json:"kind"`
	Name string `json:"name"`
}

type graphEdge struct {
	From     string           `json:"from"`
	To       string           `json:"to"`
	Act      string           `json:"act"` // exec, connect, send, reached; connected: now
	Decision verdict.Decision `json:"decision"`
	Count    uint64           `json:"count"`
	Rules    []string         `json:"rules,omitempty"`
	Last     time.Time        `json:"last"`
}

// graph is the picture. LeftOut counts records, or connections, about what there was no room for, Lost records that the journal
// itself misses. Unread says that not all connections could be looked at.
type graph struct {
	Nodes   []graphNode `json:"nodes"`
	Edges   []graphEdge `json:"edges"`
	LeftOut uint64      `json:"leftOut"`
	Lost    uint64      `json:"lost"`
	Unread  bool        `json:"unread,omitempty"`
	unit    string      // of what is counted; empty: records
}

type graphKey struct {
	from, to graphEnd
	act      string
	decision verdict.Decision
}

// graphEnd is a node before it has an ID.
type graphEnd struct{ kind, key, name string }

type graphBuilder struct {
	unit          string // of what is counted; empty: records
	edges         map[graphKey]*graphEdge
	leftOut, lost uint64
	unread        bool
}

func (b *graphBuilder) add(r *journal.Record) {
	for _, n := range r.Lost {
		b.lost += n
	}
	k, ok := graphKeyOf(r)
	if !ok {
		return
	}
	e := b.count(k, r.Time)
	if p := r.Policy; e != nil && p != nil && !slices.Contains(e.Rules, p.Rule) && len(e.Rules) < 8 {
		e.Rules = append(e.Rules, p.Rule)
	}
}

// count counts one thing to a line, and returns it; nil: there is no room for one more.
func (b *graphBuilder) count(k graphKey, at time.Time) *graphEdge {
	if b.edges == nil {
		b.edges = map[graphKey]*graphEdge{}
	}
	e := b.edges[k]
	if e == nil {
		if len(b.edges) >= maxGraphSeen {
			b.leftOut++
			return nil
		}
		e = &graphEdge{Act: k.act, Decision: k.decision}
		b.edges[k] = e
	}
	e.Count++
	if at.After(e.Last) {
		e.Last = at
	}
	return e
}

// graphKeyOf says which line a record belongs to; ok is false if it is about none.
func graphKeyOf(r *journal.Record) (k graphKey, ok bool) {
	c := r.Container
	if c == nil || r.Decision == "" {
		return k, false
	}
	container := graphEnd{nodeContainer, string(c.ID), cmp.Or(c.Name, c.ID.Short())}
	k = graphKey{from: container, decision: r.Decision}
	switch r.Kind {
	case journal.KindExec:
		file := ""
		if r.Process != nil && r.Process.Executable != nil {
			file = r.Process.Executable.Path
		}
		if r.Object != nil && r.Object.Type == "file" {
			file = r.Object.Path // a script
		}
		k.act, k.to = "exec", graphEnd{nodeProgram, file, file}
		return k, file != ""
	case journal.KindNetwork:
		o := r.Object
		if o == nil {
			return k, false
		}
		if o.Protocol == "unix" {
			k.act, k.to = "connect", graphEnd{nodeAddress, "unix:" + o.Path, cmp.Or(o.Path, "an abstract socket")}
			return k, true
		}
		remote := address(o.Addr, o.Port)
		switch {
		case r.Hook == "cgroup_skb_ingress" && o.Addr != "":
			k.act, k.from, k.to = "reached", graphEnd{nodePeer, o.Addr, o.Addr}, container
		case remote == "":
			return k, false // it bound or listened
		default:
			k.act, k.to = "connect", graphEnd{nodeAddress, remote + "/" + o.Protocol, strings.TrimSuffix(remote+"/"+o.Protocol, "/")}
		}
		return k, true
	}
	return k, false
}

// weight is how much a decision matters: denials are never left out for what passed.
func weight(d verdict.Decision) int {
	switch d {
	case verdict.Denied, verdict.Killed:
		return 2
	case verdict.WouldDeny:
		return 1
	}
	return 0
}

// graph puts the most important edges together, in an order that depends on the records alone.
func (b *graphBuilder) graph() *graph {
	type item struct {
		key  graphKey
		edge *graphEdge
	}
	var items []item
	for k, e := range b.edges {
		slices.Sort(e.Rules)
		items = append(items, item{k, e})
	}
	slices.SortFunc(items, func(x, y item) int {
		return cmp.Or(cmp.Compare(weight(y.key.decision), weight(x.key.decision)), cmp.Compare(y.edge.Count, x.edge.Count),
			strings.Compare(x.key.from.key, y.key.from.key), strings.Compare(x.key.to.key, y.key.to.key),
			strings.Compare(x.key.act, y.key.act), strings.Compare(string(x.key.decision), string(y.key.decision)))
	})
	g := &graph{Nodes: []graphNode{}, Edges: []graphEdge{}, LeftOut: b.leftOut, Lost: b.lost, Unread: b.unread, unit: b.unit}
	ids := map[[2]string]string{}
	for _, it := range items {
		fresh := 0
		for _, end := range []graphEnd{it.key.from, it.key.to} {
			if ids[[2]string{end.kind, end.key}] == "" {
				fresh++
			}
		}
		if len(g.Edges) >= maxGraphEdges || len(g.Nodes)+fresh > maxGraphNodes {
			g.LeftOut += it.edge.Count
			continue
		}
		e := *it.edge
		e.From, e.To = g.node(ids, it.key.from), g.node(ids, it.key.to)
		g.Edges = append(g.Edges, e)
	}
	return g
}

func (g *graph) node(ids map[[2]string]string, end graphEnd) string {
	key := [2]string{end.kind, end.key}
	if ids[key] == "" {
		ids[key] = "n" + strconv.Itoa(len(g.Nodes)+1)
		g.Nodes = append(g.Nodes, graphNode{ID: ids[key], Kind: end.kind, Name: end.name})
	}
	return ids[key]
}

// missing says in words what is not in the picture; empty: nothing that is known of.
func (g *graph) missing() string {
	var parts []string
	if g.LeftOut > 0 {
		parts = append(parts, fmt.Sprintf("%d %s are about what there was no room for", g.LeftOut, cmp.Or(g.unit, "records")))
	}
	if g.Lost > 0 {
		parts = append(parts, fmt.Sprintf("%d records were lost before the journal", g.Lost))
	}
	if g.Unread {
		parts = append(parts, "not all connections could be looked at")
	}
	return strings.Join(parts, "; ")
}

// label is a node's name as it is drawn: printable, and cut in the middle of what is long.
func (n graphNode) label(most int) string {
	s := clean(n.Name)
	if r := []rune(s); len(r) > most {
		half := (most - 1) / 2
		s = string(r[:half]) + "…" + string(r[len(r)-(most-1-half):])
	}
	return s
}

// title is the whole name, for who points at it.
func (n graphNode) title() string {
	if n.Kind == nodeProgram {
		return n.Kind + " " + clean(path.Clean(n.Name))
	}
	return n.Kind + " " + clean(n.Name)
}

func (e graphEdge) label() string {
	s := e.Act
	if e.Decision != verdict.Allowed {
		s += " " + strings.ReplaceAll(string(e.Decision), "_", " ")
	}
	if e.Count > 1 {
		s += " ×" + strconv.FormatUint(e.Count, 10)
	}
	return s
}
