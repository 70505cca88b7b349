package move

import (
	"errors"
	"strings"
	"testing"
)

// TestRoom: volumes that do not fit on the target, and a port that its host listens on, are found while the source serves.
func TestRoom(t *testing.T) {
	for _, c := range []struct {
		name       string
		size, free int64
		port       int
		says, note string
	}{
		{name: "there is room", size: 100 << 20, free: 200 << 20, port: 81},
		{name: "too large", size: 100 << 20, free: 50 << 20, says: "its volumes take 100 MiB, and 50 MiB are free there"},
		{name: "just", size: 100 << 20, free: 101 << 20, says: "are free there"},
		{name: "a port", size: 1, free: 200 << 20, port: 80, says: "something of that host listens on it"},
		{name: "no gate there", size: 100 << 20, note: "is not known"},
		{name: "not measured", size: -1, free: 1 << 20, note: "how large its volumes are is not known"},
	} {
		t.Run(c.name, func(t *testing.T) {
			w := newWorld(t, true)
			w.from.volumes["records"].size, w.to.free, w.to.port = c.size, c.free, c.port
			w.source.host["PortBindings"] = map[string]any{"80/tcp": []any{map[string]any{"HostIp": "", "HostPort": "80"}}}
			w.source.config["ExposedPorts"] = map[string]any{"80/tcp": map[string]any{}}
			was := w.source.finished
			p, err := w.look()
			refused := new(RefusedError)
			if errors.As(err, &refused) != (c.says != "") || c.says != "" && (!strings.Contains(err.Error(), c.says) || !refused.Target) {
				t.Fatalf("got %v", err)
			}
			if err == nil && c.note != "" && !strings.Contains(strings.Join(p.Notes, "\n"), c.note) {
				t.Errorf("notes %q", p.Notes)
			}
			if w.source.finished != was {
				t.Error("the source was stopped")
			}
		})
	}
}
