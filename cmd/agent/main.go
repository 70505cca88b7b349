// Command belay-agent enforces policies on the containers of this host.
package main

import (
	"context"
	"errors"
	"fmt"
	"io"
	"log/slog"
	"os"
	"os/signal"
	"syscall"

	"github.com/spf13/cobra"

	"github.com/belay-project/belay/cmd/manpage"
	"github.com/belay-project/belay/internal/agent"
	"github.com/belay-project/belay/internal/enforce"
	"github.com/belay-project/belay/internal/gate/authz"
	"github.com/belay-project/belay/internal/gate/proxy"
	"github.com/belay-project/belay/internal/output"
	"github.com/belay-project/belay/internal/owncap"
)

// version is set by the linker: -X main.version=v1.2.3.
var version = "dev"

func main() {
	if len(os.Args) > 0 && os.Args[0] == enforce.CanaryArg0 {
		os.Exit(enforce.CanaryExit) // an exec that had to be denied was not
	}
	ctx, stop := signal.NotifyContext(context.Background(), os.Interrupt, syscall.SIGTERM)
	defer stop()
	os.Exit(execute(ctx, newRoot(), os.Stderr))
}

// Exit statuses; docs/preflight.md lists them.
const (
	exitOK     = 0
	exitFailed = 1
	exitBypass = 2
	exitUsage  = 64 // EX_USAGE of sysexits.h: 1 and 2 are answers of preflight
)

// usageError is for a command line that cobra has understood, and we do not.
type usageError struct{ error }

// Unwrap returns what is wrong.
func (e usageError) Unwrap() error { return e.error }

func badUsage(format string, args ...any) error { return usageError{fmt.Errorf(format, args...)} }

// execute runs the command line and returns the exit status.
func execute(ctx context.Context, root *cobra.Command, stderr io.Writer) int {
	started := false
	root.PersistentPreRun = func(*cobra.Command, []string) { started = true }
	cmd, err := root.ExecuteContextC(ctx)
	if err == nil {
		return exitOK
	}
	fmt.Fprintln(stderr, "belay-agent:", err)
	if _, usage := errors.AsType[usageError](err); usage || !started {
		fmt.Fprintf(stderr, "See '%s --help'.\n", cmd.CommandPath())
		return exitUsage
	}
	if errors.Is(err, errBypass) {
		return exitBypass
	}
	return exitFailed
}

// newRoot returns the whole command tree.
func newRoot() *cobra.Command {
	root := &cobra.Command{
		Use:           "belay-agent",
		Short:         "Belay's host agent: enforces policies on containers, in the kernel",
		Version:       version,
		SilenceUsage:  true,
		SilenceErrors: true,
	}
	root.AddCommand(runCommand(), preflightCommand(), manpage.Command(8))
	return root
}

func runCommand() *cobra.Command {
	var cfg agent.Config
	var unload bool
	var tls, scanTLS proxy.TLSOptions
	var config, logFormat, logLevel, memoryMax, cpuMax string
	cmd := &cobra.Command{
		Use:   "run",
		Short: "Enforce until stopped; what was enforced stays enforced after that",
		Long: `Run loads the policies, puts them into the kernel and serves the control socket.

Stopping the agent, or killing it, does not stop enforcement: the kernel side is
pinned. The next agent takes it over. "belay-agent run --unload" removes it.`,
		Example: `  belay-agent run
  belay-agent run --policy-dir ./policies --cgroup-scope /docker
  belay-agent run --config /etc/belay/agent.yaml
  belay-agent run --unload`,
		Args: cobra.NoArgs,
		RunE: func(cmd *cobra.Command, _ []string) error {
			if config != "" {
				if err := fromFile(cmd.Flags(), config); err != nil {
					return err
				}
			}
			log, err := logger(logFormat, logLevel)
			if err != nil {
				return usageError{err}
			}
			if cfg.MemoryMax, err = owncap.ParseMemory(memoryMax); err != nil {
				return badUsage("--memory-max %w", err)
			}
			if cfg.CPUMax, err = owncap.ParseCPU(cpuMax); err != nil {
				return badUsage("--cpu-max %w", err)
			}
			if os.Geteuid() != 0 {
				return fmt.Errorf("run loads programs into the kernel and needs root")
			}
			cfg.Log, cfg.Version = log, version
			if cfg.Containerd == "none" {
				cfg.Containerd = ""
			}
			if tls.Addr != "" {
				cfg.GateTLS = &tls
			}
			if scanTLS.Addr != "" {
				if scanTLS.ClientCAFile == "" && !scanTLS.TokensAlone {
					return fmt.Errorf("--scan-tls: %w", proxy.ErrNoClientCA)
				}
				cfg.ScanTLS = &scanTLS
			}
			if unload {
				removed, err := agent.Unload(cfg)
				switch {
				case err != nil:
					return err
				case removed:
					fmt.Fprintf(cmd.OutOrStdout(), "removed the kernel side of %s: nothing is enforced by it any more\n", cfg.RunDir)
				default:
					fmt.Fprintf(cmd.OutOrStdout(), "no kernel side is loaded for --run-dir %s\n", cfg.RunDir)
				}
				return nil
			}
			limitProcessors()
			a, err := agent.Open(cfg)
			if err != nil {
				return err
			}
			err = a.Run(cmd.Context())
			if cerr := a.Close(); err == nil {
				err = cerr
			}
			return err
		},
	}
	f := cmd.Flags()
	f.StringVar(&config, "config", "", "file of flags as YAML, without their dashes (run-dir: /run/belay); those of the command line win (default: none)")
	f.StringVar(&cfg.RunDir, "run-dir", "/run/belay", "lock, pins and sockets")
	f.StringVar(&cfg.StateDir, "state-dir", "/var/lib/belay", "journal and what is known of containers")
	f.StringVar(&cfg.PolicyDir, "policy-dir", "/etc/belay/policies", "policy files (*.yaml), read again when they change")
	f.StringVar(&cfg.ShippedDir, "shipped-policies", "", "policies that are in force unless one of the same name in --policy-dir overrides them (default: none)")
	f.StringVar(&cfg.DockerHost, "docker-host", "unix:///var/run/docker.sock", `Docker's API, for names, images and labels; "none" for no Docker`)
	f.StringVar(&cfg.Containerd, "containerd", "none", "containerd's socket, such as /run/containerd/containerd.sock")
	f.StringVar(&cfg.Backend, "backend", "auto", "auto, lsm, modret or signal; auto takes the strongest that works here")
	f.StringArrayVar(&cfg.Scopes, "cgroup-scope", nil, "only containers whose cgroup lies below this path (repeatable; default: the whole host)")
	f.BoolVar(&cfg.ReportAllowed, "log-allowed", false, "record every allowed exec of containers too")
	f.BoolVar(&cfg.SignalSyscalls, "signal-syscalls", false, "under the signal backend, also kill for mappings and key files; "+
		"every system call of the host gets slower (docs/benchmarks.md)")
	f.DurationVar(&cfg.CanaryEvery, "canary-every", 0, "time between two tests of whether a denial works (default 1m)")
	f.Int64Var(&cfg.JournalBytes, "journal-bytes", 0, "bound of the journal (default 256 MiB)")
	f.StringVar(&cfg.Mover, "mover", "", `path of belay, which moves containers for LoadPolicies (default: beside the agent, or /usr/bin/belay; "none" moves nothing)`)
	f.StringVar(&cfg.Scanner, "scanner", "", `path of belay-scanner, which reads images in a sandbox (default: beside the agent; "none" scans no image)`)
	f.StringSliceVar(&cfg.SandboxWithout, "sandbox-without", nil, "pieces of its sandbox that the host's kernel lacks, such as cgroup: without being named here they keep images from being scanned")
	f.StringVar(&cfg.VulnDB, "vuln-db", "", "vulnerability database, used anew when it changes (default vuln.db in --state-dir)")
	f.StringVar(&cfg.ScansGroup, "scans-group", "", `group that may ask for scans, as far as access policies let it, on scans.sock in --run-dir; "*" for every user (default: root only)`)
	f.StringSliceVar(&cfg.ScanRegistries, "scan-registry", nil, `registry whose images may be asked for there (HOST[:PORT], repeatable; "*" for all; default: images of this host only)`)
	f.StringSliceVar(&cfg.ScanWebhookHosts, "scan-webhook-host", nil, `host that results may be sent to (HOST[:PORT], repeatable; "*" for all by HTTPS; default: none)`)
	f.StringVar(&scanTLS.Addr, "scan-tls", "", "address on which scans are asked for with client certificates too, such as :8447; needs --scan-tls-client-ca or --scan-tls-tokens")
	f.StringVar(&scanTLS.CertFile, "scan-tls-cert", "", "certificate for --scan-tls")
	f.StringVar(&scanTLS.KeyFile, "scan-tls-key", "", "key of the certificate")
	f.StringVar(&scanTLS.ClientCAFile, "scan-tls-client-ca", "", "certificates that sign clients': without one of these nobody connects to --scan-tls")
	f.BoolVar(&scanTLS.TokensAlone, "scan-tls-tokens", false, "let in to --scan-tls who has a bearer token and no client certificate: a token that leaks is then enough, from anywhere")
	f.StringVar(&cfg.DockerRoot, "docker-root", "", "Docker's data, where images are read (default /var/lib/docker)")
	f.StringVar(&cfg.SocketGroup, "socket-group", "", "group that may use the control socket besides root")
	f.StringVar(&cfg.UsersGroup, "users-group", "", `group that may manage policies as far as access policies let it, on users.sock in --run-dir; "*" for every user (default: only who may use the control socket)`)
	f.StringVar(&cfg.GateSocket, "gate-socket", "", `where Docker's API is offered through the gate (default docker.sock in --run-dir; "none" for no gate)`)
	f.StringVar(&cfg.GateGroup, "gate-group", "", "group of the gate's socket (default: that of Docker's own)")
	f.StringVar(&cfg.GateMode, "gate-mode", "", "mode of the gate's socket (default 0660)")
	f.StringVar(&cfg.AuthzSocket, "authz-plugin", "", "socket of the authorisation plugin that refuses what did not come through the gate, such as "+authz.DefaultSocket)
	f.StringVar(&cfg.AuthzClientCA, "authz-client-ca", "", "certificates that sign those of callers whom access policies may let use Docker's own TLS listener (default: nobody)")
	f.DurationVar(&cfg.BreakGlassFor, "break-glass-for", 0, "how long the file break-glass in --run-dir lets requests around the gate pass (default 15m, at most 1h)")
	f.DurationVar(&cfg.ElevateMax, "elevate-max", 0, "longest elevation that a second factor gives (default 1h, at most 24h)")
	f.BoolVar(&cfg.EnrolByRoot, "enroll-by-root", false, "only root enrols second factors, for users too (belay enroll --user NAME)")
	f.StringVar(&cfg.GuardSockets, "guard-sockets", "off", "what becomes of processes of the host that connect to Docker's or containerd's own sockets around the gate: off, audit or enforce")
	f.StringArrayVar(&cfg.GuardAllow, "guard-allow", nil, "who may all the same: uid=N, user=NAME, unit=NAME.service, exe=/PATH (run by root) or exe=/PATH:UID (repeatable)")
	f.StringArrayVar(&cfg.GuardExtra, "guard-socket", nil, "one more socket to guard, on the host and from containers: a path, or @NAME (repeatable)")
	f.StringVar(&tls.Addr, "gate-tls", "", "address on which the gate is offered with client certificates too, such as :2376")
	f.StringVar(&tls.CertFile, "gate-tls-cert", "", "certificate of the gate")
	f.StringVar(&tls.KeyFile, "gate-tls-key", "", "key of the certificate")
	f.StringVar(&tls.ClientCAFile, "gate-tls-client-ca", "", "certificates that sign clients'")
	f.StringVar(&cfg.Telemetry.Endpoint, "otlp-endpoint", "", "OpenTelemetry collector that records, metrics and traces are sent to, such as https://collector:4318 (default: as the OTEL_* variables say, else none)")
	f.StringVar(&cfg.Telemetry.Protocol, "otlp-protocol", "", "grpc or http/protobuf (default http/protobuf)")
	f.StringVar(&cfg.Telemetry.CAFile, "otlp-ca", "", "certificates that sign the collector's (default: the host's authorities)")
	f.StringVar(&cfg.Telemetry.CertFile, "otlp-cert", "", "certificate that is shown to the collector")
	f.StringVar(&cfg.Telemetry.KeyFile, "otlp-key", "", "key of the certificate")
	f.StringVar(&cfg.Telemetry.Prometheus, "prometheus", "", "address on which metrics are offered to Prometheus, such as 127.0.0.1:9464; :9464 is on the loopback address too (default: none)")
	f.StringArrayVar(&cfg.Outputs, "output", nil, "where records go besides the journal (repeatable): "+output.Usage+"; see docs/outputs.md")
	f.StringArrayVar(&cfg.Anchor, "anchor", nil, "what must get the heads of the journal each minute, so that root cannot write it anew unseen (see belay events verify): otlp, syslog, webhook (repeatable), or none (default: those of them that records are sent to)")
	f.StringVar(&memoryMax, "memory-max", "256M", `memory that the agent itself may take, by a cgroup of its own where no service manager has one for it; "none" for no cap`)
	f.StringVar(&cpuMax, "cpu-max", "50%", `processor time that it may take once it enforces, in percent of one processor; "none" for no cap`)
	f.StringVar(&logFormat, "log-format", "text", "text or json")
	f.StringVar(&logLevel, "log-level", "info", "debug, info, warn or error")
	f.BoolVar(&unload, "unload", false, "remove the kernel side of --run-dir and exit")
	return cmd
}

func logger(format, level string) (*slog.Logger, error) {
	var l slog.Level
	if err := l.UnmarshalText([]byte(level)); err != nil {
		return nil, fmt.Errorf("--log-level %q: want debug, info, warn or error", level)
	}
	opts := &slog.HandlerOptions{Level: l}
	switch format {
	case "json":
		return slog.New(slog.NewJSONHandler(os.Stderr, opts)), nil
	case "text":
		return slog.New(slog.NewTextHandler(os.Stderr, opts)), nil
	}
	return nil, fmt.Errorf("--log-format %q: want text or json", format)
}
