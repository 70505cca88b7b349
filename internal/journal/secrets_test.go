package journal

import (
	"testing"

	"github.com/belay-project/belay/internal/verdict"
)

// TestNoSecretsNoCopy: a record that has nothing to hide, as nearly all, is not copied.
func TestNoSecretsNoCopy(t *testing.T) {
	r := record(1, verdict.Denied)
	r.Process.Args = []string{"/bin/app", "serve", "https://example.org/", "300000"}
	if n := testing.AllocsPerRun(100, func() {
		if WithoutSecrets(r) != r {
			t.Fatal("the record was copied")
		}
	}); n != 0 {
		t.Errorf("%v allocations", n)
	}
}
