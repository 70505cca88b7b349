package gate

import (
	"os"
	"strings"
	"testing"
	"time"

	"github.com/belay-project/belay/internal/testneed"
)

// builders are the two stock ways to build by BuildKit.
func builders() map[string]func(t *testing.T, m *member, args ...string) (string, error) {
	const docker = "/usr/bin/docker"
	return map[string]func(t *testing.T, m *member, args ...string) (string, error){
		"docker build": func(t *testing.T, m *member, args ...string) (string, error) {
			_, err := os.Stat(docker)
			testneed.Need(t, "docker", err == nil, "the distribution's docker has BuildKit built in: apt-get install docker.io")
			c := *m.Client
			c.Env = []string{"DOCKER_BUILDKIT=1"}
			return (&member{&c, m.home}).run(t, docker, "", append([]string{"build", "--progress=plain", "--no-cache"}, args...)...)
		},
		"docker buildx build": func(t *testing.T, m *member, args ...string) (string, error) {
			return m.run(t, buildx(t), "", append([]string{"build", "--progress=plain", "--no-cache"}, args...)...)
		},
	}
}

// A7: a frontend that a Dockerfile names is fetched by an engine without a gate. Through the
// gate the engine's own builds, and the witness hears nothing. Where policies do not limit
// frontends, or only audit, it is as without a gate.
func TestFrontends(t *testing.T) {
	w := need(t)
	wit := newWitness(t, w.engine)
	dockerfile := "# syntax=" + wit.addr() + "/frontend:1\nFROM " + image + "\nCOPY hello /hello\n"
	const auditing = `
---
apiVersion: belay.dev/v1
kind: AccessPolicy
metadata: {name: frontends}
spec:
  mode: audit
  subjects: {everyone: true}
  rules:
    - {name: no-others, effect: forbid, actions: [image.build, build.grpc.solve], checks: [frontends]}
`
	mediated := developers + "    - name: builder\n      effect: allow\n      actions: [image.build, build.session, build.grpc, \"build.grpc.*\"]\n"
	free := developers + "    - name: builder\n      effect: allow\n      actions: [\"build.*\"]\n"
	for name, policies := range map[string]string{"limited": shipped(t), "audited": mediated + auditing, "mediated": mediated, "free": free} {
		g := w.start(t, policies)
		m := newMember(t, g)
		m.file(t, "Dockerfile", dockerfile)
		m.file(t, "hello", name)
		for how, build := range builders() {
			t.Run(name+", "+how, func(t *testing.T) {
				wit.forget()
				out, err := build(t, m, m.home)
				limited := name == "limited"
				if heard := wit.seen(300 * time.Millisecond); heard == limited || (err == nil) != limited {
					t.Errorf("the witness heard something: %v; got %q, %v", heard, out, err)
				}
			})
		}
		g.stop()
	}
}

// What a build is given beside its files is asked about by name.
func TestBuildGifts(t *testing.T) {
	w := need(t)
	g := w.start(t, developers+`    - name: builder
      effect: allow
      actions: [build.grpc, "build.grpc.*", build.session]
      checks: [buildEntitlements, noHostNamespaces, noRemote, noBuildOutputs, {buildSecrets: {allow: [good]}}, buildSSH]
`)
	m := newMember(t, g)
	p := m.file(t, "s", "a-secret")
	build := builders()["docker buildx build"]
	for _, tt := range []struct {
		name string
		args []string
		want string // in what is said; "" for a build that succeeds
	}{
		{"an allowed secret", []string{"--secret", "id=good,src=" + p}, ""},
		{"another secret", []string{"--secret", "id=bad,src=" + p}, "buildSecrets"},
		{"the host's network", []string{"--network=host", "--allow=network.host"}, "network.host"},
		{"privileges", []string{"--allow=security.insecure"}, "security.insecure"},
		{"an output", []string{"--output=type=local,dest=" + m.home + "/out"}, "output"},
		{"a frontend", []string{"--build-arg=BUILDKIT_SYNTAX=127.0.0.1:1/frontend:1"}, "127.0.0.1:1"},
	} {
		t.Run(tt.name, func(t *testing.T) {
			id := "good"
			if strings.Contains(tt.want, "Secrets") {
				id = "bad"
			}
			m.file(t, "Dockerfile", "FROM "+image+"\nUSER 0\nRUN --mount=type=secret,id="+id+" cat /run/secrets/"+id+" || true\n")
			out, err := build(t, m, append(tt.args, m.home)...)
			if (err == nil) != (tt.want == "") || !strings.Contains(out, tt.want) || tt.want != "" && tt.name != "a frontend" && !strings.Contains(out, "belay") {
				t.Errorf("got %q, %v; want %q", out, err, tt.want)
			}
		})
	}
}
