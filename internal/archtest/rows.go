// Package archtest holds the architecture as a table, and its tests hold the code to
// the table: who may import whom, which module may be used where, how a package may
// be called, and how long a file may grow.
//
// It owns no state and is linked into no binary. Imports are read with go/parser
// and not by running "go list": go test caches a passing run until a file that the
// test has opened changes, and it cannot see what a child process opened. Row: test
// support; it imports the standard library only.
package archtest

import "strings"

// Module is the module whose packages the table lists.
const Module = "github.com/belay-project/belay"

// Row is a package's height in the house. A package imports only packages of rows
// below its own, that is, of greater numbers; packages of one row do not know each
// other.
type Row int

// The rows, top first.
const (
	RowCommand    Row = iota // flags, signals, exit codes; tools and end-to-end tests
	RowAssembly              // builds the parts and joins them
	RowFeature               // what a user meets: the control socket
	RowAdapter               // the kernel, the container runtimes
	RowCore                  // policies, the journal, health: no kernel, no runtime
	RowVocabulary            // words that every row uses: standard library only
)

var rowNames = [...]string{"command", "assembly", "feature", "adapter", "core", "vocabulary"}

// String returns the row's name as ARCHITECTURE.md gives it.
func (r Row) String() string {
	if r < 0 || int(r) >= len(rowNames) {
		return "unknown"
	}
	return rowNames[r]
}

// Package is one line of the table.
type Package struct {
	// Path is the folder below the module's root. A path that ends in "/..."
	// stands for every package at or below the folder.
	Path string
	Row  Row
	// TestSupport marks a package that only tests and other test support import.
	// Unlike others it may also import the packages of its own row: it serves them.
	TestSupport bool
}

// Packages is the whole house. A package that is not listed fails the tests: whoever
// adds one decides here where it stands.
var Packages = []Package{
	{Path: "cmd/agent", Row: RowCommand},
	{Path: "cmd/ctl", Row: RowCommand},
	{Path: "cmd/scanner", Row: RowCommand},
	// manual pages from the command trees of the two above it
	{Path: "cmd/manpage", Row: RowAssembly},
	// what programs are made of, for the image and the release
	{Path: "tools/bom", Row: RowAssembly},
	// a private Docker Engine and an agent for scenes, shared by the demo and test/e2e
	{Path: "tools/lab", Row: RowAssembly},
	{Path: "tools/...", Row: RowCommand},
	{Path: "test/...", Row: RowCommand},

	{Path: "internal/agent", Row: RowAssembly},
	// joins what the control socket and gate/preflight answer
	{Path: "internal/doctor", Row: RowAssembly},

	{Path: "internal/control", Row: RowFeature},
	{Path: "internal/gate/proxy", Row: RowFeature},
	{Path: "internal/gate/authz", Row: RowFeature},
	{Path: "internal/gate/preflight", Row: RowFeature},
	{Path: "internal/gate/takeover", Row: RowFeature},
	{Path: "internal/scan/worker", Row: RowFeature},
	{Path: "internal/scan/target", Row: RowFeature},
	{Path: "internal/scan/feed", Row: RowFeature},
	{Path: "internal/scan/ci", Row: RowFeature},
	{Path: "internal/load", Row: RowFeature},
	{Path: "internal/node", Row: RowFeature},
	{Path: "internal/load/move", Row: RowFeature},
	{Path: "internal/load/carry", Row: RowFeature},
	{Path: "internal/load/swarm", Row: RowFeature},
	{Path: "internal/load/leave", Row: RowFeature},

	{Path: "internal/enforce", Row: RowAdapter},
	{Path: "internal/load/engine", Row: RowAdapter},
	{Path: "internal/load/kube", Row: RowAdapter},
	{Path: "internal/sandbox", Row: RowAdapter},
	{Path: "internal/sandbox/spawn", Row: RowAdapter},
	{Path: "internal/scan/containerd", Row: RowAdapter},
	{Path: "internal/scan/layercache", Row: RowAdapter},
	{Path: "internal/scan/extract", Row: RowAdapter},
	{Path: "internal/scan/inuse", Row: RowCore},
	{Path: "internal/scan/registry", Row: RowAdapter},
	{Path: "internal/scan/report", Row: RowAdapter},
	{Path: "internal/scan/stock", Row: RowAdapter},
	{Path: "internal/scan/accept", Row: RowAdapter},
	{Path: "internal/scan/vex", Row: RowAdapter},
	{Path: "internal/output", Row: RowAdapter},
	{Path: "internal/owncap", Row: RowAdapter},
	{Path: "internal/telemetry", Row: RowAdapter},
	{Path: "internal/workload", Row: RowAdapter},

	{Path: "internal/policy", Row: RowCore},
	{Path: "internal/scan/attest", Row: RowCore},
	{Path: "internal/scan/image", Row: RowCore},
	{Path: "internal/scan/rpmdb", Row: RowCore},
	{Path: "internal/scan/sbom", Row: RowCore},
	{Path: "internal/scan/secret", Row: RowCore},
	{Path: "internal/scan/vulndb", Row: RowCore},
	{Path: "internal/dockerapi", Row: RowCore},
	{Path: "internal/gate/wire", Row: RowCore},
	{Path: "internal/gate/peer", Row: RowCore},
	{Path: "internal/gate/ticket", Row: RowCore},
	{Path: "internal/gate/buildkit", Row: RowCore},
	{Path: "internal/gate/factor", Row: RowCore},
	{Path: "internal/gate/token", Row: RowCore},
	{Path: "internal/journal", Row: RowCore},
	{Path: "internal/health", Row: RowCore},
	{Path: "internal/load/place", Row: RowCore},
	{Path: "internal/load/plan", Row: RowCore},
	{Path: "internal/load/recreate", Row: RowCore},
	{Path: "internal/load/treedigest", Row: RowCore},
	{Path: "internal/revision", Row: RowCore},

	{Path: "internal/scan/inventory", Row: RowVocabulary},
	{Path: "internal/scan/osvdir", Row: RowVocabulary},
	{Path: "internal/scan/pagecache", Row: RowVocabulary},
	{Path: "internal/ident", Row: RowVocabulary},
	{Path: "internal/ratelimit", Row: RowVocabulary},
	{Path: "internal/hooksig", Row: RowVocabulary},
	{Path: "internal/programpages", Row: RowVocabulary},
	{Path: "internal/pump", Row: RowVocabulary},
	{Path: "internal/daemonjson", Row: RowVocabulary},
	{Path: "internal/secretname", Row: RowVocabulary},
	{Path: "internal/apicall", Row: RowVocabulary},
	{Path: "internal/verdict", Row: RowVocabulary},
	{Path: "internal/attr", Row: RowVocabulary},
	{Path: "internal/hostinfo", Row: RowVocabulary},
	{Path: "internal/atomicfile", Row: RowVocabulary},
	{Path: "internal/load/movesdir", Row: RowVocabulary},

	// The pure C headers and their Go binding live in one folder, because cgo does
	// not notice a change of a header outside the package's own.
	{Path: "bpf/pure", Row: RowCore, TestSupport: true},
	{Path: "policies", Row: RowCore, TestSupport: true},
	{Path: "internal/policy/policytest", Row: RowCore, TestSupport: true},
	{Path: "internal/testneed", Row: RowVocabulary, TestSupport: true},
	{Path: "internal/archtest", Row: RowVocabulary, TestSupport: true},
	{Path: "internal/archtest/depstest", Row: RowVocabulary, TestSupport: true},
}

// Ban keeps an import to the places that are made for it.
type Ban struct {
	Import string // import path; it also bans everything below it
	// Allowed lists the folders, each with all that lies below it, that may use it.
	Allowed []string
	// TestsToo says that the ban also holds for _test.go files.
	TestsToo bool
	Why      string
}

// Bans is the list of imports that have a place.
var Bans = []Ban{
	{
		Import:  "os/exec",
		Allowed: []string{"internal/sandbox/spawn", "internal/gate/takeover", "internal/node", "internal/archtest/depstest", "tools", "test"},
		Why:     "a root daemon that starts programs can be made to start others: only a sandbox may (and, beside it, what runs the programs that root names: for mail, the mover, its hook and its ssh), and the commands that move the gate and put the agent on a node, which ask systemd",
	},
	{
		Import: "github.com/cilium/ebpf", Allowed: []string{"internal/enforce"}, TestsToo: true,
		Why: "one package owns the kernel's programs and maps; the others speak of policies and events",
	},
	{
		Import: "github.com/google/osv-scalibr", Allowed: []string{"internal/scan/vulndb"},
		Why: "only its order of versions is used; its extractors link a network and far more (docs/adr/0009-extractors.md)",
	},
	{
		Import: "github.com/google/go-containerregistry", Allowed: []string{"internal/scan/registry", "tools/image"},
		Why: "one package fetches from registries, and a tool lays out the image of a release; images are read in the scanner's sandbox only (docs/adr/0011-registries.md)",
	},
	{
		Import: "archive/zip", Allowed: []string{"internal/scan/osvdir", "tools/bench"},
		Why: "archives are hostile: feeds are read where the database is built, images in the scanner's sandbox; the benchmark makes some",
	},
	{
		Import: "C", Allowed: []string{"bpf/pure"},
		Why: "binaries are static and build without a C compiler; only the tests of the pure headers need one",
	},
	{
		Import: "github.com/moby", Allowed: []string{"internal/workload", "internal/dockerapi", "internal/gate/buildkit", "internal/load/recreate", "internal/load/engine", "internal/load/move", "internal/load/swarm", "test"},
		Why: "one package talks to container runtimes and one reads requests to them, with the daemon's own types; what they learn leaves them in ours. A container is moved in those types, so that no field is lost on the way (docs/adr/0017-moving.md)",
	},
	{
		Import: "github.com/containerd", Allowed: []string{"internal/workload", "internal/scan/containerd", "test"},
		Why: "one package talks to container runtimes, and one looks names up in containerd's store; what they learn leaves them in their own types",
	},
	{
		Import: "k8s.io", Allowed: []string{"internal/load/kube", "tools", "test"},
		Why: "one package asks the API server of a cluster, by the types of two groups (docs/adr/0026-client-go.md)",
	},
	{
		Import: "go.yaml.in/yaml", Allowed: []string{"cmd/agent", "internal/policy", "internal/scan/accept", "test", "tools"},
		Why: "documents are read strictly, by walking the tree, with file and line (docs/adr/0005-yaml.md)",
	},
	{
		Import: "cel.dev/cel-go", Allowed: []string{"internal/policy", "internal/scan/accept"},
		Why: "expressions are compiled and bounded in two places, calls and findings (docs/adr/0007-cel.md)",
	},
	{
		Import: "go.opentelemetry.io", Allowed: []string{"internal/telemetry", "tools/otlpreceiver"},
		Why: "one package sends telemetry; the others speak of records and operations (docs/adr/0015-opentelemetry.md)",
	},
	{
		Import: "github.com/prometheus", Allowed: []string{"internal/telemetry"},
		Why: "one package offers metrics (docs/adr/0015-opentelemetry.md)",
	},
	{
		Import: "gopkg.in/yaml.v3", TestsToo: true,
		Why: "go.yaml.in/yaml/v3 is the same library, maintained (docs/adr/0005-yaml.md)",
	},
	{
		Import: "github.com/spf13/cobra", Allowed: []string{"cmd", "tools"},
		Why: "flags end at the command: packages take option structs (docs/adr/0006-cobra.md)",
	},
	{
		Import: "github.com/google/go-cmp", Allowed: []string{"internal/policy/policytest", "test"},
		Why: "it panics on unexported fields and is slow: it compares in tests",
	},
	{
		Import: "github.com/rogpeppe/go-internal/testscript", Allowed: []string{"test"},
		Why: "it is for tests",
	},
	{
		Import: "github.com/rogpeppe/go-internal/txtar", Allowed: []string{"test"},
		Why: "it is for tests",
	},
	{
		Import: "github.com/rogpeppe/go-internal/diff", Allowed: []string{"cmd/ctl", "test"},
		Why: "one binary shows how texts differ; the agent keeps texts and compares nothing",
	},
	{
		Import: "testing", Allowed: []string{
			"bpf/pure", "internal/testneed", "internal/policy/policytest", "internal/archtest/depstest", "test",
		},
		Why: "it registers flags in every binary that links it",
	},
	{
		Import:  "log",
		Allowed: []string{"tools"},
		Why:     "*slog.Logger is passed in; the global logger hides who logs",
	},
	{
		Import: "math/rand", TestsToo: true,
		Why: "keys and nonces come from crypto/rand, everything else from math/rand/v2",
	},
	{
		Import: "io/ioutil", TestsToo: true,
		Why: "deprecated since Go 1.16; its ReadAll and ReadFile have no bound",
	},
}

// BadNames are names that say nothing about what a package gives.
var BadNames = []string{"pkg", "util", "utils", "common", "helper", "helpers", "types", "base", "misc", "shared", "lib"}

// MaxFileLines is the soft limit on the length of a Go or C file. The tests report
// what passes it and fail at twice as much; generated files are exempt.
const MaxFileLines = 500

// Find returns the line of the table for the package in folder dir, given below the
// module's root with slashes. An exact path wins over a pattern.
func Find(dir string) (Package, bool) {
	var found Package
	ok := false
	for _, p := range Packages {
		if p.Path == dir {
			return p, true
		}
		if root, tree := strings.CutSuffix(p.Path, "/..."); tree && within(dir, root) {
			found, ok = p, true
		}
	}
	return found, ok
}

// within reports whether path is root or lies below it.
func within(path, root string) bool {
	return path == root || strings.HasPrefix(path, root+"/")
}
