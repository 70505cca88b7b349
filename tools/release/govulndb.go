package main

import (
	"cmp"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"os"
	"path/filepath"
	"regexp"
	"slices"

	"github.com/belay-project/belay/internal/scan/osvdir"
)

// goRecord is what an index has of a record of the Go vulnerability database.
type goRecord struct {
	ID        string   `json:"id"`
	Modified  string   `json:"modified"` // the year 1 in copies whose maker did not keep it
	Published string   `json:"published"`
	Withdrawn string   `json:"withdrawn"`
	Aliases   []string `json:"aliases"`
	Affected  []struct {
		Package struct{ Name, Ecosystem string }
		Ranges  []struct {
			Type   string
			Events []struct{ Fixed string }
		}
	} `json:"affected"`
}

// goID keeps an ID from being a path.
var goID = regexp.MustCompile(`^GO-[0-9]{4}-[0-9]+$`)

const maxGoRecord = 4 << 20

// govulndb writes a folder of OSV records of Go as the database that govulncheck reads with -db file://.
//
// Source: https://go.dev/security/vuln/database#api (index/db.json, index/modules.json, ID/*.json).
func govulndb(from, to string) error {
	type vuln struct {
		ID       string `json:"id"`
		Modified string `json:"modified"`
		Fixed    string `json:"fixed,omitempty"`
	}
	type alias struct {
		ID       string   `json:"id"`
		Modified string   `json:"modified"`
		Aliases  []string `json:"aliases,omitempty"`
	}
	type module struct {
		Path  string `json:"path"`
		Vulns []vuln `json:"vulns"`
	}
	if err := errors.Join(os.MkdirAll(filepath.Join(to, "index"), 0o755), os.MkdirAll(filepath.Join(to, "ID"), 0o755)); err != nil {
		return err
	}
	modules := map[string][]vuln{}
	seen := map[string]bool{}
	var all []alias
	newest := ""
	err := osvdir.Walk(from, func(path, entry string, r io.Reader) error {
		raw, err := io.ReadAll(io.LimitReader(r, maxGoRecord+1))
		if err != nil || len(raw) > maxGoRecord {
			return fmt.Errorf("%s %s: %d bytes (%w)", path, entry, len(raw), err)
		}
		var rec goRecord
		if err := json.Unmarshal(raw, &rec); err != nil {
			return fmt.Errorf("%s %s: %w", path, entry, err)
		}
		if !goID.MatchString(rec.ID) || seen[rec.ID] || rec.Withdrawn != "" {
			return nil // of another database, older than one that was read, or taken back
		}
		seen[rec.ID] = true
		newest = max(newest, rec.Modified, rec.Published)
		all = append(all, alias{rec.ID, rec.Modified, rec.Aliases})
		for _, a := range rec.Affected {
			v := vuln{ID: rec.ID, Modified: rec.Modified}
			for _, r := range a.Ranges {
				for _, e := range r.Events {
					v.Fixed = cmp.Or(e.Fixed, v.Fixed)
				}
			}
			if !slices.ContainsFunc(modules[a.Package.Name], func(o vuln) bool { return o.ID == rec.ID }) {
				modules[a.Package.Name] = append(modules[a.Package.Name], v)
			}
		}
		return os.WriteFile(filepath.Join(to, "ID", rec.ID+".json"), raw, 0o644)
	})
	if err != nil {
		return err
	}
	if len(all) == 0 {
		return fmt.Errorf("%s holds no record of the Go vulnerability database: a check by it would find nothing", from)
	}
	var index []module
	for path, vulns := range modules {
		slices.SortFunc(vulns, func(a, b vuln) int { return cmp.Compare(a.ID, b.ID) })
		index = append(index, module{path, vulns})
	}
	slices.SortFunc(index, func(a, b module) int { return cmp.Compare(a.Path, b.Path) })
	slices.SortFunc(all, func(a, b alias) int { return cmp.Compare(a.ID, b.ID) })
	for name, v := range map[string]any{"db": map[string]string{"modified": newest}, "modules": index, "vulns": all} {
		raw, err := json.Marshal(v)
		if err != nil {
			return err
		}
		if err := os.WriteFile(filepath.Join(to, "index", name+".json"), raw, 0o644); err != nil {
			return err
		}
	}
	fmt.Printf("%d records of %d modules, the newest of %s\n", len(all), len(index), newest)
	return nil
}
