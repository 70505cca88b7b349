package ratelimit

import "testing"

func TestPlaces(t *testing.T) {
	p := Places{Most: 2, Shared: 3}
	for i, c := range []struct {
		share string
		want  bool
	}{{"a", true}, {"a", true}, {"a", false}, {"b", true}, {"c", false}, {Unbounded, true}, {Unbounded, true}} {
		if got := p.Take(c.share); got != c.want {
			t.Errorf("%d, %q: %v, want %v", i, c.share, got, c.want)
		}
	}
	if p.Leave("a"); !p.Take("c") || p.Take("a") {
		t.Error("a place that is given back is for one")
	}
	if p.Leave(Unbounded); p.used != 3 || len(p.open) != 3 {
		t.Errorf("%d places, %v", p.used, p.open)
	}
}
