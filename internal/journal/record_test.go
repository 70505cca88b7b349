package journal

import (
	"bytes"
	"encoding/json"
	"fmt"
	"os"
	"reflect"
	"regexp"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"

	"github.com/belay-project/belay/internal/ident"
	"github.com/belay-project/belay/internal/verdict"
)

const schemaDoc = "../../docs/event-schema.md"

func TestEncodeTrims(t *testing.T) {
	huge := strings.Repeat("\x01", 100<<10) // six bytes of JSON each
	base := func() *Record { r := record(1, verdict.Denied); r.Seq = 7; r.Schema = Schema; return r }
	tests := []struct {
		name  string
		edit  func(r *Record)
		trims bool
		check func(r *Record) string
	}{
		{name: "ordinary", edit: func(*Record) {}, check: func(*Record) string { return "" }},
		{
			name: "labels", trims: true, edit: func(r *Record) { r.Container.Labels = map[string]string{"a": huge} },
			check: func(r *Record) string {
				if r.Container.Labels != nil || r.Object.Path != "/usr/bin/id" {
					return "labels cut and the rest whole"
				}
				return ""
			},
		},
		{
			name: "arguments", trims: true, edit: func(r *Record) { r.Process.Args = []string{huge} },
			check: func(r *Record) string {
				if r.Process.Args != nil || !r.Process.ArgsTruncated {
					return "arguments cut and marked"
				}
				return ""
			},
		},
		{name: "everything", trims: true, edit: func(r *Record) {
			r.Message, r.Hook, r.Host, r.Process.Cwd, r.Process.Comm, r.Process.Executable.Path = huge, huge, huge, huge, huge, huge
			r.Object.Path, r.Policy.Name, r.Container.Name, r.Container.Image = huge, huge, huge, huge
			r.Flags = slices.Repeat([]string{huge}, 50)
			r.Process.Ancestors = slices.Repeat([]Ancestor{{Comm: huge}}, 50)
			r.Lost = map[string]uint64{}
			for i := range 100 {
				r.Lost[fmt.Sprint(i, huge)] = 1
			}
		}, check: func(r *Record) string {
			if n := len(r.Object.Path); n == 0 || n > trimmedText || !r.Object.PathTruncated || !r.Process.Executable.PathTruncated ||
				r.Seq != 7 || r.Decision != verdict.Denied || r.Process.PID != 1001 || len(r.Process.Ancestors) == 0 || len(r.Process.Ancestors) > trimmedItems {
				return "short texts, marked, with numbers whole"
			}
			return ""
		}},
	}
	for _, tt := range tests {
		t.Run(tt.name, func(t *testing.T) {
			r := base()
			tt.edit(r)
			before, err := json.Marshal(r)
			if err != nil {
				t.Fatal(err)
			}
			b, err := NewEncoder().Encode(r)
			if err != nil {
				t.Fatal(err)
			}
			if after, _ := json.Marshal(r); !bytes.Equal(before, after) {
				t.Error("got the caller's record changed")
			}
			if len(b) > MaxRecordBytes {
				t.Errorf("got %d bytes, want at most %d", len(b), MaxRecordBytes)
			}
			var got Record
			if err := json.Unmarshal(b, &got); err != nil {
				t.Fatal(err)
			}
			if slices.Contains(got.Flags, FlagTrimmed) != tt.trims {
				t.Errorf("got flags %.80q, want trimmed %v", got.Flags, tt.trims)
			}
			if want := tt.check(&got); want != "" {
				t.Errorf("got %.2000q, want %s", b, want)
			}
		})
	}
}

func TestEncodeError(t *testing.T) {
	dir := t.TempDir()
	j := open(t, Options{Dir: dir})
	r := record(1, verdict.Denied)
	r.Time = time.Date(10000, 1, 1, 0, 0, 0, 0, time.UTC) // RFC 3339 has four digits
	j.Append(r)
	if err := j.Flush(); err == nil {
		t.Error("got nil, want an error")
	}
	if got := j.Stats().Dropped; !cmp.Equal(got, map[string]uint64{CauseEncode: 1}) {
		t.Errorf("got %v, want one %s", got, CauseEncode)
	}
	appendN(t, j, 1)
	wantOK(t, dir)
}

func TestTexts(t *testing.T) {
	b, err := json.Marshal(struct {
		C Caps
		D Dev
	}{0xa80425fb, KernelDev(254<<20 | 17)})
	if err != nil {
		t.Fatal(err)
	}
	if got, want := string(b), `{"C":"00000000a80425fb","D":"254:17"}`; got != want {
		t.Errorf("got %s, want %s", got, want)
	}
	for _, s := range []string{"", "x", "1", "1:", ":1", "1:2:3", "-1:2", "4294967296:0", "1:2 "} {
		if err := new(Dev).UnmarshalText([]byte(s)); err == nil {
			t.Errorf("device %q: got nil, want an error", s)
		}
	}
	for _, s := range []string{"", "g", "11111111111111111", "-1", "0x1"} {
		if err := new(Caps).UnmarshalText([]byte(s)); err == nil {
			t.Errorf("capabilities %q: got nil, want an error", s)
		}
	}
}

func TestDenial(t *testing.T) {
	want := map[verdict.Decision]bool{verdict.Allowed: false, verdict.Denied: true, verdict.Killed: true, verdict.WouldDeny: true, "": false}
	for d, w := range want {
		if got := (&Record{Decision: d}).Denial(); got != w {
			t.Errorf("%q: got %v, want %v", d, got, w)
		}
	}
}

// jsonPaths returns the path of every JSON field below typ, such as process.pid.
func jsonPaths(typ reflect.Type, prefix string) []string {
	var out []string
	for f := range typ.Fields() {
		name, _, _ := strings.Cut(f.Tag.Get("json"), ",")
		path := prefix + name
		out = append(out, path)
		ft := f.Type
		for ft.Kind() == reflect.Pointer || ft.Kind() == reflect.Slice {
			ft = ft.Elem()
			if ft.Kind() == reflect.Struct && f.Type.Kind() == reflect.Slice {
				path += "[]"
			}
		}
		if ft.Kind() == reflect.Struct && ft != reflect.TypeFor[time.Time]() && ft != reflect.TypeFor[Dev]() {
			out = append(out, jsonPaths(ft, path+".")...)
		}
	}
	return out
}

// docs/event-schema.md names every field and no other, and its example is a record.
func TestSchemaDocument(t *testing.T) {
	doc, err := os.ReadFile(schemaDoc)
	if err != nil {
		t.Fatal(err)
	}
	var got []string
	table := string(doc[bytes.Index(doc, []byte("<!-- fields -->")):bytes.Index(doc, []byte("<!-- /fields -->"))])
	for _, m := range regexp.MustCompile("(?m)^\\| `([^`]+)` \\|").FindAllStringSubmatch(table, -1) {
		got = append(got, m[1])
	}
	if d := cmp.Diff(jsonPaths(reflect.TypeFor[Record](), ""), got); d != "" {
		t.Errorf("fields of the document (-code +document):\n%s", d)
	}

	_, rest, _ := bytes.Cut(doc, []byte("```json\n"))
	example, _, _ := bytes.Cut(rest, []byte("```"))
	dec := json.NewDecoder(bytes.NewReader(example))
	dec.DisallowUnknownFields()
	var r Record
	if err := dec.Decode(&r); err != nil {
		t.Fatalf("example: %v", err)
	}
	if _, err := ident.ParseContainerID(string(r.Container.ID)); err != nil || r.Schema != Schema || !r.Denial() {
		t.Errorf("got example %+v (%v), want a denial", r, err)
	}
	back, err := NewEncoder().Encode(&r)
	if err != nil {
		t.Fatal(err)
	}
	var compact bytes.Buffer
	if err := json.Compact(&compact, example); err != nil {
		t.Fatal(err)
	}
	if d := cmp.Diff(compact.String(), string(back)); d != "" {
		t.Errorf("example written again (-document +code):\n%s", d)
	}
	for _, c := range []string{
		CauseQueueFull, CauseDiskFull, CauseWriteError, CauseEncode, CauseTornTail,
		CauseReaderLines, CauseReaderSegments, CauseReaderSchema,
		FlagBoundLate, FlagScript, FlagNoProcess, FlagCwdCut, FlagTrimmed,
	} {
		if !bytes.Contains(doc, []byte("`"+c+"`")) {
			t.Errorf("the document lacks %s", c)
		}
	}
}
