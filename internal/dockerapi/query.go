package dockerapi

import (
	"net/url"
	"strconv"
	"strings"
	"unicode/utf8"
)

// Param is one key of a query with one value. A key that the API lets repeat has
// several of them.
type Param struct{ Key, Value string }

// Query is a request's query in the caller's order, decoded.
type Query []Param

// Get returns the first value of key, "" if it is not there.
func (q Query) Get(key string) string {
	for i := range q {
		if q[i].Key == key {
			return q[i].Value
		}
	}
	return ""
}

// Has reports whether key is there, with whatever value.
func (q Query) Has(key string) bool {
	for i := range q {
		if q[i].Key == key {
			return true
		}
	}
	return false
}

// All returns the values of key in order.
func (q Query) All(key string) []string {
	var out []string
	for i := range q {
		if q[i].Key == key {
			out = append(out, q[i].Value)
		}
	}
	return out
}

// Bool returns a boolean key as the daemon reads it; parsing has refused values that
// the daemon's two ways of reading booleans take differently.
func (q Query) Bool(key string) bool { return q.Get(key) == "1" }

// Int returns an integer key, 0 if it is missing or empty.
func (q Query) Int(key string) int64 {
	v, err := strconv.ParseInt(q.Get(key), 10, 64)
	if err != nil {
		return 0 // parsing has refused what is no number
	}
	return v
}

// set gives key one value in place of all that it had.
func (q Query) set(key, value string) Query {
	out := q[:0:0]
	done := false
	for _, p := range q {
		if p.Key != key {
			out = append(out, p)
			continue
		}
		if !done {
			out = append(out, Param{key, value})
			done = true
		}
	}
	if !done {
		out = append(out, Param{key, value})
	}
	return out
}

func (q Query) appendTo(b []byte) []byte {
	for i, p := range q {
		if i > 0 {
			b = append(b, '&')
		}
		b = append(b, url.QueryEscape(p.Key)...)
		b = append(b, '=')
		b = append(b, url.QueryEscape(p.Value)...)
	}
	return b
}

// parseQuery reads a raw query. The daemon takes the first of two equal keys and
// refuses ";" in one place while it drops it in another: here neither gets so far.
func parseQuery(raw string, spec querySpec, opt Options) (Query, []string, error) {
	if raw == "" {
		return nil, nil, nil
	}
	if len(raw) > opt.Limits.queryBytes() {
		return nil, nil, errorf(414, CodeQuerySyntax, "", "the query is longer than %d bytes", opt.Limits.queryBytes())
	}
	if strings.Contains(raw, ";") {
		return nil, nil, badRequest(CodeQuerySyntax, "", "the query has a ';'")
	}
	var (
		out     Query
		dropped []string
		seen    []string
	)
	for part := range strings.SplitSeq(raw, "&") {
		if part == "" {
			continue
		}
		p, err := parseParam(part)
		if err != nil {
			return nil, nil, err
		}
		k := spec.find(p.Key)
		if k == nil || !k.multi {
			for _, s := range seen {
				if s == p.Key {
					return nil, nil, badRequest(CodeDuplicateQuery, p.Key, "the query key appears twice")
				}
			}
			seen = append(seen, p.Key)
			if len(seen) > 100 {
				return nil, nil, badRequest(CodeQuerySyntax, "", "the query has too many keys")
			}
		}
		switch {
		case k == nil && opt.DropUnknown:
			dropped = append(dropped, "?"+p.Key)
			continue
		case k == nil:
			return nil, nil, badRequest(CodeUnknownQuery, p.Key, "no API version has this query key here")
		case k.kind == ignoredValue:
			continue
		}
		if p.Value, err = k.canonical(p.Value); err != nil {
			return nil, nil, err
		}
		out = append(out, p)
	}
	return out, dropped, nil
}

func parseParam(part string) (Param, error) {
	rawKey, rawValue, _ := strings.Cut(part, "=")
	key, err := url.QueryUnescape(rawKey)
	if err != nil {
		return Param{}, badRequest(CodeQuerySyntax, "", "the query has a broken escape")
	}
	value, err := url.QueryUnescape(rawValue)
	if err != nil {
		return Param{}, badRequest(CodeQuerySyntax, key, "the query has a broken escape")
	}
	if !utf8.ValidString(key) || !utf8.ValidString(value) || strings.Contains(key, "\x00") || strings.Contains(value, "\x00") {
		return Param{}, badRequest(CodeBadUTF8, "", "the query is not UTF-8 or has a NUL")
	}
	return Param{key, value}, nil
}

// canonical checks a value and returns its one spelling. The daemon reads some
// booleans as "anything but a few words" and others with strconv.ParseBool, and an
// integer that is none as 0: only what all of them read alike passes. An empty value
// stays empty: for some keys the daemon asks whether it is there.
func (k *queryKey) canonical(v string) (string, error) {
	if v == "" {
		return v, nil
	}
	switch k.kind {
	case boolValue:
		switch v {
		case "1", "true", "True", "TRUE":
			return "1", nil
		case "0", "false", "False", "FALSE":
			return "0", nil
		}
		return "", badRequest(CodeBadValue, k.name, "the value must be true or false, 1 or 0")
	case intValue:
		if _, err := strconv.ParseInt(v, 10, 64); err == nil && v[0] != '+' {
			return v, nil
		}
		if _, err := strconv.ParseUint(v, 10, 64); err == nil && v[0] != '+' {
			return v, nil
		}
		return "", badRequest(CodeBadValue, k.name, "the value must be a whole number")
	}
	return v, nil
}
