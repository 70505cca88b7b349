package testneed

import (
	"runtime"
	"strings"
	"testing"
)

// recorder is a testing.TB that notes how a test ended. Fatalf and Skipf end the
// goroutine, as those of testing.T do.
type recorder struct {
	testing.TB
	ended, msg string
}

func (r *recorder) Helper() {}
func (r *recorder) Fatalf(format string, args ...any) {
	r.ended, r.msg = "failed", format
	runtime.Goexit()
}

func (r *recorder) Skipf(format string, args ...any) {
	r.ended, r.msg = "skipped", format
	runtime.Goexit()
}

func TestNeed(t *testing.T) {
	tests := []struct {
		name    string
		require string
		have    bool
		want    string
	}{
		{name: "there", have: true, want: "ran"},
		{name: "there and promised", require: "docker", have: true, want: "ran"},
		{name: "missing", want: "skipped"},
		{name: "missing, another promised", require: "root,dockerd", want: "skipped"},
		{name: "missing though promised", require: "root, docker", want: "failed"},
		{name: "empty list promises nothing", require: "", want: "skipped"},
	}
	for _, tt := range tests {
		t.Run(tt.name, func(t *testing.T) {
			t.Setenv(EnvRequire, tt.require)
			r := &recorder{TB: t, ended: "ran"}
			done := make(chan struct{})
			go func() {
				defer close(done)
				Need(r, "docker", tt.have, "no daemon")
			}()
			<-done
			if r.ended != tt.want {
				t.Errorf("got %s, want %s", r.ended, tt.want)
			}
			if r.ended != "ran" && !strings.Contains(r.msg, "%s") {
				t.Errorf("message %q does not say what and why", r.msg)
			}
		})
	}
}
