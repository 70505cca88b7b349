package main

import (
	"testing"

	"github.com/belay-project/belay/internal/archtest/depstest"
)

// TestDeps: the agent runs as root on every host, beside every container. It stays
// small enough to be read.
//
// database/sql/driver is two interfaces of the standard library that google/uuid, of the
// OpenTelemetry SDK, implements; a SQL engine would bring database/sql itself.
//
// archive/tar is in the list against our will: containerd's client links it for the
// import and export of images, which the agent never calls (docs/adr/0003).
func TestDeps(t *testing.T) {
	depstest.Check(t, []depstest.Ban{
		{Package: "archive/zip", Why: "image layers are hostile: only the sandboxed scanner opens archives"},
		{Package: "github.com/belay-project/belay/internal/scan/extract", Why: "extractors parse hostile files: they run in the scanner's sandbox"},
		{Package: "github.com/belay-project/belay/internal/scan/image", Why: "layers are hostile: they are read in the scanner's sandbox"},
		{Package: "github.com/belay-project/belay/internal/scan/worker", Why: "it is the scanner"},
		{Package: "github.com/belay-project/belay/internal/scan/osvdir", Why: "databases are built elsewhere: feeds come in archives"},
		{Package: "github.com/belay-project/belay/internal/gate/takeover", Why: "moving the gate is the operator's act, and asks systemd"},
		{Package: "github.com/belay-project/belay/internal/node", Why: "putting the agent on a host is the operator's act, and asks systemd"},
		{Package: "plugin", Why: "code that a review of the binary does not see"},
		{Package: "net/http/pprof", Why: "it registers itself on the default mux and gives away memory"},
		{Package: "github.com/nats-io/nats-server", Why: "the fleet's broker runs on its own host"},
		{Package: "database/sql", Except: "database/sql/driver", Why: "the agent keeps files: SQL engines are large parsers"},
		{Package: "modernc.org/sqlite", Why: "the agent keeps files: SQL engines are large parsers"},
		{Package: "github.com/mattn/go-sqlite3", Why: "a SQL engine in C"},
		{Package: "github.com/belay-project/belay/internal/console", Why: "the web UI belongs to the console"},
		{Package: "html/template", Why: "its calls of methods by name make the linker keep all of them: 9 MB (docs/adr/0015)"},
		{Package: "testing", Why: "it registers flags in every binary that links it"},
	})
}
