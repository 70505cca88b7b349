package policy

import (
	"slices"
	"strings"
	"testing"
)

func TestElevationActions(t *testing.T) {
	for _, tt := range []struct {
		text, want string
	}{
		{"exec", "container.exec container.exec.inspect container.exec.resize container.exec.start"},
		{"container.exec", "container.exec container.exec.inspect container.exec.resize container.exec.start"},
		{"container.exec.start", "container.exec.start"},
		{"copy", "container.copy.in container.copy.out container.copy.stat"},
		{"delete", "container.delete"},
		{"pull", "image.pull"},
		{"volume", "volume.create volume.delete volume.inspect volume.list volume.prune volume.update"},
		{"policy.r*", "policy.read policy.rollback"},
	} {
		t.Run(tt.text, func(t *testing.T) {
			got, err := ElevationActions(tt.text)
			if err != nil || strings.Join(got, " ") != tt.want {
				t.Errorf("got %q, %v, want %s", got, err, tt.want)
			}
		})
	}
	if got, err := ElevationActions("*"); err != nil || !slices.Equal(got, Actions()) {
		t.Errorf("*: got %d actions, %v, want all", len(got), err)
	}
	for _, text := range []string{"", "exce", "container.nothing", "nothing*", strings.Repeat("x", 5000)} {
		if got, err := ElevationActions(text); err == nil {
			t.Errorf("%.20q: got %q, want an error", text, got)
		}
	}
}

// What the hint says must cover the action that was refused.
func TestElevationHint(t *testing.T) {
	for _, a := range actions {
		got, err := ElevationActions(ElevationHint(a))
		if err != nil || !slices.Contains(got, a) {
			t.Errorf("%s: the hint %q gives %q, %v", a, ElevationHint(a), got, err)
		}
	}
	if got := ElevationHint("container.exec.start"); got != "exec" {
		t.Errorf("got %q, want exec", got)
	}
}
