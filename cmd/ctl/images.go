package main

import (
	"fmt"
	"strings"
	"time"

	"github.com/spf13/cobra"

	"github.com/belay-project/belay/internal/control"
	"github.com/belay-project/belay/internal/scan/vulndb"
)

func imagesCommand(t *terminal) *cobra.Command {
	return &cobra.Command{
		Use:   "images",
		Short: "List the images of this host: what scanning found, who uses them, what policies say",
		Long: `images lists the images that containers use, and those that were scanned.

SCANNED is when the image was read; it is matched again whenever the vulnerability
database changes. FINDINGS counts critical, high, medium and low ones (unrated ones
among high), FIXABLE those with a fixed version. IN USE names the containers; POLICY is
what the image policies say of it today.`,
		Example: `  belay images
  belay images -o json | jq -r '.[] | select(.running > 0 and .exploited > 0) | .names[0]'`,
		Args: noArguments,
		RunE: func(cmd *cobra.Command, _ []string) error {
			list, err := t.client().Images(cmd.Context())
			if err != nil {
				return err
			}
			if t.output == formatJSON {
				return t.writeJSON(list)
			}
			t.writeImages(list)
			return nil
		},
	}
}

func (t *terminal) writeImages(list []control.Image) {
	if len(list) == 0 {
		fmt.Fprintln(t.out, "no images")
		return
	}
	tb := t.table("", "IMAGE", "NAME", "SCANNED", "FINDINGS", "FIXABLE", "IN USE", "POLICY")
	var notes []string
	for i := range list {
		img := &list[i]
		tb.row(plain(shortDigest(img.ID)), plain(orDash(shortImage(strings.Join(img.Names[:min(len(img.Names), 2)], ", ")))),
			plain(scannedText(t, img)), findingsCell(img), plain(fixableText(img)), plain(usedText(img)), decisionCell(img))
		if img.Error != "" {
			notes = append(notes, shortDigest(img.ID)+": "+img.Error)
		}
	}
	tb.writeTo(t.out)
	for _, n := range notes {
		fmt.Fprintln(t.out, t.colours.paint(yellow, "! "+clean(n)))
	}
}

func shortDigest(id string) string {
	id = strings.TrimPrefix(id, "sha256:")
	return id[:min(len(id), 12)]
}

func scannedText(t *terminal, img *control.Image) string {
	switch {
	case !img.Scanned.IsZero():
		return t.ago(img.Scanned)
	case img.Queued:
		return "soon"
	case img.Error != "":
		return "failed"
	}
	return "no"
}

func findingsCell(img *control.Image) cell {
	if img.Scanned.IsZero() {
		return plain("-")
	}
	if img.Database.IsZero() {
		return cell{"no database", yellow}
	}
	n := img.Findings
	text := fmt.Sprintf("%d/%d/%d/%d", n["critical"], n["high"]+n["unknown"], n["medium"], n["low"])
	if img.Exploited > 0 {
		text += fmt.Sprintf(" (%d exploited)", img.Exploited)
	}
	if !img.Complete {
		text += " +?"
	}
	c := noColour
	if n["critical"]+img.Exploited > 0 {
		c = red
	}
	return cell{text, c}
}

func fixableText(img *control.Image) string {
	if img.Database.IsZero() {
		return "-"
	}
	return fmt.Sprint(img.Fixable)
}

func usedText(img *control.Image) string {
	const shown = 3
	text := strings.Join(img.UsedBy[:min(len(img.UsedBy), shown)], ", ")
	if n := len(img.UsedBy) - shown; n > 0 {
		text += fmt.Sprintf(" and %d more", n)
	}
	if len(img.UsedBy) > 0 {
		text += fmt.Sprintf(" (%d running)", img.Running)
	}
	return orDash(text)
}

func decisionCell(img *control.Image) cell {
	text := img.Decision
	if img.Policy != "" {
		text += ": " + img.Policy + "/" + img.Rule
	}
	switch img.Decision {
	case "denied":
		return cell{text, red}
	case "would_deny":
		return cell{text, yellow}
	}
	return plain(orDash(text))
}

// explainImage answers explain --image.
func (t *terminal) writeImageExplanation(e *control.ImageExplanation) {
	img := &e.Image
	tb := t.table("")
	tb.row(plain("image"), plain(orDash(strings.Join(img.Names, ", "))))
	tb.row(plain("id"), plain(img.ID))
	tb.row(plain("system"), plain(orDash(img.OS)))
	tb.row(plain("scanned"), plain(scannedText(t, img)))
	if img.Error != "" {
		tb.row(plain("last scan"), cell{img.Error, yellow})
	}
	if !img.Database.IsZero() {
		tb.row(plain("database of"), plain(img.Database.UTC().Format(time.DateTime)))
	}
	tb.row(plain("in use by"), plain(usedText(img)))
	if e.Judged {
		tb.row(plain("policy"), decisionCell(img))
		tb.row(plain("without the gate"), plain(e.Level))
	}
	tb.row(plain("because"), plain(e.Reason))
	tb.writeTo(t.out)
	for _, s := range append(e.Details, e.Expired...) {
		fmt.Fprintln(t.out, "  "+clean(s))
	}
	if len(e.List) > 0 {
		fmt.Fprintln(t.out)
		fs := t.table("", "SEVERITY", "VULNERABILITY", "PACKAGE", "INSTALLED", "FIXED IN", "FIRST SEEN", "IN USE")
		for i := range e.List {
			f := &e.List[i]
			sev, _ := vulndb.ParseSeverity(f.Severity)
			c := severityColours[sev]
			if c == "" {
				c = noColour
			}
			id := f.IDs[0]
			if f.Exploited {
				id += " exploited"
			}
			first := "-"
			if !f.FirstSeen.IsZero() {
				first = t.ago(f.FirstSeen)
			}
			fs.row(cell{f.Severity, c}, plain(id), plain(f.Package), plain(f.Version), plain(orDash(f.Fixed)), plain(first), plain(useText(&f.Use)))
		}
		fs.writeTo(t.out)
	}
	for _, n := range e.Notes {
		fmt.Fprintln(t.out, t.colours.paint(yellow, "! "+clean(n)))
	}
}
