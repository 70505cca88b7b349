package stock

import (
	"strings"
	"testing"

	"github.com/belay-project/belay/internal/scan/inventory"
)

// Policies see the secrets of files alone, without a value, and hear of what was not searched.
func TestSecrets(t *testing.T) {
	res := &inventory.Result{Misconfigurations: []inventory.Misconfiguration{
		{ID: inventory.FileSecret, Severity: inventory.SeverityHigh, Text: "a private key", Where: "root/key:3", Path: "root/key"},
		{ID: inventory.FileSecret, Severity: inventory.SeverityLow, Text: "a hash", Path: "etc/shadow"},
		{ID: inventory.FileSecretDeleted, Text: "a token", Path: "tmp/x"},
		{ID: inventory.ConfigSecretEnv, Severity: inventory.SeverityHigh, Where: "TOKEN"},
		{ID: inventory.FileSetuid, Severity: inventory.SeverityHigh, Path: "bin/su"},
	}}
	got := secrets(res)
	if len(got) != 3 || got[0].Weak || got[0].Where != "root/key:3" || !got[1].Weak || got[1].Where != "etc/shadow" || got[2].Weak {
		t.Errorf("got %+v", got)
	}
	if why := unsearched(res); why != "" {
		t.Errorf("all was searched, got %q", why)
	}
	res.Notes = []inventory.Note{{Path: "opt/x", Text: "not to be opened", Count: 1}}
	if why := unsearched(res); !strings.Contains(why, "opt/x") {
		t.Errorf("an unread file: got %q", why)
	}
	res.Unsearched = &inventory.Note{Path: "etc/big", Text: "too large", Count: 1}
	if why := unsearched(res); !strings.Contains(why, "etc/big") {
		t.Errorf("an unsearched file: got %q", why)
	}
	if why := unsearched(&inventory.Result{Skipped: []string{inventory.ScannerSecret}}); why == "" {
		t.Error("nothing was searched, and all counts as searched")
	}
}
