package agent

import (
	"errors"
	"log/slog"
	"path/filepath"
	"strings"
	"time"

	"github.com/belay-project/belay/internal/control"
	"github.com/belay-project/belay/internal/enforce"
	"github.com/belay-project/belay/internal/gate/proxy"
	"github.com/belay-project/belay/internal/load/movesdir"
	"github.com/belay-project/belay/internal/scan/ci"
)

// Config says where an agent lives and what it watches. Zero values have the defaults
// that the fields name.
type Config struct {
	RunDir    string // /run/belay: lock, pins, sockets
	StateDir  string // /var/lib/belay: journal, last good policies, known containers
	PolicyDir string // /etc/belay/policies
	// ShippedDir holds policies that are in force unless a document of the same name in
	// PolicyDir overrides them; empty: none. It must exist if it is named.
	ShippedDir string
	// UsersGroup may open the socket on which callers manage policies as far as the
	// AccessPolicies let them; "*" is everybody, empty leaves it out. Root and SocketGroup
	// use the control socket.
	UsersGroup string
	// DockerHost is the engine's address; unix:///var/run/docker.sock. "none" follows no engine.
	DockerHost string
	// Containerd is containerd's socket; empty follows none.
	Containerd string
	// Backend is auto, lsm, modret or signal.
	Backend string
	// Scopes are cgroup paths on the v2 hierarchy; empty is the whole host.
	Scopes []string
	// ReportAllowed records every allowed exec of a container too.
	ReportAllowed bool
	// SignalSyscalls also kills for what system calls have mapped and opened, under the
	// signal backend; every system call of the host is slower for it.
	SignalSyscalls bool
	// CanaryEvery is the time between two tests of whether a denial works; 1 min.
	CanaryEvery time.Duration
	// JournalBytes bounds the journal; 256 MiB.
	JournalBytes int64
	// GateSocket is where Docker's API is offered through the gate: docker.sock in RunDir.
	// "none" opens no gate. Without an engine (DockerHost) there is none either.
	GateSocket string
	// GateGroup owns the gate's socket, and may call while no AccessPolicy is in force; the
	// group of the engine's own socket. GateMode is the socket's mode, in octal; 0660.
	GateGroup, GateMode string
	// AuthzSocket is where the engine finds the gate's authorisation plugin, such as
	// /run/docker/plugins/belay.sock; empty: there is none. It needs the gate.
	AuthzSocket string
	// AuthzClientCA is a file of certificates that sign those of callers who may use the
	// engine's own TLS listener, if an AccessPolicy lets them; empty: nobody may.
	AuthzClientCA string
	// BreakGlassFor is how long the file break-glass in RunDir lets requests around the
	// gate pass, from its modification; 15 min, at most 1 h.
	BreakGlassFor time.Duration
	// GuardSockets says what becomes of processes of the host that connect to the engine's own
	// sockets and are not named: off (or empty), audit or enforce.
	GuardSockets string
	// GuardAllow names processes of the host that may: uid=N, user=NAME, unit=NAME.service,
	// exe=/PATH (as root), exe=/PATH:UID. The engine's own programs and the agent always may.
	GuardAllow []string
	// GuardExtra are more sockets that are guarded, on the host and by guard.sockets of
	// policies: paths, or @NAME for abstract ones.
	GuardExtra []string
	// GateTLS opens the gate on TCP too; nil: not.
	GateTLS *proxy.TLSOptions
	// ElevateMax is the longest elevation that a second factor gives; 1 h, at most 24 h.
	ElevateMax time.Duration
	// EnrolByRoot lets root alone enrol second factors; else users enrol themselves.
	EnrolByRoot bool
	// Scanner is the path of belay-scanner: the one beside the agent. "none" scans no image.
	Scanner string
	// SandboxWithout lists pieces of its sandbox that may be missing.
	SandboxWithout []string
	// Mover is the path of belay, whose move command carries out moves that LoadPolicies ask for: the
	// one beside the agent, or /usr/bin/belay. "none" moves nothing.
	Mover string
	// VulnDB is the vulnerability database; vuln.db in StateDir.
	VulnDB string
	// DockerRoot is the engine's data, where images are read; /var/lib/docker.
	DockerRoot string
	// ScansGroup may open the socket of the scan API (scans.sock in RunDir) besides root; "*" is
	// everybody. AccessPolicies decide what they may do there.
	ScansGroup string
	// ScanTLS offers the scan API on TCP too, for holders of client certificates, and of bearer
	// tokens alone where it says so; nil: not.
	ScanTLS *proxy.TLSOptions
	// ScanRegistries are those that images may be fetched from for the scan API, "*" all;
	// ScanWebhookHosts are the hosts that results may be sent to, "*" all with TLS.
	ScanRegistries, ScanWebhookHosts []string
	// Telemetry says where records, metrics and traces are sent. Where it and the OTEL_*
	// variables say nothing, nothing is sent.
	Telemetry TelemetryConfig
	// Outputs are where records go besides the journal: as output.Parse reads them.
	Outputs []string
	// Anchor names what holds the heads of the journal against root: otlp, syslog, webhook. Empty:
	// those of them that get records; "none": nothing.
	Anchor []string
	// MemoryMax and CPUMax are what the agent itself may take, in bytes and in percent of one
	// processor; 0: no cap.
	MemoryMax int64
	CPUMax    int
	// SocketGroup may use the control socket besides root; empty: root only.
	SocketGroup string
	Version     string
	guard       enforce.Guard
	Log         *slog.Logger // required
}

// TelemetryConfig is what of [telemetry.Options] an operator sets.
type TelemetryConfig struct {
	Endpoint, Protocol        string // of OTLP
	CAFile, CertFile, KeyFile string
	Prometheus                string // address of the endpoint; empty: none
}

func (c *Config) fill() error {
	if c.Log == nil {
		return errors.New("agent: Config.Log is required")
	}
	for _, d := range []struct {
		to  *string
		def string
	}{
		{&c.RunDir, "/run/belay"},
		{&c.StateDir, "/var/lib/belay"},
		{&c.PolicyDir, "/etc/belay/policies"},
		{&c.DockerHost, "unix:///var/run/docker.sock"},
		{&c.Backend, "auto"},
		{&c.Version, "dev"},
		{&c.DockerRoot, "/var/lib/docker"},
	} {
		if *d.to == "" {
			*d.to = d.def
		}
	}
	c.Containerd = strings.TrimPrefix(c.Containerd, "unix://")
	if c.VulnDB == "" {
		c.VulnDB = filepath.Join(c.StateDir, "vuln.db")
	}
	if c.GateSocket == "" {
		c.GateSocket = filepath.Join(c.RunDir, "docker.sock")
	}
	if c.AuthzSocket != "" && (c.GateSocket == "none" || c.DockerHost == "none") {
		return errors.New("the authorisation plugin refuses what does not come through the gate, and there is no gate: " +
			"leave out --authz-plugin, or open the gate")
	}
	if c.CanaryEvery <= 0 {
		c.CanaryEvery = time.Minute
	}
	if c.JournalBytes <= 0 {
		c.JournalBytes = 256 << 20
	}
	if err := c.fillGuard(); err != nil {
		return err
	}
	return c.fillFactor()
}

// PinDir is where the kernel side is pinned.
func (c *Config) PinDir() string { return filepath.Join(c.RunDir, "bpf") }

// Socket is the control socket.
func (c *Config) Socket() string { return filepath.Join(c.RunDir, "control.sock") }

// UsersSocket is the socket for those who may not open the control socket.
func (c *Config) UsersSocket() string { return filepath.Join(c.RunDir, control.UsersSocketName) }

func (c *Config) historyDir() string  { return filepath.Join(c.StateDir, "policy-history") }
func (c *Config) breakGlass() string  { return filepath.Join(c.RunDir, "break-glass") }
func (c *Config) journalDir() string  { return filepath.Join(c.StateDir, "journal") }
func (c *Config) lastGood() string    { return filepath.Join(c.StateDir, "last-good.yaml") }
func (c *Config) setsFile() string    { return filepath.Join(c.StateDir, "sets.json") }
func (c *Config) bindingsDir() string { return filepath.Join(c.StateDir, "bindings") }
func (c *Config) scansSocket() string { return filepath.Join(c.RunDir, ci.SocketName) }
func (c *Config) scansDir() string    { return filepath.Join(c.StateDir, "scans") }
func (c *Config) movesDir() string    { return movesdir.Below(c.StateDir) }
func (c *Config) moveLedger() string  { return filepath.Join(c.StateDir, "load-ledger.json") }
func (c *Config) imagesDir() string   { return filepath.Join(c.StateDir, "inventories") }
func (c *Config) layersDir() string   { return filepath.Join(c.StateDir, "layers") }
func (c *Config) usesDir() string     { return filepath.Join(c.StateDir, "uses") }
func (c *Config) knownFile() string   { return filepath.Join(c.StateDir, "containers.json") }
