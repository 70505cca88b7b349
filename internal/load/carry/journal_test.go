package carry

import (
	"errors"
	"os"
	"path/filepath"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"
)

// TestSteps: what a mover's journal tells of the steps of one run.
func TestSteps(t *testing.T) {
	dir, begin := t.TempDir(), time.Date(2026, 11, 1, 12, 0, 0, 0, time.UTC)
	at := func(s int) time.Time { return begin.Add(time.Duration(s) * time.Second) }
	schema := moveSchema
	write := func(id, history string) {
		t.Helper()
		text := `{"schema": "` + schema + `", "id": "` + id + `", "history": [` + history + `]}`
		if err := os.WriteFile(filepath.Join(dir, id+".json"), []byte(text), 0o600); err != nil {
			t.Fatal(err)
		}
	}
	entry := func(s int, step, text string) string {
		return `{"at": "` + at(s).Format(time.RFC3339Nano) + `", "step": "` + step + `", "text": "` + text + `"}`
	}
	type step struct {
		name       string
		begin, end int
		err        string
	}
	for _, tt := range []struct {
		name, history string
		since         int
		want          []step
	}{
		{"done", entry(1, "lease", "begun") + "," + entry(2, "image", "begun") + "," + entry(4, "image", "moved"), 0, []step{{"lease", 1, 2, ""}, {"image", 2, 4, ""}}},
		{
			"taken back", entry(1, "lease", "begun") + "," + entry(2, "lease", "goes back: no") + "," + entry(5, "lease", "taken back"), 0,
			[]step{{"lease", 1, 2, "no"}, {"back", 2, 5, ""}},
		},
		{"stuck", entry(1, "copy", "begun") + "," + entry(3, "copy", "stuck: full"), 0, []step{{"copy", 1, 3, "full"}}},
		{
			"stuck on the way back", entry(1, "copy", "goes back: no") + "," + entry(3, "copy", "stuck: away"), 0,
			[]step{{"back", 1, 3, "away"}},
		},
		{"killed", entry(1, "copy", "begun"), 0, []step{{"copy", 1, 9, ""}}},
		{"of this run", entry(1, "copy", "begun") + "," + entry(5, "start", "begun"), 4, []step{{"start", 5, 9, ""}}},
		{"the kept source removed", entry(5, "commit", "the source is removed"), 4, nil},
	} {
		t.Run(tt.name, func(t *testing.T) {
			write("a1", tt.history)
			got, err := Steps(dir, "a1", at(tt.since), at(9))
			if err != nil {
				t.Fatal(err)
			}
			var steps []step
			for _, s := range got {
				one := step{s.Name, int(s.Begin.Sub(begin).Seconds()), int(s.End.Sub(begin).Seconds()), ""}
				if s.Err != nil {
					one.err = s.Err.Error()
				}
				steps = append(steps, one)
			}
			if d := cmp.Diff(tt.want, steps, cmp.AllowUnexported(step{})); d != "" {
				t.Error(d)
			}
		})
	}
	schema = groupSchema
	write("a1", entry(1, "copy", "begun"))
	if got, err := Steps(dir, "a1", begin, at(9)); err != nil || len(got) != 1 {
		t.Errorf("of a group: %v, %v", got, err)
	}
	schema = "belay.dev/move/v9"
	write("a1", entry(1, "copy", "begun"))
	if _, err := Steps(dir, "a1", begin, at(9)); err == nil {
		t.Error("a journal of another form is read")
	}
	if _, err := Steps(dir, "b2", begin, begin); !errors.Is(err, errNeverBegun) {
		t.Errorf("no journal: %v", err)
	}
}
