package main

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"slices"
	"time"

	"github.com/spf13/cobra"

	"github.com/belay-project/belay/internal/journal"
	"github.com/belay-project/belay/internal/output"
	"github.com/belay-project/belay/internal/pump"
	"github.com/belay-project/belay/internal/telemetry"
)

// replayBatch is how many records go at a time.
const replayBatch = 512

// replayer sends records once more; its counts tell what became of them.
type replayer interface {
	Deliver(ctx context.Context, batch []*journal.Record)
	Sent() uint64
	Drops() map[string]uint64
	Trouble() string
	Close() error
}

// replayed is the answer of "events replay" as JSON.
type replayed struct {
	To      string            `json:"to"`
	Sent    uint64            `json:"sent"`
	Dropped map[string]uint64 `json:"dropped"`
	Broken  []string          `json:"broken"` // places where the chain does not hold; never null
}

func eventsReplayCommand(t *terminal) *cobra.Command {
	var (
		to      string
		denials bool
		otlp    telemetry.Options
		since   = sinceFlag{now: t.now}
		until   = sinceFlag{now: t.now}
	)
	cmd := &cobra.Command{
		Use:   "replay --to TARGET [DIR]",
		Short: "Send the journal's records again, to what did not get them; needs no agent",
		Long: `replay reads a journal, checking its chain on the way, and sends its records to a
collector, a file, syslog or a webhook, as the agent does: with the time that they had,
and the same id ("<bootId>:<seq>"), by which a receiver tells what it has already. DIR is
` + defaultJournal + ` unless it is given.

TARGET is otlp, or what belay-agent run --output takes: docs/outputs.md has the forms.
Of otlp, the --otlp flags and the OTEL_* variables hold that hold for the agent; only
logs are sent, no spans. A target that is away is tried again for two minutes; then
replay ends, and says from when on to go on.

A record whose digest does not follow from the one before is not sent: it could replace
the true one at the receiver. The exit status is 1 if the chain is broken anywhere in
what was read, or if a record was not sent.`,
		Example: `  belay events replay --to otlp --otlp-endpoint https://collector:4318 --since 2h
  belay events replay --to syslog:tls://logs.example:6514 --since 2026-03-01 --until 2026-03-02
  belay events replay --to file:/tmp/events.json,format=ecs /mnt/evidence/journal`,
		Args: func(_ *cobra.Command, args []string) error {
			if len(args) > 1 {
				return fmt.Errorf("want at most one directory, got %d", len(args))
			}
			if to == "" {
				return errors.New("want --to TARGET: otlp, " + output.Usage)
			}
			return nil
		},
		RunE: func(cmd *cobra.Command, args []string) error {
			r := replay{t: t, dir: defaultJournal, until: until.at}
			if len(args) > 0 {
				r.dir = args[0]
			}
			if !until.at.IsZero() && until.at.Before(since.at) {
				return badUsage("--until is before --since")
			}
			err := findJournal(r.dir)
			if err != nil {
				return err
			}
			if r.to, r.name, err = t.openReplay(cmd.Context(), to, otlp); err != nil {
				return err
			}
			err = r.run(cmd.Context(), journal.ReadOptions{Since: since.at, Denials: denials, Verified: true})
			return errors.Join(err, r.to.Close())
		},
	}
	f := cmd.Flags()
	f.StringVar(&to, "to", "", "otlp, stdout, file:/PATH, syslog:… or webhook:…")
	f.Var(&since, "since", "only what happened after this: a time that has passed (10m, 36h, 7d),\na date, or a point in time (RFC 3339)")
	f.Var(&until, "until", "only what happened before this, in the same forms")
	f.BoolVar(&denials, "denials", false, "only what was denied, killed, or would have been in enforce mode; the journal keeps these longer")
	f.StringVar(&otlp.Endpoint, "otlp-endpoint", "", "collector, such as https://collector:4318 (default: as the OTEL_* variables say)")
	f.StringVar(&otlp.Protocol, "otlp-protocol", "", "grpc or http/protobuf (default http/protobuf)")
	f.StringVar(&otlp.CAFile, "otlp-ca", "", "certificates that sign the collector's (default: the host's authorities)")
	f.StringVar(&otlp.CertFile, "otlp-cert", "", "certificate that is shown to the collector")
	f.StringVar(&otlp.KeyFile, "otlp-key", "", "key of the certificate")
	return cmd
}

// openReplay opens a target, and returns its name without credentials.
func (t *terminal) openReplay(ctx context.Context, to string, otlp telemetry.Options) (replayer, string, error) {
	// What goes wrong is said at the end, by the counts.
	log := slog.New(slog.DiscardHandler)
	if to == "otlp" {
		otlp.Log, otlp.Version = log, version
		r, err := telemetry.OpenReplay(ctx, otlp)
		return r, to, err
	}
	r, err := output.OpenReplay(output.Options{Specs: []string{to}, Version: version, Log: log})
	if err != nil {
		return nil, "", err
	}
	return r, r.Name(), nil
}

// replay is one run of the command.
type replay struct {
	t      *terminal
	dir    string
	to     replayer
	name   string
	until  time.Time
	batch  []*journal.Record
	broken []string
}

// errUnsent ends a replay whose target is away.
var errUnsent = errors.New("the target is away")

func (r *replay) run(ctx context.Context, o journal.ReadOptions) error {
	err := journal.Read(ctx, r.dir, o, func(rec *journal.Record) error {
		switch {
		case rec.Seq == 0: // made by the reader, about what it could not read
			r.broken = append(r.broken, rec.Message)
			fmt.Fprintln(r.t.err, "! "+clean(rec.Message))
			return nil
		case !r.until.IsZero() && !rec.Time.Before(r.until):
			return nil
		}
		if r.batch = append(r.batch, rec); len(r.batch) < replayBatch {
			return nil
		}
		return r.flush(ctx)
	})
	if err == nil {
		err = r.flush(ctx)
	}
	if terr := r.tell(); terr != nil {
		return errors.Join(err, terr)
	}
	var refused error
	if n := r.to.Drops()[pump.CauseRefused]; n > 0 {
		refused = fmt.Errorf("%s: %s", count(int(n), "record was refused", "records were refused"), r.to.Trouble()) //nolint:gosec // a count of records of a bounded journal
	}
	var broken error
	if len(r.broken) > 0 {
		broken = fmt.Errorf("the chain does not hold in %s; see belay journal verify", count(len(r.broken), "place", "places"))
	}
	return errors.Join(err, refused, broken)
}

// flush sends what was gathered.
func (r *replay) flush(ctx context.Context) error {
	if len(r.batch) == 0 {
		return nil
	}
	before := r.to.Sent() + r.to.Drops()[pump.CauseRefused]
	r.to.Deliver(ctx, r.batch)
	if done := r.to.Sent() + r.to.Drops()[pump.CauseRefused] - before; done < uint64(len(r.batch)) {
		oldest := slices.MinFunc(r.batch, func(a, b *journal.Record) int { return a.Time.Compare(b.Time) })
		if err := ctx.Err(); err != nil {
			return fmt.Errorf("stopped; go on with --since %s", oldest.Time.Format(time.RFC3339Nano))
		}
		return fmt.Errorf("%w: %s; go on with --since %s", errUnsent, r.to.Trouble(), oldest.Time.Format(time.RFC3339Nano))
	}
	r.batch = r.batch[:0]
	return nil
}

// tell says what was done. Standard output may be the target.
func (r *replay) tell() error {
	a := replayed{To: r.name, Sent: r.to.Sent(), Dropped: r.to.Drops(), Broken: append([]string{}, r.broken...)}
	if r.t.output == formatJSON && r.name != output.KindStdout {
		return r.t.writeJSON(a)
	}
	fmt.Fprintf(r.t.err, "%d records sent to %s, %s not sent\n", a.Sent, clean(a.To), droppedText(a.Dropped))
	return nil
}
