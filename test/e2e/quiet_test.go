package e2e

import (
	"errors"
	"strings"
	"testing"
	"time"

	"github.com/belay-project/belay/internal/testneed"
	"github.com/belay-project/belay/tools/lab"
)

// imageDebian is a small Debian with nginx, PostgreSQL and Python.
const imageDebian = "e2e/debian:1"

const nginxConf = `pid /tmp/nginx.pid;
error_log stderr;
worker_processes 2;
events {}
http {
	access_log off;
	client_body_temp_path /tmp/body; proxy_temp_path /tmp/proxy; fastcgi_temp_path /tmp/fcgi;
	uwsgi_temp_path /tmp/uwsgi; scgi_temp_path /tmp/scgi;
	server { listen 8080; location / { return 200 "served by nginx\n"; } }
}
`

const shellScript = `#!/bin/sh
# Counts in a file what it has done, as scripts do: with small programs and pipes.
n=0
trap 'n=100' HUP
trap 'exit 0' TERM
while :; do
	n=$((n + 1))
	echo "served $n $(date +%s)" | sed 's/served/did/' >/tmp/page
	grep -q did /tmp/page && wc -c </tmp/page >/tmp/size
	sleep 0.2
done
`

const pythonApp = `import signal, socket, subprocess, sys
page = [1]
def reload(*_): page[0] += 1
signal.signal(signal.SIGHUP, reload)
signal.signal(signal.SIGTERM, lambda *_: sys.exit(0))
s = socket.create_server(("0.0.0.0", 8080))
while True:
    c, _ = s.accept()
    c.recv(4096)
    who = subprocess.run(["/usr/bin/id", "-u"], capture_output=True, text=True).stdout.strip()
    c.sendall(f"HTTP/1.0 200 OK\r\n\r\nserved {page[0]} as {who}\n".encode())
    c.close()
`

// story is the life of an ordinary service.
type story struct {
	name   string
	debian bool     // needs the Debian tree
	run    []string // after docker run -d
	get    []string // command in the container that shows that it serves
	want   string   // in its output
	reload []string // docker command; NAME stands for the container
	wanted string   // in the output of get after the reload
	enter  []string // docker exec that a person might do
}

var getPage = []string{"/bin/actor", "get", "127.0.0.1:8080"}

var stories = []story{
	{
		name: "go-web-server", run: []string{"-u", "1000", image, "serve", "0.0.0.0:8080"},
		get: getPage, want: "served 1", reload: []string{"kill", "-s", "HUP", "NAME"}, wanted: "served 2",
		enter: []string{"-u", "1000", "NAME", "/bin/busybox", "ps"},
	},
	{
		name: "busybox-script", run: []string{"-u", "1000", "--entrypoint", "/app/run.sh", "e2e/script:1"},
		get: []string{"/bin/cat", "/tmp/page"}, want: "did ", reload: []string{"kill", "-s", "HUP", "NAME"}, wanted: "did 1",
		enter: []string{"-u", "1000", "NAME", "/bin/sh", "-c", "ls -l /tmp | grep page"},
	},
	{
		name: "nginx", debian: true, run: []string{"-u", "www-data", imageDebian, "/usr/sbin/nginx", "-c", "/etc/nginx/e2e.conf", "-g", "daemon off;"},
		get: getPage, want: "served by nginx", reload: []string{"exec", "NAME", "/usr/sbin/nginx", "-c", "/etc/nginx/e2e.conf", "-s", "reload"}, wanted: "served by nginx",
		enter: []string{"NAME", "/usr/sbin/nginx", "-t", "-c", "/etc/nginx/e2e.conf"},
	},
	{
		name: "postgres", debian: true, run: []string{
			"-u", "postgres", imageDebian, "/usr/lib/postgresql/15/bin/postgres", "-D", "/var/lib/postgresql/15/main",
			"-c", "config_file=/etc/postgresql/15/main/postgresql.conf", "-c", "unix_socket_directories=/tmp", "-c", "ssl=off",
		},
		get:    []string{"/usr/bin/psql", "-h", "/tmp", "-Atc", "create temp table t as select generate_series(1, 1000) as n; select 'served ' || sum(n) from t"},
		want:   "served 500500",
		reload: []string{"exec", "NAME", "/usr/bin/psql", "-h", "/tmp", "-Atc", "select pg_reload_conf()"}, wanted: "served 500500",
		enter: []string{"-u", "postgres", "NAME", "/bin/bash", "-c", "/usr/lib/postgresql/15/bin/pg_isready -h /tmp && ls /var/lib/postgresql | head -n 1"},
	},
	{
		name: "python-app", debian: true, run: []string{"-u", "1000", imageDebian, "/usr/bin/python3", "/app/app.py"},
		get: getPage, want: "served 1 as 1000", reload: []string{"kill", "-s", "HUP", "NAME"}, wanted: "served 2 as 1000",
		enter: []string{"-u", "1000", "NAME", "/usr/bin/python3", "-c", "import os, sys; print(sys.version, os.uname())"},
	},
}

func TestQuiet(t *testing.T) {
	w := need(t)
	ctx := t.Context()
	bb, err := lab.Busybox()
	if err != nil {
		t.Fatal(err)
	}
	actor, err := w.lab.Actor(ctx)
	if err != nil {
		t.Fatal(err)
	}
	script := []lab.File{lab.Program("bin/busybox", bb), lab.Program("app/run.sh", []byte(shellScript)), {Name: "tmp/", Mode: 0o1777}}
	for _, applet := range []string{"sh", "date", "sed", "grep", "wc", "sleep", "cat", "ls"} {
		script = append(script, lab.File{Name: "bin/" + applet, Mode: 0o777, Link: "busybox"})
	}
	if err := w.engine.Import(ctx, "e2e/script:1", script); err != nil {
		t.Fatal(err)
	}
	tree, treeErr := w.lab.QuietTree(ctx)
	if treeErr == nil {
		err := w.engine.ImportTar(ctx, imageDebian, tree, []lab.File{
			lab.Program("usr/bin/actor", actor),
			{Name: "etc/nginx/e2e.conf", Mode: 0o644, Body: []byte(nginxConf)},
			{Name: "app/app.py", Mode: 0o644, Body: []byte(pythonApp)},
		})
		if err != nil {
			t.Fatal(err)
		}
	} else if !errors.Is(treeErr, lab.ErrNoPackages) {
		t.Fatal(treeErr)
	}
	for _, s := range stories {
		t.Run(s.name, func(t *testing.T) {
			if s.debian && treeErr != nil {
				testneed.Need(t, "debootstrap", false, treeErr.Error())
			}
			w.live(t, s)
		})
	}
}

// live plays a story under the shipped policy. Everything in it must work, and nothing
// may be denied.
func (w *world) live(t *testing.T, s story) {
	t.Helper()
	ctx, begin := t.Context(), time.Now()
	name := "quiet-" + s.name
	named := func(args []string) []string {
		out := make([]string, len(args))
		for i, a := range args {
			out[i] = strings.ReplaceAll(a, "NAME", name)
		}
		return out
	}
	w.up(t, name, s.run...)
	serves := func(want string) bool {
		var r lab.Result
		ok := lab.Await(ctx, 20*time.Second, func() bool {
			r = w.engine.Docker(ctx, append([]string{"exec", name}, s.get...)...)
			return r.Code == 0 && strings.Contains(r.Stdout, want)
		})
		if !ok {
			t.Errorf("want %q from it: %v\nits log:\n%s", want, r.Err(), w.engine.Docker(ctx, "logs", "--tail", "20", name).Text())
		}
		return ok
	}
	if serves(s.want) {
		if r := w.engine.Docker(ctx, named(s.reload)...); r.Code != 0 {
			t.Errorf("reload: %v", r.Err())
		}
		serves(s.wanted)
		if r := w.engine.Docker(ctx, append([]string{"exec"}, named(s.enter)...)...); r.Code != 0 {
			t.Errorf("enter: %v", r.Err())
		}
		if r := w.engine.Docker(ctx, "stop", "-t", "20", name); r.Code != 0 {
			t.Errorf("stop: %v", r.Err())
		}
		if got := strings.TrimSpace(w.docker(t, "inspect", "-f", "{{.State.ExitCode}}", name)); got == "137" {
			t.Errorf("it ended by being killed: %s", got)
		}
	}
	// The journal is a moment behind.
	lab.Await(ctx, 500*time.Millisecond, func() bool { return len(w.denials(t, begin, name)) > 0 })
	for _, d := range w.denials(t, begin, name) {
		t.Errorf("denied: %s", d)
	}
}
