package output

import (
	"encoding/json"
	"fmt"
	"go/ast"
	"go/parser"
	"go/token"
	"maps"
	"os"
	"reflect"
	"slices"
	"strconv"
	"strings"
	"testing"
	"time"

	"github.com/belay-project/belay/internal/journal"
	"github.com/belay-project/belay/internal/verdict"
)

// kinds are the constants of type Kind in the journal's source: a new one is found without
// anybody thinking of this test.
func kinds(t *testing.T) []journal.Kind {
	t.Helper()
	f, err := parser.ParseFile(token.NewFileSet(), "../journal/record.go", nil, 0)
	if err != nil {
		t.Fatal(err)
	}
	var out []journal.Kind
	ast.Inspect(f, func(n ast.Node) bool {
		v, ok := n.(*ast.ValueSpec)
		if !ok || len(v.Values) != 1 {
			return true
		}
		if id, ok := v.Type.(*ast.Ident); ok && id.Name == "Kind" {
			s, err := strconv.Unquote(v.Values[0].(*ast.BasicLit).Value)
			if err != nil {
				t.Fatal(err)
			}
			out = append(out, journal.Kind(s))
		}
		return true
	})
	if len(out) < 13 {
		t.Fatalf("found the kinds %q only", out)
	}
	return out
}

// fill sets every field of v to something.
func fill(v reflect.Value, depth int) {
	switch v.Kind() {
	case reflect.Pointer:
		v.Set(reflect.New(v.Type().Elem()))
		fill(v.Elem(), depth)
	case reflect.Struct:
		if v.Type() == reflect.TypeFor[time.Time]() {
			v.Set(reflect.ValueOf(at))
			return
		}
		for i := range v.NumField() {
			fill(v.Field(i), depth+1)
		}
	case reflect.Slice:
		v.Set(reflect.MakeSlice(v.Type(), 1, 1))
		fill(v.Index(0), depth+1)
	case reflect.Map:
		v.Set(reflect.MakeMap(v.Type()))
		k, e := reflect.New(v.Type().Key()).Elem(), reflect.New(v.Type().Elem()).Elem()
		fill(k, depth+1)
		fill(e, depth+1)
		v.SetMapIndex(k, e)
	case reflect.String:
		v.SetString("/text")
	case reflect.Bool:
		v.SetBool(true)
	case reflect.Uint16, reflect.Uint32, reflect.Uint64:
		v.SetUint(7)
	case reflect.Int, reflect.Int32, reflect.Int64:
		v.SetInt(7)
	case reflect.Float64:
		v.SetFloat(7)
	}
}

// own are the parts of a record that only one kind has.
var own = map[string]journal.Kind{
	"API": journal.KindAPI, "Factor": journal.KindFactor, "Image": journal.KindImage, "Load": journal.KindLoad, "Lost": journal.KindLoss, "Anchor": journal.KindAnchor,
}

// sample is a record of a kind with all that it can have; variants are others of that kind.
func sample(k journal.Kind) *journal.Record {
	r := new(journal.Record)
	fill(reflect.ValueOf(r).Elem(), 0)
	for name, of := range own {
		if of != k {
			reflect.ValueOf(r).Elem().FieldByName(name).SetZero()
		}
	}
	r.Schema, r.BootID, r.Seq, r.Time, r.Host, r.Kind, r.Event, r.Hook = journal.Schema, "boot", 7, at, "web-1", k, "created", "a_hook"
	r.Decision, r.Policy.Mode = verdict.Denied, "enforce"
	switch k {
	case journal.KindLoss, journal.KindAgent, journal.KindContainer, journal.KindLoad, journal.KindAnchor:
		r.Process, r.Object, r.Decision, r.Policy = nil, nil, "", nil
	case journal.KindAPI, journal.KindFactor, journal.KindImage:
		r.Process, r.Object = nil, nil
	}
	return r
}

func variants(k journal.Kind) []*journal.Record {
	out := []*journal.Record{sample(k), {Schema: journal.Schema, BootID: "boot", Seq: 8, Time: at, Host: "web-1", Kind: k}}
	for _, d := range []verdict.Decision{verdict.Allowed, verdict.WouldDeny, verdict.Killed} {
		r := sample(k)
		r.Decision = d
		out = append(out, r)
	}
	add := func(f func(r *journal.Record)) {
		r := sample(k)
		f(r)
		out = append(out, r)
	}
	for _, hook := range []string{
		"file_open", "path_rename", "path_unlink", "path_link", "path_truncate", "inode_setattr", "path_chmod", "socket_connect", "socket_listen", "socket_bind",
		"socket_accept", "socket_sendmsg",
	} {
		add(func(r *journal.Record) { r.Hook = hook })
	}
	for _, e := range []string{journal.EventFirstExec, journal.EventGone} {
		add(func(r *journal.Record) { r.Event = e })
	}
	switch k {
	case journal.KindAPI:
		for _, m := range []string{"GET", "POST", "DELETE"} {
			add(func(r *journal.Record) {
				r.API.Method, r.API.Action, r.API.Remote, r.API.TraceParent = m, "container.create", "192.0.2.1:77", "00-0af7651916cd43dd8448eb211c80319c-b7ad6b7169203331-01"
			})
		}
	case journal.KindFactor:
		for _, e := range []string{"enrolled", "removed", "elevated", "dropped", "refused"} {
			add(func(r *journal.Record) { r.Factor.Event = e })
		}
	case journal.KindImage:
		add(func(r *journal.Record) { r.Image.Event, r.Image.Vulnerability = "finding", "CVE-2026-1" })
	case journal.KindLoad:
		add(func(r *journal.Record) { r.Load.Event = "over" })
	}
	return out
}

func decoded(t *testing.T, b []byte, err error) map[string]any {
	t.Helper()
	if err != nil {
		t.Fatal(err)
	}
	var m map[string]any
	if err := json.Unmarshal(b, &m); err != nil {
		t.Fatalf("%q: %v", b, err)
	}
	return m
}

// at takes a dotted path.
func get(m map[string]any, path string) any {
	var v any = m
	for p := range strings.SplitSeq(path, ".") {
		o, ok := v.(map[string]any)
		if !ok {
			return nil
		}
		v = o[p]
	}
	return v
}

// required has what each class of OCSF 1.4.0 requires beyond what all do.
var required = map[int][]string{
	classBase: {}, classFile: {"actor", "file.name", "file.type_id"}, classKernel: {"actor", "kernel.name", "kernel.type_id"},
	classModule: {"actor", "module.load_type_id"}, classProcess: {"actor", "process"}, classLog: {"log_name"},
	classVulnerability: {"finding_info.uid", "finding_info.title", "vulnerabilities"}, classDetection: {"finding_info.uid", "finding_info.title"},
	classAccount: {"user"}, classAuthentication: {"user", "service"}, classNetwork: {"src_endpoint", "connection_info.direction_id"},
	classLifecycle: {"app.vendor_name", "app.name"}, classAPI: {"actor", "api.operation", "src_endpoint"},
}

// TestOCSF: every kind of event has a class of OCSF, and an event of it has what the class requires.
func TestOCSF(t *testing.T) {
	for _, k := range kinds(t) {
		if ocsfKinds[k] == nil {
			t.Errorf("the kind %s has no mapping to OCSF: add it to ocsfKinds and to docs/outputs.md", k)
			continue
		}
		for i, r := range variants(k) {
			name := fmt.Sprintf("%s %d", k, i)
			b, err := ocsf(r, "v1")
			m := decoded(t, b, err)
			uid, _ := m["class_uid"].(float64)
			req, known := required[int(uid)]
			if !known {
				t.Errorf("%s: class %v", name, uid)
			}
			for _, p := range append(req, "metadata.version", "metadata.product.vendor_name", "metadata.product.name", "device.type_id", "device.hostname", "severity_id", "activity_name") {
				if get(m, p) == nil {
					t.Errorf("%s: class %v requires %s: %s", name, uid, p, b)
				}
			}
			act, _ := m["activity_id"].(float64)
			cat, _ := m["category_uid"].(float64)
			if typ, _ := m["type_uid"].(float64); typ != uid*100+act || cat != float64(int(uid)/1000) {
				t.Errorf("%s: class %v, activity %v, type %v, category %v", name, uid, act, typ, cat)
			}
			if m["time"] != float64(at.UnixMilli()) || get(m, "metadata.uid") != UID(r) || get(m, "metadata.version") != "1.4.0" {
				t.Errorf("%s: time %v, uid %v", name, m["time"], get(m, "metadata.uid"))
			}
			wantRaw(t, name, m["raw_data"], r)
			if action, want := m["action_id"], map[verdict.Decision]any{verdict.Denied: 2.0, verdict.Killed: 2.0, verdict.WouldDeny: 3.0, verdict.Allowed: 1.0}[r.Decision]; action != want {
				t.Errorf("%s: action %v of %s, want %v", name, action, r.Decision, want)
			}
		}
	}
}

// wantRaw: the record itself is in what was made of it.
func wantRaw(t *testing.T, name string, raw any, r *journal.Record) {
	t.Helper()
	want, err := journal.Encode(r)
	if err != nil {
		t.Fatal(err)
	}
	if raw != string(want) {
		t.Errorf("%s: got %v, want the record %s", name, raw, want)
	}
}

// ecsTypes has the types that ECS 8.17 expects of a category.
var ecsTypes = map[string][]string{
	"api":           {"access", "admin", "allowed", "change", "creation", "deletion", "denied", "end", "info", "start", "user"},
	"network":       {"access", "allowed", "connection", "denied", "end", "info", "protocol", "start"},
	"process":       {"access", "change", "end", "info", "start"},
	"file":          {"access", "change", "creation", "deletion", "info"},
	"library":       {"start"},
	"driver":        {"change", "end", "info", "start"},
	"host":          {"access", "change", "end", "info", "start"},
	"iam":           {"admin", "change", "creation", "deletion", "group", "info", "user"},
	"configuration": {"access", "change", "creation", "deletion", "info"},
	"vulnerability": {"info"}, "authentication": {"start", "end", "info"}, "intrusion_detection": {"allowed", "denied", "info"},
}

// TestECS: every kind of event is categorised with the words that ECS allows.
func TestECS(t *testing.T) {
	for _, k := range kinds(t) {
		if ecsKinds[k] == nil {
			t.Errorf("the kind %s has no mapping to ECS: add it to ecsKinds and to docs/outputs.md", k)
			continue
		}
		for i, r := range variants(k) {
			name := fmt.Sprintf("%s %d", k, i)
			b, err := ecs(r, "v1")
			m := decoded(t, b, err)
			var allowed []string
			cats, _ := get(m, "event.category").([]any)
			for _, c := range cats {
				types, ok := ecsTypes[c.(string)]
				if !ok {
					t.Errorf("%s: category %v", name, c)
				}
				allowed = append(allowed, types...)
			}
			types, _ := get(m, "event.type").([]any)
			for _, typ := range types {
				if !slices.Contains(allowed, typ.(string)) {
					t.Errorf("%s: type %v of the categories %v", name, typ, cats)
				}
			}
			if len(cats) == 0 || len(types) == 0 || get(m, "ecs.version") != "8.17.0" || get(m, "event.id") != UID(r) || m["@timestamp"] != at.Format(time.RFC3339Nano) {
				t.Errorf("%s: %s", name, b)
			}
			wantRaw(t, name, get(m, "event.original"), r)
			outcome := map[verdict.Decision]any{verdict.Denied: "failure", verdict.Killed: "failure", verdict.WouldDeny: "success", verdict.Allowed: "success", "": "unknown"}[r.Decision]
			if get(m, "event.outcome") != outcome {
				t.Errorf("%s: outcome %v of %q", name, get(m, "event.outcome"), r.Decision)
			}
		}
	}
}

// paths adds the path of every field below v.
func paths(v any, prefix string, out map[string]bool) {
	switch v := v.(type) {
	case map[string]any:
		if prefix == "container.labels" || prefix == "belay.lost" {
			break // their names are not ours
		}
		for name, e := range v {
			p := name
			if prefix != "" {
				p = prefix + "." + name
			}
			paths(e, p, out)
		}
		return
	case []any:
		for _, e := range v {
			if _, ok := e.(map[string]any); ok {
				paths(e, prefix+"[]", out)
				return
			}
		}
	}
	out[prefix] = true
}

// TestMappingDocument: docs/outputs.md has every kind and every field of both mappings, and no
// field that nothing makes.
func TestMappingDocument(t *testing.T) {
	doc, err := os.ReadFile("../../docs/outputs.md")
	if err != nil {
		t.Fatal(err)
	}
	for format, f := range map[string]func(*journal.Record, string) ([]byte, error){FormatOCSF: ocsf, FormatECS: ecs} {
		_, part, ok := strings.Cut(string(doc), "<!-- "+format+" -->")
		part, _, ok2 := strings.Cut(part, "<!-- /"+format+" -->")
		if !ok || !ok2 {
			t.Fatalf("the document has no part for %s", format)
		}
		named, made := map[string]bool{}, map[string]bool{}
		kindsNamed := map[string]bool{}
		for row := range strings.Lines(part) {
			cells := strings.Split(row, "|")
			if len(cells) < 3 {
				continue
			}
			for i, word := range strings.Split(cells[1], "`") {
				if i%2 == 1 {
					named[word] = true
					kindsNamed[word] = true
				}
			}
		}
		for _, k := range kinds(t) {
			if !kindsNamed["kind "+string(k)] {
				t.Errorf("%s: the document has no row `kind %s`", format, k)
			}
			delete(named, "kind "+string(k))
			for _, r := range variants(k) {
				b, err := f(r, "v1")
				paths(decoded(t, b, err), "", made)
			}
		}
		for _, p := range slices.Sorted(maps.Keys(made)) {
			if !named[p] {
				t.Errorf("%s: %s is made and not in the document", format, p)
			}
			delete(named, p)
		}
		for p := range named {
			t.Errorf("%s: %s is in the document and never made", format, p)
		}
	}
}

// TestMappingsOfLongRecords: what a container made long is as bounded in a mapping as in the journal,
// and no secret of the arguments is in any format.
func TestMappingsOfLongRecords(t *testing.T) {
	r := sample(journal.KindExec)
	r.Container.Labels = map[string]string{"a": strings.Repeat("x", 1<<20)}
	r.Process.Args = []string{"--password=hunter2", "\xff"}
	for _, format := range []string{FormatBelay, FormatOCSF, FormatECS} {
		enc, err := encoderOf(format, "v1")
		if err != nil {
			t.Fatal(err)
		}
		b, err := enc(r)
		decoded(t, b, err)
		if len(b) > 4*journal.MaxRecordBytes || strings.Contains(string(b), "hunter2") || strings.Contains(string(b), "\n") {
			t.Errorf("%s: %d bytes: %.500s", format, len(b), b)
		}
	}
}
