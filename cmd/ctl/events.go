package main

import (
	"bufio"
	"errors"
	"fmt"
	"strconv"
	"strings"
	"time"

	"github.com/spf13/cobra"

	"github.com/belay-project/belay/internal/journal"
)

func eventsCommand(t *terminal) *cobra.Command {
	var (
		follow, denials bool
		since           = sinceFlag{now: t.now}
	)
	cmd := &cobra.Command{
		Use:   "events",
		Short: "Show what was decided, oldest first",
		Long: `events shows the records of the agent's journal, oldest first, one a line: when, what
was decided, in which container, what was tried, by which program, and the rule and
the policy that decided.

  denied      refused: the program got an error
  killed      the program was killed before it could do anything
  would_deny  passed, because the rule is in audit mode, or this host can only detect it
  allowed     passed

With -o json each line is one record as docs/event-schema.md describes it. With
--follow and no --since only records from now on are shown.`,
		Example: `  belay events --follow --denials
  belay events --since 10m
  belay events --since 2026-03-01T08:00:00Z -o json | jq -r .process.executable.path`,
		Args: noArguments,
		RunE: func(cmd *cobra.Command, _ []string) error {
			q := journal.ReadOptions{Since: since.at, Follow: follow, Denials: denials}
			if follow && since.at.IsZero() {
				q.Since = t.now()
			}
			out := bufio.NewWriter(t.out)
			err := t.client().Events(cmd.Context(), q, func(r *journal.Record) error {
				if err := t.writeRecord(out, r); err != nil || !follow {
					return err
				}
				return out.Flush()
			})
			return errors.Join(err, out.Flush())
		},
	}
	cmd.AddCommand(eventsVerifyCommand(t), eventsReplayCommand(t))
	cmd.Flags().BoolVarP(&follow, "follow", "f", false, "go on with new records until interrupted")
	cmd.Flags().Var(&since, "since", "only what happened after this: a time that has passed (10m, 36h, 7d),\na date, or a point in time (RFC 3339)")
	cmd.Flags().BoolVar(&denials, "denials", false, "only what was denied, killed, or would have been in enforce mode")
	return cmd
}

// sinceFlag is the value of --since.
type sinceFlag struct {
	now func() time.Time
	at  time.Time
}

func (f *sinceFlag) Type() string { return "TIME" }

func (f *sinceFlag) String() string {
	if f.at.IsZero() {
		return ""
	}
	return f.at.Format(time.RFC3339)
}

func (f *sinceFlag) Set(s string) error {
	if d, ok := parseAge(s); ok {
		f.at = f.now().Add(-d)
		return nil
	}
	if at, err := time.Parse(time.RFC3339Nano, s); err == nil {
		f.at = at
		return nil
	}
	at, err := time.ParseInLocation(time.DateOnly, s, time.Local)
	if err != nil {
		return errors.New(`want an age such as "10m" or "7d", a date such as "2026-03-01", or a time such as "2026-03-01T08:00:00Z"`)
	}
	f.at = at
	return nil
}

// parseAge reads what time.ParseDuration reads, and whole days.
func parseAge(s string) (time.Duration, bool) {
	if days, ok := strings.CutSuffix(s, "d"); ok {
		const most = 36500
		n, err := strconv.Atoi(days)
		return time.Duration(n) * 24 * time.Hour, err == nil && n >= 0 && n <= most
	}
	d, err := time.ParseDuration(s)
	return d, err == nil && d >= 0
}

func (t *terminal) writeRecord(w *bufio.Writer, r *journal.Record) error {
	if t.output == formatJSON {
		return writeJSON(w, r, "")
	}
	_, err := fmt.Fprintln(w, t.recordLine(r))
	return err
}
