package journal

import (
	"bytes"
	"encoding/json"
	"math/rand/v2"
	"reflect"
	"slices"
	"strings"
	"testing"
	"time"
)

// leftToJSON are the fields of a record that [appendRecord] leaves to encoding/json.
var leftToJSON = []string{"API", "Factor", "Image", "Load", "Anchor", "Lost"}

// fill sets every field, and half of them to their zero where sparse.
func fill(r *rand.Rand, v reflect.Value, texts []string, sparse bool) {
	if sparse && r.IntN(2) == 0 {
		return
	}
	if v.Type() == reflect.TypeFor[time.Time]() {
		v.Set(reflect.ValueOf(time.Unix(r.Int64N(1<<35), r.Int64N(1e9)).In(time.FixedZone("", r.IntN(50000)/60*60))))
		return
	}
	switch v.Kind() {
	case reflect.Pointer:
		v.Set(reflect.New(v.Type().Elem()))
		fill(r, v.Elem(), texts, sparse)
	case reflect.Struct:
		for i := range v.NumField() {
			fill(r, v.Field(i), texts, sparse)
		}
	case reflect.Slice:
		v.Set(reflect.MakeSlice(v.Type(), 3, 3))
		for i := range v.Len() {
			fill(r, v.Index(i), texts, sparse)
		}
	case reflect.Map:
		v.Set(reflect.MakeMap(v.Type()))
		for range 3 {
			key, value := reflect.New(v.Type().Key()).Elem(), reflect.New(v.Type().Elem()).Elem()
			fill(r, key, texts, false)
			fill(r, value, texts, sparse)
			v.SetMapIndex(key, value)
		}
	case reflect.String:
		v.SetString(texts[r.IntN(len(texts))])
	case reflect.Bool:
		v.SetBool(true)
	case reflect.Int, reflect.Int32, reflect.Int64:
		v.SetInt(1 + r.Int64N(1<<30))
	case reflect.Uint16, reflect.Uint32, reflect.Uint64, reflect.Uint8:
		v.SetUint(1 + r.Uint64()>>(64-min(v.Type().Bits(), 63)))
	case reflect.Float64:
		v.SetFloat(r.Float64())
	}
}

// TestAppendRecord: what is written by hand is what encoding/json writes, of every field that a record has, or is left to it.
func TestAppendRecord(t *testing.T) {
	plain := []string{"a", "b c", "/usr/bin/x<y>&z'~", `say "no"`, `c:\d`, "two\nlines\tand\r", "0123456789abcdef"}
	odd := append([]string{"\x00", "\x1b[2J", "\x7f", "ä", "\u2028", "\xff", "日本"}, plain...)
	r := rand.New(rand.NewPCG(1, 2))
	byHand := 0
	for i := range 4_000 {
		var rec Record
		texts := plain
		if i%4 == 3 {
			texts = odd
		}
		fill(r, reflect.ValueOf(&rec).Elem(), texts, i > 0)
		if i%5 != 4 {
			for _, name := range leftToJSON {
				reflect.ValueOf(&rec).Elem().FieldByName(name).SetZero()
			}
		}
		var want bytes.Buffer
		enc := json.NewEncoder(&want)
		enc.SetEscapeHTML(false)
		if err := enc.Encode(&rec); err != nil {
			t.Fatal(err)
		}
		got, ok := appendRecord(nil, &rec)
		if !ok {
			if i%4 != 3 && i%5 != 4 {
				t.Fatalf("a plain record is left to encoding/json: %s", want.Bytes())
			}
			continue
		}
		byHand++
		if want := bytes.TrimSuffix(want.Bytes(), []byte("\n")); !bytes.Equal(got, want) {
			t.Fatalf("got  %s\nwant %s", got, want)
		}
	}
	if byHand < 2_000 {
		t.Errorf("only %d records were made by hand", byHand)
	}
}

// TestEncodeBoundsAll: no part of a record makes it longer than the bound, however long its texts and lists are.
func TestEncodeBoundsAll(t *testing.T) {
	parts := []string{"Container", "Process", "Policy", "Object", "API", "Factor", "Image", "Load", "Anchor", "Lost", "Flags"}
	for _, text := range []string{strings.Repeat("x", 2048), strings.Repeat("\x01", 1024)} {
		for _, only := range append(slices.Clone(parts), "") {
			var rec Record
			v := reflect.ValueOf(&rec).Elem()
			fill(rand.New(rand.NewPCG(1, 2)), v, []string{text}, false)
			for _, p := range parts {
				if only != "" && p != only {
					v.FieldByName(p).SetZero()
				}
			}
			lengthen(v, 64)
			b, err := Encode(&rec)
			if err != nil || len(b) > MaxRecordBytes {
				t.Errorf("%.8q in %q: %d bytes, %v", text, only, len(b), err)
			}
			var back Record
			if err := json.Unmarshal(b, &back); err != nil || back.Seq != rec.Seq || back.Kind == "" {
				t.Errorf("%.8q in %q: it reads back as %d %q, %v, want %d", text, only, back.Seq, back.Kind, err, rec.Seq)
			}
		}
	}
}

// lengthen makes every list of a record n long.
func lengthen(v reflect.Value, n int) {
	switch v.Kind() {
	case reflect.Pointer:
		if !v.IsNil() {
			lengthen(v.Elem(), n)
		}
	case reflect.Struct:
		for i := range v.NumField() {
			if v.Type().Field(i).IsExported() {
				lengthen(v.Field(i), n)
			}
		}
	case reflect.Slice:
		if v.Len() > 0 {
			for v.Len() < n {
				v.Set(reflect.Append(v, v.Index(0)))
			}
		}
	}
}
