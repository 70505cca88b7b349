package main

import (
	"context"
	"errors"
	"fmt"
	"os"
	"time"

	"github.com/belay-project/belay/tools/lab"
)

// telemetryPhase asks a collector what came of all that was played before it. It is the last.
var telemetryPhase = phase{
	title: "All of this at an OpenTelemetry collector", mode: "enforce", short: true,
	only: func(s *stage) string {
		if s.receiver == nil {
			return lab.ErrNoReceiver.Error()
		}
		return ""
	},
	scenes: []scene{
		{
			name: "logs of what was denied", tried: "OTLP: log records", want: runs, ran: "came:", short: true,
			act: func(ctx context.Context, s *stage) lab.Result {
				return s.came(ctx, "log belay.exec", "log belay.api", "log belay.container", "log belay.agent")
			},
		},
		{
			name: "metrics", tried: "OTLP: metrics", want: runs, ran: "came:", short: true,
			act: func(ctx context.Context, s *stage) lab.Result {
				return s.came(ctx, "metric belay.decisions", "metric belay.gate.duration", "metric belay.enforcing", "metric belay.map.entries", "metric belay.load.reading")
			},
		},
		{
			name: "traces of calls, containers, reloads and a move", tried: "OTLP: spans", want: runs, ran: "came:", short: true,
			act: func(ctx context.Context, s *stage) lab.Result {
				return s.came(ctx, "span gate container.create", "span container", "span container running", "span policy reload", "span policy reload enact", "span move", "span move commit")
			},
		},
		{
			name: "traces of scans, with their stages", tried: "OTLP: spans", want: runs, ran: "came:", short: true,
			act: func(ctx context.Context, s *stage) lab.Result {
				if s.scan.db == "" {
					return lab.Result{Stdout: "came: nothing, since nothing was scanned here"}
				}
				return s.came(ctx, "span scan", "span scan read", "span scan match")
			},
		},
	},
}

// collect starts the collector, where it is built, and returns what an agent is told of it.
func (s *stage) collect() (flags []string, err error) {
	if s.receiver == nil {
		if s.receiver, err = s.lab.StartReceiver(); errors.Is(err, lab.ErrNoReceiver) {
			return nil, nil
		}
		// The agents have it from here; who plays does not wait a minute.
		if err = errors.Join(err, os.Setenv("OTEL_METRIC_EXPORT_INTERVAL", "1000")); err != nil {
			return nil, err
		}
	}
	return []string{"--otlp-endpoint", "http://" + s.receiver.GRPC, "--otlp-protocol", "grpc"}, nil
}

// came waits until the collector has taken something of each name.
func (s *stage) came(ctx context.Context, names ...string) lab.Result {
	var missing []string
	var c lab.ReceiverCounts
	var err error
	lab.Await(ctx, 10*time.Second, func() bool {
		if c, err = s.receiver.Counts(ctx); err != nil {
			return false
		}
		missing = nil
		for _, n := range names {
			if c.Names[n] == 0 {
				missing = append(missing, n)
			}
		}
		return len(missing) == 0
	})
	switch {
	case err != nil:
		return lab.Result{Code: 1, Stderr: err.Error()}
	case len(missing) > 0:
		return lab.Result{Code: 1, Stderr: fmt.Sprintf("the collector never got %q", missing)}
	}
	out := "came:"
	for _, n := range names {
		out += fmt.Sprintf(" %d × %s,", c.Names[n], n)
	}
	return lab.Result{Stdout: out[:len(out)-1]}
}
