// Package telemetry sends what the journal takes to OpenTelemetry: records as logs,
// decisions and the state of the agent as metrics, and the gate's calls, containers'
// lives, scans and reloads of policies as traces. It also offers the metrics to Prometheus.
//
// A [Telemetry] owns its queues, its exporters and their goroutines, and the listener of
// the Prometheus endpoint. It never decides, and nobody waits for it: what it cannot take
// or send is dropped and counted by cause, and the journal has it still. Off is a nil
// *Telemetry, whose methods do nothing and allocate nothing. Row: adapter.
package telemetry
