package report

import (
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"regexp"

	"github.com/belay-project/belay/internal/scan/inventory"
	"github.com/belay-project/belay/internal/scan/vulndb"
)

// maxReport bounds a report that is read, in bytes.
const maxReport = 512 << 20

// HeadBytes is how much of a file [IsReport] wants to see.
const HeadBytes = 256

var head = regexp.MustCompile(`^\s*\{\s*"schema"\s*:\s*"belay\.dev/scan/`)

// IsReport reports whether a file that begins so was written by "belay scan -o json", of
// whatever version.
func IsReport(begin []byte) bool { return head.Match(begin) }

// Read reads a report that "belay scan -o json" wrote.
//
// Errors: [inventory.ErrTooLarge]; a file that is no such report; lists, texts and indices
// that are not within the bounds of one.
func Read(r io.Reader) (*Scan, error) {
	b, err := inventory.ReadAll(r, maxReport)
	if err != nil {
		return nil, err
	}
	s := new(Scan)
	if err := json.Unmarshal(b, s); err != nil {
		return nil, fmt.Errorf("want a report of 'belay scan -o json': %w", err)
	}
	if s.Schema != Schema {
		return nil, fmt.Errorf("the schema is %.40q, want %q: scan again with this version", s.Schema, Schema)
	}
	if s.Inventory == nil {
		return nil, errors.New("the report has no inventory")
	}
	if err := s.Inventory.Check(); err != nil {
		return nil, fmt.Errorf("the report's inventory: %w", err)
	}
	if len(s.Misconfigurations) > inventory.MaxMisconfigurations {
		return nil, errors.New("the report has more misconfigurations than an image may have")
	}
	if s.Inventory.Error != "" {
		return nil, errors.New("the report is of a scan that failed")
	}
	if len(s.Findings) > vulndb.MaxFindings || len(s.Notes) > inventory.MaxPackages {
		return nil, errors.New("the report has more findings or notes than a scan may have")
	}
	if s.Database == nil && len(s.Findings) > 0 {
		return nil, errors.New("the report has findings and no database that they are from")
	}
	for i := range s.Findings {
		if f := &s.Findings[i]; f.Package < 0 || f.Package >= len(s.Inventory.Packages) || len(f.IDs) == 0 {
			return nil, fmt.Errorf("finding %d is about no package of the report, or has no name", i)
		}
		s.Findings[i].Use = nil // what was in use then says nothing of now
		s.Findings[i].Symbols.Limit()
	}
	// What it says of its base is for whoever asks to find anew.
	s.FindBase(nil)
	// It cannot be more complete than it says in detail.
	s.Complete = s.Complete && len(s.Notes) == 0 && s.Inventory.Complete()
	return s, nil
}
