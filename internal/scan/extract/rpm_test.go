package extract

import (
	"strings"
	"testing"

	"github.com/belay-project/belay/internal/scan/inventory"
)

// TestSourceEpochs: names of source packages have no epoch; what gives them one must not make a version newer than it is.
func TestSourceEpochs(t *testing.T) {
	for _, tt := range []struct{ name, packages, want string }{
		{"none", "bash=5.1-1 of bash 5.1-1", "5.1-1"},
		{"its own", "openssl-libs=1:3.0-1 of openssl 3.0-1", "1:3.0-1"},
		{"that of the package of its name", "perl-Pod=1:1.07-3 of perl 5.26-3, perl=4:5.26-3 of perl 5.26-3", "4:5.26-3 4:5.26-3"},
		{"whatever others of that version have", "b=9:1-1 of a 1-1, a=2:1-1 of a 1-1, c=1-1 of a 1-1", "2:1-1 2:1-1 2:1-1"},
		{"also where it has none", "b=1:1-1 of a 1-1, a=1-1 of a 1-1, c=3:1-1 of a 1-1", "1-1 1-1 1-1"},
		{"without it the lowest", "b=10:1-1 of a 1-1, c=9:1-1 of a 1-1, d=10:1-1 of a 1-1", "9:1-1 9:1-1 9:1-1"},
		{"which may be none", "b=1:1-1 of a 1-1, c=1-1 of a 1-1", "1-1 1-1"},
		{"of another version nothing is told", "perl-Pod=1:1.07-3 of perl 5.26-3, perl=4:5.30-1 of perl 5.30-1", "5.26-3 4:5.30-1"},
	} {
		var list []inventory.Package
		for text := range strings.SplitSeq(tt.packages, ", ") {
			binary, source, _ := strings.Cut(text, " of ")
			var p inventory.Package
			p.Name, p.Version, _ = strings.Cut(binary, "=")
			p.Source, p.SourceVersion, _ = strings.Cut(source, " ")
			list = append(list, p)
		}
		sourceEpochs(list)
		var got []string
		for _, p := range list {
			got = append(got, p.SourceVersion)
		}
		if strings.Join(got, " ") != tt.want {
			t.Errorf("%s: got %v, want %s", tt.name, got, tt.want)
		}
	}
}
