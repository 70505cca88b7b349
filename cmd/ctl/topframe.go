package main

import (
	"fmt"
	"math"
	"strings"

	"github.com/charmbracelet/x/ansi"

	"github.com/belay-project/belay/internal/control"
)

// topLayout is how a picture is shown. Width and height of 0 are no bound.
type topLayout struct {
	width, height int
	scroll        int // containers above the first that is shown
	sort          topSort
	denials       bool
	paused        bool
	keys          bool
}

// topFrame draws a picture as lines of no more than the layout's width, and no more lines than its
// height.
func (t *terminal) topFrame(p *topPicture, l topLayout) []string {
	lines := t.topHead(p, l)
	rows := t.topContainers(p)
	var last []string
	if l.denials && len(p.Last) > 0 {
		last = append(last, "", t.colours.paint(grey, "LAST DENIALS"))
		for _, r := range p.Last {
			last = append(last, t.recordLine(r))
		}
	}
	if l.height > 0 {
		rows, last = fit(rows, last, l.scroll, max(0, l.height-len(lines)-footLines(l)))
	}
	lines = append(append(lines, rows...), last...)
	if l.keys {
		for l.height > 0 && len(lines) < l.height-1 {
			lines = append(lines, "")
		}
		lines = append(lines, t.colours.paint(grey, "s sort  d denials  p stop  q end"))
	}
	if l.height > 0 {
		lines = lines[:min(len(lines), l.height)]
	}
	if l.width > 0 {
		for i, line := range lines {
			lines[i] = ansi.Truncate(line, l.width, "…")
		}
	}
	return lines
}

func footLines(l topLayout) int {
	if l.keys {
		return 1
	}
	return 0
}

// fit gives the denials up to a third of the room, and the containers the rest.
func fit(rows, last []string, scroll, room int) (shownRows, shownLast []string) {
	most := min(len(last), max(room/3, room-len(rows)))
	if most < 3 { // a title and nothing below it says nothing
		most = 0
	}
	last = last[:most]
	room -= most
	if len(rows) <= room || len(rows) == 0 {
		return rows, last
	}
	title, body := rows[:1], rows[1:]
	most = max(0, room-1)
	body = body[min(scroll, max(0, len(body)-most)):]
	body = body[:min(len(body), most)]
	return append(append([]string{}, title...), body...), last
}

func (t *terminal) topHead(p *topPicture, l topLayout) []string {
	state := t.colours.paint(green, "ENFORCING")
	if !p.Enforcing {
		state = t.colours.paint(red, "NOT ENFORCING")
	}
	head := fmt.Sprintf("%s on %s, backend %s, %s, %s   %s", state, clean(p.Host), clean(p.Backend),
		count(len(p.Containers), "container", "containers"), count(p.Policies, "policy", "policies"), p.Time.Format("15:04:05"))
	if l.paused {
		head += "  " + t.colours.paint(yellow, "stopped")
	}
	lines := []string{head}
	if p.Why != "" {
		lines = append(lines, t.colours.paint(red, "! "+clean(p.Why)))
	}
	for _, trouble := range p.Troubles {
		lines = append(lines, t.colours.paint(yellow, "! "+clean(trouble)))
	}
	denied := noColour
	if p.Denied > 0 {
		denied = red
	}
	rate := fmt.Sprintf("decisions %s/s, ", rateText(p.Decisions)) + t.colours.paint(denied, fmt.Sprintf("denials %s/s", rateText(p.Denied))) +
		fmt.Sprintf("; %d denied, %d would be, %d allowed since %s", p.Total.Denied, p.Total.WouldDeny, p.Total.Allowed, p.Since.Format("15:04:05"))
	if p.Lost > 0 {
		rate += t.colours.paint(yellow, fmt.Sprintf("; %d records lost", p.Lost))
	}
	lines = append(lines, rate)
	if s := spark(p.Seconds); strings.TrimSpace(s) != "" {
		lines = append(lines, t.colours.paint(red, s)+t.colours.paint(grey, "  denials, the last minute"))
	}
	if p.Watching {
		caps := make([]string, 0, len(p.Caps))
		for i := range p.Caps {
			caps = append(caps, t.capText(&p.Caps[i]))
		}
		lines = append(lines, "node: "+strings.Join(caps, "  "))
	}
	sorted := "sorted by " + topSortNames[l.sort]
	return append(lines, t.colours.paint(grey, sorted))
}

// rateText writes a rate with as many digits as say something.
func rateText(v float64) string {
	if v >= 10 || v == 0 {
		return fmt.Sprintf("%.0f", v)
	}
	return fmt.Sprintf("%.1f", math.Max(v, .1))
}

func (t *terminal) capText(c *control.LoadCap) string {
	name := clean(c.Cap)
	if c.Percent == nil {
		return name + " " + t.colours.paint(yellow, "unknown")
	}
	shade := noColour
	switch c.State {
	case "over":
		shade = red
	case "pending":
		shade = yellow
	}
	return name + " " + t.colours.paint(shade, fmt.Sprintf("%.0f%%", *c.Percent)) + t.colours.paint(grey, fmt.Sprintf("/%d%%", c.Limit))
}

// topContainers are the rows of containers, below a row of titles.
func (t *terminal) topContainers(p *topPicture) []string {
	if len(p.Containers) == 0 {
		return []string{"no containers"}
	}
	titles := []string{"NAME", "IMAGE", "MODE", "DENIED/MIN", "DENIED", "WOULD BE"}
	if p.Watching {
		titles = append(titles, "CPUS", "MEMORY", "TASKS", "PRESSURE", "OVER")
	}
	tb := t.table("", titles...)
	for i := range p.Containers {
		c := &p.Containers[i]
		name := c.Name
		if c.Notes {
			name += " !"
		}
		row := []cell{
			plain(name), plain(orDash(c.Image)), {c.Mode, modeColour(c.Mode)}, counted(c.Minute, red), counted(c.Denied, noColour), counted(c.WouldDeny, yellow),
		}
		if lo := c.Load; lo != nil && p.Watching {
			row = append(row, plain(fmt.Sprintf("%.2f", lo.CPUs)), plain(bytesText(int64(lo.MemoryBytes))), plain(fmt.Sprint(lo.PIDs)), //nolint:gosec // of a host
				plain(pressureText(lo)), cell{orDash(strings.Join(lo.Over, ", ")), overColour(lo)})
		}
		tb.row(row...)
	}
	return tb.lines()
}

func counted(n uint64, c colour) cell {
	if n == 0 {
		return cell{"-", grey}
	}
	return cell{fmt.Sprint(n), c}
}
