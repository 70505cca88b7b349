package extract

import (
	"fmt"
	"io"

	"github.com/belay-project/belay/internal/scan/image"
	"github.com/belay-project/belay/internal/scan/inventory"
	"github.com/belay-project/belay/internal/scan/secret"
)

// Searches implements [image.Searcher].
func (Set) Searches(name string) (limit int64, ok bool) { return secret.MaxBytes, secret.Wants(name) }

// Search implements [image.Searcher].
func (Set) Search(name string, c image.Content) (out []inventory.Misconfiguration, err error) {
	head := make([]byte, min(c.Size, 512))
	if _, err := io.ReadFull(c, head); err != nil {
		return nil, fmt.Errorf("a file that ends early, or cannot be read: %w", errBroken)
	}
	if !secret.Text(head) {
		return nil, nil
	}
	b := make([]byte, min(c.Size, secret.MaxBytes))
	n, err := io.ReadFull(c, b[copy(b, head):])
	if err != nil && len(b) > len(head) {
		err = fmt.Errorf("a file that ends early, or cannot be read: %w", errBroken)
	} else {
		err = nil
	}
	list, more := secret.Find(name, b[:len(head)+n])
	for _, m := range list {
		sev := inventory.SeverityHigh
		if m.Weak {
			sev = inventory.SeverityLow
		}
		out = append(out, inventory.Misconfiguration{
			ID: inventory.FileSecret, Severity: sev, Text: inventory.Cut(m.What), Where: inventory.Cut(fmt.Sprintf("%s:%d", name, m.Line)),
		})
	}
	if more && err == nil {
		err = fmt.Errorf("a file with more than %d secrets", len(list))
	}
	return out, err
}
