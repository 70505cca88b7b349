package dockerapi

import (
	"bytes"
	"encoding/json"
	"errors"
	"fmt"
	"reflect"
	"strings"
	"testing"
	"unicode"
)

// daemonReads decodes a body as the daemon's httputils.ReadJSON does.
func daemonReads(raw []byte, target any) error {
	dec := json.NewDecoder(bytes.NewReader(raw))
	if err := dec.Decode(target); err != nil {
		return err
	}
	if dec.More() {
		return errors.New("unexpected content after JSON")
	}
	return nil
}

// differs is the oracle: raw was accepted and own is what we send for it. It returns
// what the daemon would read in one and not in the other. Where the daemon refuses raw
// there is nothing to compare.
func differs(r *Route, raw, own []byte) string {
	theirs, ours := r.body.json(), r.body.json()
	if err := daemonReads(own, ours); err != nil {
		return fmt.Sprintf("the daemon refuses our encoding %s: %v", own, err)
	}
	if err := daemonReads(raw, theirs); err != nil {
		return ""
	}
	if !reflect.DeepEqual(theirs, ours) {
		a, errA := json.Marshal(theirs)
		b, errB := json.Marshal(ours)
		return fmt.Sprintf("the daemon reads %s in %s, and %s in our encoding %s (%v %v)", a, raw, b, own, errA, errB)
	}
	return ""
}

// readOnly reads a body strictly and returns our encoding, without the facts.
func readOnly(r *Route, raw string) ([]byte, error) {
	n, _, err := readJSON([]byte(raw), schemaOf(reflect.TypeOf(r.body.json())), Options{}, "")
	if err != nil {
		return nil, err
	}
	return appendJSON(nil, n), nil
}

// sample returns a JSON value of a schema, with something in it.
func sample(s *schema, depth int) string {
	switch s.shape {
	case stringShape:
		switch {
		case s.name == "netip.Addr":
			return `"10.1.2.3"`
		case s.name == "netip.Prefix":
			return `"10.1.2.0/24"`
		case s.name == "network.HardwareAddr":
			return `"02:42:ac:11:00:02"`
		case s.name == "[]uint8":
			return `"aGVsbG8="`
		case s.name == "time.Time":
			return `"2026-01-02T03:04:05Z"`
		}
		return `"value"`
	case boolShape:
		return "true"
	case intShape:
		return "7"
	case floatShape:
		return "0.5"
	case arrayShape:
		return "[" + sample(s.elem, depth+1) + "]"
	case mapShape:
		key := "key"
		if s.portKeys {
			key = "80/tcp"
		}
		return `{"` + key + `":` + sample(s.elem, depth+1) + "}"
	}
	return "{}"
}

// walk calls visit for every field of a schema with a function that wraps a value of
// the field's object into a whole body.
func walk(s *schema, path string, wrap func(string) string, depth int, visit func(path string, s *schema, f field, wrap func(string) string)) {
	if depth > 8 {
		return
	}
	switch s.shape {
	case arrayShape:
		walk(s.elem, path+"[]", func(v string) string { return wrap("[" + v + "]") }, depth+1, visit)
	case mapShape:
		key := `"key"`
		if s.portKeys {
			key = `"80/tcp"`
		}
		walk(s.elem, path+"{}", func(v string) string { return wrap("{" + key + ":" + v + "}") }, depth+1, visit)
	case structShape:
		for _, f := range s.fields {
			visit(path+"."+f.name, s, f, wrap)
			walk(f.s, path+"."+f.name, func(v string) string { return wrap(fmt.Sprintf(`{%q:%s}`, f.name, v)) }, depth+1, visit)
		}
	}
}

// eachField calls visit for every field of every body of the API.
func eachField(visit func(r *Route, path string, s *schema, f field, wrap func(string) string)) {
	for _, r := range Routes() {
		if !r.HasJSON() {
			continue
		}
		s := schemaOf(reflect.TypeOf(r.body.json()))
		walk(s, r.Action, func(v string) string { return v }, 0, func(path string, s *schema, f field, wrap func(string) string) {
			visit(r, path, s, f, wrap)
		})
	}
}

// TestEveryField writes every field of every body, alone, and asserts that the daemon
// reads our encoding as it reads the original.
func TestEveryField(t *testing.T) {
	n := 0
	eachField(func(r *Route, path string, _ *schema, f field, wrap func(string) string) {
		n++
		raw := wrap(fmt.Sprintf(` { %q : %s } `, f.name, sample(f.s, 0)))
		own, err := readOnly(r, raw)
		if err != nil {
			t.Errorf("%s: %s: %v", path, raw, err)
			return
		}
		if why := differs(r, []byte(raw), own); why != "" {
			t.Errorf("%s: %s", path, why)
		}
		if f.s.shape == anyShape {
			t.Errorf("%s: no shape for %s", path, f.s.name)
		}
	})
	if n < 500 {
		t.Errorf("%d fields, want the whole API", n)
	}
}

// TestEveryFieldTwice is C4 and C5 for every field: the daemon would merge the two.
func TestEveryFieldTwice(t *testing.T) {
	eachField(func(r *Route, path string, _ *schema, f field, wrap func(string) string) {
		v := sample(f.s, 0)
		for _, second := range []string{v, "null"} {
			raw := wrap(fmt.Sprintf(`{%q:%s,%q:%s}`, f.name, v, f.name, second))
			if _, err := readOnly(r, raw); code(err) != CodeDuplicateKey {
				t.Errorf("C4 %s: %s: got %q, want %q", path, raw, code(err), CodeDuplicateKey)
			}
		}
		// the same key with an escape in it
		escaped := fmt.Sprintf(`\u%04x%s`, f.name[0], f.name[1:])
		raw := wrap(fmt.Sprintf(`{%q:%s,"%s":%s}`, f.name, v, escaped, v))
		if _, err := readOnly(r, raw); code(err) != CodeDuplicateKey {
			t.Errorf("C4 %s: %s: got %q, want %q", path, raw, code(err), CodeDuplicateKey)
		}
	})
}

// TestEveryFieldWrongCase is C6 for every field: other case and Unicode folds are the
// same field to the daemon.
func TestEveryFieldWrongCase(t *testing.T) {
	eachField(func(r *Route, path string, s *schema, f field, wrap func(string) string) {
		for _, name := range foldings(f.name) {
			if _, ok := s.byName[name]; ok {
				continue
			}
			for _, body := range []string{`{%q:%s}`, `{"` + f.name + `":null,%q:%s}`} {
				raw := wrap(fmt.Sprintf(body, name, sample(f.s, 0)))
				if _, err := readOnly(r, raw); code(err) != CodeWrongCase {
					t.Errorf("C6 %s: %s: got %q, want %q", path, raw, code(err), CodeWrongCase)
				}
			}
		}
	})
}

// foldings returns spellings of a name that encoding/json takes for it.
func foldings(name string) []string {
	out := []string{strings.ToLower(name), strings.ToUpper(name)}
	for i, c := range name {
		for f := unicode.SimpleFold(c); f != c; f = unicode.SimpleFold(f) {
			out = append(out, name[:i]+string(f)+name[i+len(string(c)):])
		}
	}
	var differ []string
	for _, s := range out {
		if s != name {
			differ = append(differ, s)
		}
	}
	return differ
}

// TestEveryFieldUnknownBeside asserts that a field that no API version knows is
// refused beside every known one, and dropped and recorded where that is the option.
func TestEveryFieldUnknownBeside(t *testing.T) {
	eachField(func(r *Route, path string, _ *schema, f field, wrap func(string) string) {
		raw := wrap(fmt.Sprintf(`{%q:%s,"XBelay":{"a":[1,{"b":2}]}}`, f.name, sample(f.s, 0)))
		if _, err := readOnly(r, raw); code(err) != CodeUnknownField {
			t.Errorf("%s: got %q, want %q", path, code(err), CodeUnknownField)
		}
		n, dropped, err := readJSON([]byte(raw), schemaOf(reflect.TypeOf(r.body.json())), Options{DropUnknown: true}, "")
		if err != nil || len(dropped) != 1 || !strings.HasSuffix(dropped[0], "XBelay") {
			t.Errorf("%s: dropped %v, %v", path, dropped, err)
			return
		}
		if strings.Contains(string(appendJSON(nil, n)), "XBelay") {
			t.Errorf("%s: the field is sent", path)
		}
	})
}

// TestEveryFieldWrongType gives every field values of other types. What we take the
// daemon must read the same.
func TestEveryFieldWrongType(t *testing.T) {
	values := []string{
		`null`, `true`, `"text"`, `""`, `[]`, `{}`, `[null]`, `{"a":null}`, `0`, `-1`, `1.0`, `1e2`, `-0`, `1e999`,
		`18446744073709551616`, `9223372036854775808`, `"\u0061"`, `"10.0.0.1"`, `["a","b"]`, `{"80":[]}`, `{"80/TCP":null}`,
	}
	eachField(func(r *Route, path string, _ *schema, f field, wrap func(string) string) {
		for _, v := range values {
			raw := wrap(fmt.Sprintf(`{%q:%s}`, f.name, v))
			own, err := readOnly(r, raw)
			if err != nil || f.drop {
				continue
			}
			if json.Unmarshal(own, r.body.json()) != nil {
				continue // refused when it is decoded
			}
			if why := differs(r, []byte(raw), own); why != "" {
				t.Errorf("%s: %s", path, why)
			}
		}
	})
}

// TestSchemaIsWhole asserts that the schema has every field that encoding/json writes
// for a type: a field that it missed would be refused, or worse.
func TestSchemaIsWhole(t *testing.T) {
	for _, r := range Routes() {
		if !r.HasJSON() {
			continue
		}
		s := schemaOf(reflect.TypeOf(r.body.json()))
		if s.shape != structShape {
			continue
		}
		v := reflect.ValueOf(r.body.json()).Elem()
		fill(v, 0)
		b, err := json.Marshal(v.Interface())
		if err != nil {
			t.Fatalf("%s: %v", r.Action, err)
		}
		if _, err := readOnly(r, string(b)); err != nil {
			t.Errorf("%s: the daemon's own encoding %s: %v", r.Action, b, err)
		}
	}
}

// fill sets everything in v to something that is not zero.
func fill(v reflect.Value, depth int) {
	if depth > 10 || !v.CanSet() {
		return
	}
	switch v.Kind() {
	case reflect.Pointer:
		v.Set(reflect.New(v.Type().Elem()))
		fill(v.Elem(), depth+1)
	case reflect.Struct:
		for i := range v.NumField() {
			fill(v.Field(i), depth+1)
		}
	case reflect.Slice:
		v.Set(reflect.MakeSlice(v.Type(), 1, 1))
		fill(v.Index(0), depth+1)
	case reflect.Map:
		if v.Type().Key().Kind() != reflect.String {
			return
		}
		v.Set(reflect.MakeMap(v.Type()))
		elem := reflect.New(v.Type().Elem()).Elem()
		fill(elem, depth+1)
		v.SetMapIndex(reflect.ValueOf("k").Convert(v.Type().Key()), elem)
	case reflect.String:
		v.SetString("x")
	case reflect.Bool:
		v.SetBool(true)
	case reflect.Int, reflect.Int8, reflect.Int16, reflect.Int32, reflect.Int64:
		v.SetInt(1)
	case reflect.Uint, reflect.Uint8, reflect.Uint16, reflect.Uint32, reflect.Uint64:
		v.SetUint(1)
	case reflect.Float32, reflect.Float64:
		v.SetFloat(1)
	}
}

// TestOracle asserts that the oracle sees the readings that the parser is there to
// refuse: without that the tests above would prove nothing.
func TestOracle(t *testing.T) {
	m, err := FindRoute("POST", "/containers/create")
	if err != nil {
		t.Fatal(err)
	}
	for name, bodies := range map[string][2]string{
		"C4 merged objects":  {`{"HostConfig":{"Privileged":true},"HostConfig":{"Memory":1}}`, `{"HostConfig":{"Memory":1}}`},
		"C5 reused elements": {`{"HostConfig":{"Mounts":[{"Source":"/"}],"Mounts":[{"Type":"bind"}]}}`, `{"HostConfig":{"Mounts":[{"Type":"bind"}]}}`},
		"C6 folded case":     {`{"hostconfig":{"Privileged":true}}`, `{}`},
		"C6 folded Unicode":  {"{\"Ho\u017ftConfig\":{\"Privileged\":true}}", `{}`},
		"last key wins":      {`{"Image":"a","image":"b"}`, `{"Image":"a"}`},
		"ports of one key":   {`{"HostConfig":{"PortBindings":{"80":[{"HostPort":"1"}],"80/tcp":[]}}}`, `{"HostConfig":{"PortBindings":{"80/tcp":[{"HostPort":"1"}]}}}`},
		"lone surrogate":     {`{"Image":"\ud800"}`, `{"Image":"\u0061"}`},
	} {
		if differs(m.Route, []byte(bodies[0]), []byte(bodies[1])) == "" {
			t.Errorf("%s: the oracle sees no difference", name)
		}
		if _, err := parse(create(bodies[0])); err == nil {
			t.Errorf("%s: %s is accepted", name, bodies[0])
		}
	}
}
