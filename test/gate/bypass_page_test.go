package gate

import (
	"fmt"
	"os"
	"sort"
	"strings"
	"testing"
)

const pagePath = "../../docs/gate-bypasses.md"

const pageHead = `# Ways around a gate, and what became of them

Written by ` + "`BELAY_E2E=1 BELAY_WRITE_BYPASSES=1 go test -run TestBypasses ./test/gate`" + `, once on each engine (the
modern one with ` + "`BELAY_TEST_MODERN_ENGINE`" + `); every other run of the test compares itself with this page and fails where
they differ. The same bytes are sent to the engine's own socket (bare) and to the gate's (guarded) under the four
policies of ` + "`policies/access-*.yaml`" + `, there as a user of the host who is in no group of theirs, or where
entering is the matter, who may enter. **harm** means that the harm was done and seen: a file on the host, a root
process, a privileged container, another's secret in the answer, a request that the engine was made to send. A number is
the status of the refusal; beside it is the gate's cause, or the policy and rule. "Without effect" means that the answer was no
refusal and that nothing happened. Each case also has a harmless neighbour that passes the gate. Names of tests are
` + "`TestBypasses/ID technique`" + `.

Engines: Docker 20.10 (API 1.41) and Docker 29 (API 1.56).
`

const pageTail = `
## What is not in the table
| id | why |
|---|---|
| A5 | races inside the engine's copying: the gate's part is who may copy at all, which the table shows |
| A6 | a flaw of the client: nothing of it is to be seen in requests |
| A9 | a proxy's own headers that a client strips: nothing without a proxy; refused by the gate (internal/gate/proxy, TestBypasses) |
| B14 | a browser's requests need TCP: the gate's TLS listener refuses origins that are not configured (internal/gate/proxy, TestTLS) |
| D15 | two Dockerfiles in one archive: policies do not look into Dockerfiles, so there is nothing that a second could hide |
| D22 | Kubernetes: not this front end |
`

// notPlayed is the result of what a short run leaves out.
const notPlayed = "not played"

// page is docs/gate-bypasses.md. One run knows one engine, and keeps what the page says
// of the other.
type page struct {
	modern bool
	write  bool
	old    map[string][4]string // by id and technique
	rows   []string
	now    map[string][4]string
}

func readPage(t *testing.T, modern bool) *page {
	t.Helper()
	p := &page{modern: modern, write: os.Getenv("BELAY_WRITE_BYPASSES") != "", old: map[string][4]string{}, now: map[string][4]string{}}
	b, err := os.ReadFile(pagePath)
	if err != nil && !p.write {
		t.Fatal(err)
	}
	for line := range strings.Lines(string(b)) {
		c := strings.Split(strings.Trim(strings.TrimSpace(line), "|"), "|")
		if len(c) != 6 || strings.HasPrefix(c[0], "-") || strings.TrimSpace(c[0]) == "id" {
			continue
		}
		for i := range c {
			c[i] = strings.TrimSpace(c[i])
		}
		p.old[c[0]+" "+c[1]] = [4]string(c[2:])
	}
	return p
}

// add enters the results of one case.
func (p *page) add(t *testing.T, b *bypass, r [2]string) {
	t.Helper()
	key := b.id + " " + b.what
	if _, twice := p.now[key]; twice {
		t.Errorf("two cases are called %s", key)
	}
	cells := p.old[key]
	at := 0
	if p.modern {
		at = 2
	}
	if r[0] == notPlayed {
		r[0] = cells[at]
	}
	if !p.write && [2]string(cells[at:at+2]) != r {
		t.Errorf("docs/gate-bypasses.md says %q, and it was %q: run with BELAY_WRITE_BYPASSES=1 if that is right", cells[at:at+2], r)
	}
	cells[at], cells[at+1] = r[0], r[1]
	p.now[key] = cells
	p.rows = append(p.rows, fmt.Sprintf("| %s | %s | %s |", b.id, b.what, strings.Join(cells[:], " | ")))
}

// finish writes the page. A run of some of the cases keeps what it says of the others.
func (p *page) finish(t *testing.T, all int) {
	t.Helper()
	if !p.write || t.Failed() {
		return
	}
	if len(p.now) < all {
		for key, cells := range p.old {
			if _, played := p.now[key]; !played {
				id, what, _ := strings.Cut(key, " ")
				p.rows = append(p.rows, fmt.Sprintf("| %s | %s | %s |", id, what, strings.Join(cells[:], " | ")))
			}
		}
	}
	// By technique, not as they were played: a run of some gives the same page.
	sort.Slice(p.rows, func(i, j int) bool {
		if a, b := rowID(p.rows[i]), rowID(p.rows[j]); a != b {
			return a < b
		}
		return p.rows[i] < p.rows[j]
	})
	text := pageHead + "\n| id | technique | 20.10 bare | 20.10 guarded | 1.56 bare | 1.56 guarded |\n|---|---|---|---|---|---|\n" +
		strings.Join(p.rows, "\n") + "\n" + pageTail
	if err := os.WriteFile(pagePath, []byte(text), 0o644); err != nil {
		t.Fatal(err)
	}
}

// rowID makes ids sort as people count: A2 before A10.
func rowID(row string) string {
	id := strings.Fields(row)[1]
	return fmt.Sprintf("%c%03s", id[0], id[1:])
}
