package dockerapi

import (
	"strconv"
	"strings"

	"github.com/belay-project/belay/internal/apicall"
)

// The API versions that the gate speaks: 1.24 is the oldest that any supported
// daemon serves, 1.56 the newest that the table was made for.
const (
	MinMinor = 24
	MaxMinor = 56
)

// MethodGRPC is the method to give [Match] for an HTTP/2 request with a content type
// of application/grpc: the daemon serves those before its router, so that they are
// routes of their own.
const MethodGRPC = "H2"

// Match is the route of a request.
type Match struct {
	Route *Route
	// Version is the API version of the path ("1.44"), "" if the path has none.
	Version string

	minor int8 // of Version; 0 if none
	vars  [2]string
}

// Var returns the i-th variable of the path, decoded ("" if the route has fewer).
func (m *Match) Var(i int) string {
	if i >= len(m.vars) {
		return ""
	}
	return unescapePath(m.vars[i])
}

// Minor returns the number after "1." of the request's API version, 0 if it has none.
func (m *Match) Minor() int { return int(m.minor) }

// FindRoute finds the route of a request. path is the escaped path, without the query,
// exactly as it came: [net/url.URL.EscapedPath] of a parsed request line. It does not
// allocate. Errors are *[Error]; no route is an error, and means deny.
func FindRoute(method, path string) (Match, error) {
	return defaultTable.match(method, path)
}

func (t *table) match(method, path string) (Match, error) {
	if err := checkPath(path); err != nil {
		return Match{}, err
	}
	m := Match{}
	// gRPC paths have no version: the daemon serves them before its router.
	if rest, ok := strings.CutPrefix(path, "/v"); ok && method != MethodGRPC && rest != "" && isDigitOrDot(rest[0]) {
		version, tail, found := strings.Cut(rest, "/")
		minor, good := parseVersion(version)
		if !good || !found {
			return Match{}, errBadVersion
		}
		m.Version, m.minor = version, minor
		path = path[len(path)-len(tail)-1:]
	}
	if path != "/networks/" && path != "/debug/pprof/" && len(path) > 1 && path[len(path)-1] == '/' {
		return Match{}, errUncleanPath
	}
	idx := t.methods.find(method)
	if idx < 0 {
		return Match{}, errNoRoute
	}
	for _, r := range t.bySegment[idx].find(firstSegment(path)) {
		if !r.pat.match(path, &m.vars) {
			continue
		}
		// The daemon's first match is the route, also where its name then turns
		// out to be none that we take.
		if !slashInNames(r.Kind) && (strings.Contains(m.vars[0], "/") || strings.Contains(m.vars[1], "/")) {
			return Match{}, errSlashInName
		}
		m.Route = r
		return m, nil
	}
	return Match{}, errNoRoute
}

// slashInNames says that names of a kind may have slashes. The daemon would read a
// container's "parent/alias" as a link of parent, which is another container than the
// one that the name seems to tell.
func slashInNames(k apicall.ResourceKind) bool {
	switch k {
	case apicall.ResourceImage, apicall.ResourcePlugin, apicall.ResourceDistribution, apicall.ResourceSystem:
		return true
	}
	return false
}

// pattern is a compiled route pattern: a literal, or prefix + variable + suffix, or
// prefix + variable + middle + variable.
type pattern struct {
	prefix, middle, suffix string
	vars                   int
	greedy                 bool // the first variable may hold slashes
}

func (p *pattern) match(path string, vars *[2]string) bool {
	if p.vars == 0 {
		return path == p.prefix
	}
	if !strings.HasPrefix(path, p.prefix) {
		return false
	}
	rest := path[len(p.prefix):]
	if p.vars == 2 {
		cut := strings.LastIndexByte(rest, '/')
		if cut < 0 {
			return false
		}
		second := rest[cut+1:]
		first, ok := strings.CutSuffix(rest[:cut+1], p.middle)
		if !ok || first == "" || second == "" || !p.greedy && strings.Contains(first, "/") {
			return false
		}
		vars[0], vars[1] = first, second
		return true
	}
	name, ok := strings.CutSuffix(rest, p.suffix)
	if !ok || name == "" || !p.greedy && strings.Contains(name, "/") {
		return false
	}
	vars[0] = name
	return true
}

// checkPath refuses a path that is not already in its only form. The daemon's router
// matches the decoded path and redirects an unclean one: both let one resource have
// many spellings.
func checkPath(path string) *Error {
	if path == "" || path[0] != '/' {
		return errBadPath
	}
	start := 1 // of the segment
	for i := 1; i <= len(path); i++ {
		if i < len(path) && path[i] != '/' {
			c := path[i]
			if c == '%' {
				if i+2 >= len(path) || !escapeAllowed(path[i+1], path[i+2]) {
					return errEncodedPath
				}
				i += 2
				continue
			}
			if !pathByte[c] {
				return errBadPath
			}
			continue
		}
		switch seg := path[start:i]; {
		case seg == "" && i < len(path), seg == ".", seg == "..":
			return errUncleanPath
		}
		start = i + 1
	}
	return nil
}

// pathByte has the bytes that may stand for themselves in a path segment (RFC 3986,
// pchar) without "%", which is looked at apart.
var pathByte = func() (t [256]bool) {
	for c := '0'; c <= '9'; c++ {
		t[c] = true
	}
	for c := 'a'; c <= 'z'; c++ {
		t[c], t[c-'a'+'A'] = true, true
	}
	for _, c := range "-._~!$&'()*+,;=:@" {
		t[c] = true
	}
	return t
}()

// escapeAllowed says whether an escape stands for a character that clients do escape
// in names: the reserved ones that pchar allows. Letters, digits, ".", "/", "%", NUL,
// spaces and what is not ASCII have no reason to be escaped, or to be there.
func escapeAllowed(hi, lo byte) bool {
	h, l := unhex(hi), unhex(lo)
	if h < 0 || l < 0 {
		return false
	}
	switch byte(h<<4 | l) {
	case '!', '$', '&', '\'', '(', ')', '*', '+', ',', ';', '=', ':', '@':
		return true
	}
	return false
}

func unhex(c byte) int {
	switch {
	case c >= '0' && c <= '9':
		return int(c - '0')
	case c >= 'a' && c <= 'f':
		return int(c-'a') + 10
	case c >= 'A' && c <= 'F':
		return int(c-'A') + 10
	}
	return -1
}

// unescapePath decodes a variable whose escapes checkPath has seen.
func unescapePath(s string) string {
	if !strings.Contains(s, "%") {
		return s
	}
	b := make([]byte, 0, len(s))
	for i := 0; i < len(s); i++ {
		if s[i] == '%' && i+2 < len(s) {
			b = append(b, byte(unhex(s[i+1])<<4|unhex(s[i+2])))
			i += 2
			continue
		}
		b = append(b, s[i])
	}
	return string(b)
}

func isDigitOrDot(c byte) bool { return c == '.' || c >= '0' && c <= '9' }

// parseVersion takes "1.24" to "1.56" in the one spelling that has no other.
func parseVersion(s string) (minor int8, ok bool) {
	if len(s) != 4 || s[0] != '1' || s[1] != '.' || s[2] < '1' || s[2] > '9' || s[3] < '0' || s[3] > '9' {
		return 0, false
	}
	n := int8(s[2]-'0')*10 + int8(s[3]-'0')
	return n, n >= MinMinor && n <= MaxMinor
}

func versionString(minor int) string { return "1." + strconv.Itoa(minor) }

func firstSegment(path string) string {
	seg, _, _ := strings.Cut(path[1:], "/")
	return seg
}

// table is the routes, indexed by method and first segment in matching order.
type table struct {
	methods   nameList
	bySegment []segments // parallel to methods
}

type nameList []string

func (l nameList) find(name string) int {
	for i, n := range l {
		if n == name {
			return i
		}
	}
	return -1
}

type segments struct {
	names  map[string][]*Route
	anyone []*Route // patterns whose first segment is a variable
}

func (s *segments) find(seg string) []*Route {
	if l, ok := s.names[seg]; ok {
		return l
	}
	return s.anyone
}

var defaultTable = newTable(routes)

// newTable indexes routes. The order of routes is kept within a method and segment,
// and routes of different first segments never compete, but for the one that takes
// any path, which is alone with its method.
func newTable(list []Route) *table {
	t := &table{}
	for i := range list {
		r := &list[i]
		r.compile()
		idx := t.methods.find(r.Method)
		if idx < 0 {
			idx = len(t.methods)
			t.methods = append(t.methods, r.Method)
			t.bySegment = append(t.bySegment, segments{names: map[string][]*Route{}})
		}
		seg := firstSegment(r.Pattern)
		if strings.HasPrefix(seg, "{") {
			t.bySegment[idx].anyone = append(t.bySegment[idx].anyone, r)
			continue
		}
		t.bySegment[idx].names[seg] = append(t.bySegment[idx].names[seg], r)
	}
	return t
}

// compile splits the pattern into its literal parts and reads the query keys.
func (r *Route) compile() {
	r.keys = newQuerySpec(r.query)
	p := pattern{}
	rest := r.Pattern
	open := strings.IndexByte(rest, '{')
	if open < 0 {
		p.prefix = rest
		r.pat = p
		return
	}
	p.prefix = rest[:open]
	name, tail, _ := strings.Cut(rest[open+1:], "}")
	p.greedy = strings.Contains(name, ":")
	p.vars = 1
	if second := strings.IndexByte(tail, '{'); second >= 0 {
		p.middle = tail[:second]
		p.vars = 2
	} else {
		p.suffix = tail
	}
	r.pat = p
}
