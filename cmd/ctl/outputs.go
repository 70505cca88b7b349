package main

import (
	"fmt"
	"maps"
	"slices"
	"strings"

	"github.com/belay-project/belay/internal/control"
)

// writeOutputs shows where records go besides the journal, and what of them did not arrive.
func (t *terminal) writeOutputs(outputs []control.OutputStatus) {
	if len(outputs) == 0 {
		return
	}
	t.section("Outputs")
	tb := t.table("  ", "OUTPUT", "FORMAT", "SENT", "WAITING", "DROPPED", "STATE")
	for i := range outputs {
		o := &outputs[i]
		state, c := "works", green
		if o.Error != "" {
			state, c = fmt.Sprintf("away since %s: %s", t.ago(o.Since), o.Error), red
		}
		dropped, lost := droppedText(o.Dropped), noColour
		if dropped != "0" {
			lost = yellow
		}
		tb.row(plain(o.Name), plain(o.Format), plain(fmt.Sprint(o.Sent)), plain(fmt.Sprint(o.Queued)), cell{dropped, lost}, cell{state, c})
	}
	tb.writeTo(t.out)
}

// droppedText tells of drops by cause, "0" if there are none.
func droppedText(dropped map[string]uint64) string {
	var parts []string
	for _, cause := range slices.Sorted(maps.Keys(dropped)) {
		if n := dropped[cause]; n > 0 {
			parts = append(parts, fmt.Sprintf("%d %s", n, cause))
		}
	}
	if len(parts) == 0 {
		return "0"
	}
	return strings.Join(parts, ", ")
}
