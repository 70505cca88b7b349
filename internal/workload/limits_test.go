package workload

import (
	"bytes"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"maps"
	"strings"
	"testing"
	"testing/iotest"
	"unicode/utf8"

	"github.com/google/go-cmp/cmp"
	"github.com/moby/moby/api/types/container"
	"github.com/moby/moby/api/types/events"
)

func many(n, size int) map[string]string {
	m := make(map[string]string, n)
	for i := range n {
		m[fmt.Sprintf("k%06d", i)] = strings.Repeat("v", size)
	}
	return m
}

func with(m map[string]string, kv ...string) map[string]string {
	m = maps.Clone(m)
	for i := 0; i < len(kv); i += 2 {
		m[kv[i]] = kv[i+1]
	}
	return m
}

func TestBoundLabels(t *testing.T) {
	tests := []struct {
		name string
		in   map[string]string
		keep []string // must survive
		lose []string // must be gone
		kept int
	}{
		{name: "none"},
		{name: "few", in: map[string]string{"a": "1", "": "", "c\x00d": "\x1b[31m"}, keep: []string{"a", "", "c\x00d"}, kept: 3},
		{name: "exactly the number", in: many(maxLabels, 1), kept: maxLabels},
		{name: "one too many", in: many(maxLabels+1, 1), kept: maxLabels},
		{name: "value too large", in: map[string]string{"a": "1", "b": strings.Repeat("x", maxLabelValueBytes+1)}, keep: []string{"a"}, lose: []string{"b"}, kept: 1},
		{name: "key too large", in: map[string]string{strings.Repeat("k", maxLabelKeyBytes+1): "", "a": "1"}, keep: []string{"a"}, kept: 1},
		{name: "too many bytes", in: with(many(100, 1000), "a", "1"), keep: []string{"a"}, kept: 1 + (maxLabelsBytes-2)/1007},
		{
			name: "ours go first", in: with(many(100000, 0), "belay.dev/zzzz", strings.Repeat("v", 4000), "io.kubernetes.pod.namespace", "x"),
			keep: []string{"belay.dev/zzzz", "io.kubernetes.pod.namespace"}, kept: maxLabels,
		},
	}
	for _, tt := range tests {
		t.Run(tt.name, func(t *testing.T) {
			got, cut := boundLabels(tt.in)
			if len(got) != tt.kept || cut != len(tt.in)-tt.kept {
				t.Errorf("got %d kept and %d cut, want %d and %d", len(got), cut, tt.kept, len(tt.in)-tt.kept)
			}
			for _, k := range tt.keep {
				if v, ok := got[k]; !ok || v != tt.in[k] {
					t.Errorf("label %q: got %q, %v, want it whole", k, v, ok)
				}
			}
			for _, k := range tt.lose {
				if _, ok := got[k]; ok {
					t.Errorf("label %q is kept, want it cut", k)
				}
			}
			again, _ := boundLabels(tt.in)
			if diff := cmp.Diff(got, again); diff != "" {
				t.Errorf("two runs differ:\n%s", diff)
			}
		})
	}
}

func TestBoundFields(t *testing.T) {
	c := bound(Container{
		ID: id(0xabc), Name: strings.Repeat("n", maxNameBytes+1), Image: strings.Repeat("i", maxImageBytes+1),
		Namespace: strings.Repeat("s", maxNameBytes+1), ImageDigest: "sha256:xyz",
	})
	want := Container{ID: id(0xabc), Name: id(0xabc).Short(), Cut: 3}
	if diff := cmp.Diff(want, c); diff != "" {
		t.Errorf("(-want +got):\n%s", diff)
	}
}

func TestMergeDigests(t *testing.T) {
	var flood []string
	for i := range 100 {
		flood = append(flood, digest(i))
	}
	tests := []struct {
		name string
		in   [][]string
		want []string
	}{
		{name: "none"},
		{name: "sorted, once", in: [][]string{{digest(2), digest(1)}, {digest(2)}}, want: []string{digest(1), digest(2)}},
		{name: "only sha256", in: [][]string{{"", "sha512:" + hexID(1), strings.ToUpper(digest(10)), digest(1) + "0", hexID(1)}}},
		{name: "bounded", in: [][]string{flood}, want: flood[:maxDigests]},
	}
	for _, tt := range tests {
		t.Run(tt.name, func(t *testing.T) {
			if diff := cmp.Diff(tt.want, mergeDigests(tt.in...)); diff != "" {
				t.Errorf("(-want +got):\n%s", diff)
			}
		})
	}
}

func TestBoundedBody(t *testing.T) {
	tests := []struct {
		name    string
		body    string
		perLine bool
		ok      bool
	}{
		{name: "fits", body: "0123456789", ok: true},
		{name: "too large", body: "0123456789a"},
		{name: "lines count together", body: "01234\n56789"},
		{name: "lines count alone", body: "0123456789\n0123456789\n0123456789", perLine: true, ok: true},
		{name: "first line too large", body: "0123456789a\nb\n", perLine: true},
		{name: "middle line too large", body: "b\n0123456789a\nb\n", perLine: true},
		{name: "last line too large", body: "b\n0123456789a", perLine: true},
		{name: "empty lines", body: strings.Repeat("\n", 100), perLine: true, ok: true},
	}
	for _, tt := range tests {
		for name, wrap := range map[string]func(io.Reader) io.Reader{"whole": func(r io.Reader) io.Reader { return r }, "bytewise": iotest.OneByteReader} {
			t.Run(tt.name+" "+name, func(t *testing.T) {
				b := &boundedBody{body: io.NopCloser(wrap(strings.NewReader(tt.body))), limit: 10, perLine: tt.perLine}
				_, err := io.Copy(io.Discard, b)
				if tt.ok != (err == nil) || err != nil && !errors.Is(err, ErrTooLarge) {
					t.Errorf("got %v, want ok %v", err, tt.ok)
				}
			})
		}
	}
}

func FuzzBoundedBody(f *testing.F) {
	f.Add([]byte("a\nbb\n"), 3, true)
	f.Add([]byte("aaaaaaaaaaaaaaaa"), 4, false)
	f.Fuzz(func(t *testing.T, body []byte, limit int, perLine bool) {
		if limit < 0 || limit > 1<<16 {
			return
		}
		b := &boundedBody{body: io.NopCloser(iotest.HalfReader(bytes.NewReader(body))), limit: limit, perLine: perLine}
		_, err := io.Copy(io.Discard, b)
		longest := len(body)
		if perLine {
			longest = 0
			for l := range bytes.SplitSeq(body, []byte("\n")) {
				longest = max(longest, len(l))
			}
		}
		if (longest > limit) != errors.Is(err, ErrTooLarge) {
			t.Errorf("longest %d, limit %d: got %v", longest, limit, err)
		}
	})
}

// checkBounds fails t if c holds more than the package promises.
func checkBounds(t *testing.T, c Container) {
	t.Helper()
	if len(c.Name) > maxNameBytes || c.Name == "" || len(c.Image) > maxImageBytes || len(c.Namespace) > maxNameBytes || len(c.ImageDigests) > maxDigests {
		t.Errorf("fields out of bounds: %+v", c)
	}
	for _, l := range []map[string]string{c.Labels, c.PodLabels} {
		total := 0
		for k, v := range l {
			total += len(k) + len(v)
		}
		if len(l) > maxLabels || total > maxLabelsBytes {
			t.Errorf("%d labels of %d bytes are out of bounds", len(l), total)
		}
	}
	if _, err := c.ID.Bytes(); err != nil {
		t.Error(err)
	}
}

func FuzzDockerSummary(f *testing.F) {
	f.Add([]byte(`{"Id":"` + hexID(1) + `","Names":["/a","/b/c"],"Image":"x","ImageID":"` + digest(1) + `","Labels":{"a":"b"},"State":"running","Created":1}`))
	f.Add([]byte(`{"Id":"` + hexID(1) + `","Names":null,"Labels":null,"ImageManifestDescriptor":{"digest":"sha256:"}}`))
	f.Add([]byte(`{"Id":"` + strings.ToUpper(hexID(10)) + `"}`))
	f.Fuzz(func(t *testing.T, data []byte) {
		var sum container.Summary
		if json.Unmarshal(data, &sum) != nil {
			return
		}
		if c, ok := fromSummary(sum); ok {
			checkBounds(t, bound(c))
		}
	})
}

func FuzzDockerEvent(f *testing.F) {
	f.Add([]byte(`{"Type":"container","Action":"create","Actor":{"ID":"` + hexID(1) + `","Attributes":{"image":"x","name":"/y"}},"timeNano":1}`))
	f.Add([]byte(`{"Type":"container","Action":"exec_create: sh","Actor":{"ID":"` + hexID(1) + `"}}`))
	f.Add([]byte(`{"Type":"image","Action":"create","Actor":{"ID":"sha256:x"}}`))
	f.Fuzz(func(t *testing.T, data []byte) {
		var m events.Message
		if json.Unmarshal(data, &m) != nil {
			return
		}
		ev, ok := dockerEvent(m)
		if !ok {
			return
		}
		if ev.kind == 0 || len(ev.name) > maxNameBytes || len(ev.image) > maxImageBytes || !utf8.ValidString(ev.name) {
			t.Errorf("event out of bounds: %+v", ev)
		}
		if _, err := ev.ref.id.Bytes(); err != nil {
			t.Error(err)
		}
	})
}
