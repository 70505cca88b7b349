package dockerapi

import (
	"bufio"
	"net/http"
	"os"
	"strings"
	"testing"
)

// TestCLIRequests parses what two generations of the stock command line send: strict
// must not mean that ordinary clients are refused, and what is sent on must say what
// they said.
func TestCLIRequests(t *testing.T) {
	f, err := os.Open("testdata/cli-requests.txt")
	if err != nil {
		t.Fatal(err)
	}
	defer f.Close()
	actions := map[string]bool{}
	sc := bufio.NewScanner(f)
	sc.Buffer(nil, 1<<20)
	for sc.Scan() {
		if strings.HasPrefix(sc.Text(), "#") {
			continue
		}
		p := strings.SplitN(sc.Text(), " ", 4)
		path, query, _ := strings.Cut(p[1], "?")
		c := call{method: p[0], path: path, query: query, header: http.Header{}}
		if p[2] != "-" {
			c.header.Set("Content-Type", p[2])
		}
		if len(p) == 4 {
			c.body = p[3]
		}
		r, err := parse(c)
		if err != nil {
			t.Errorf("%s %s: %v", p[0], p[1], err)
			continue
		}
		actions[r.Call.Action] = true
		target, body := encode(t, r)
		if body != "" {
			if why := differs(r.Route, []byte(c.body), []byte(body)); why != "" {
				t.Errorf("%s %s: %s", p[0], p[1], why)
			}
		}
		if got, want := boolSpelling.Replace(target), boolSpelling.Replace(p[1]); got != want {
			t.Errorf("%s: sent to %s, want %s", p[0], got, want)
		}
	}
	if err := sc.Err(); err != nil {
		t.Fatal(err)
	}
	if len(actions) < 80 {
		t.Errorf("%d actions, want those of the command line", len(actions))
	}
}

// boolSpelling takes away the one change that we make to these targets.
var boolSpelling = strings.NewReplacer("=true", "=1", "=false", "=0")
