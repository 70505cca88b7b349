package gate

import (
	"fmt"
	"strings"
)

// casesC are the ids C*: parameters and bodies that one reader takes so and another so.
func casesC() []bypass {
	body := func(id, what, b string) bypass { return one(id, what, post(create, b)) }
	typed := func(what, t string) bypass {
		return one("C7", what, request("POST", create, head+t, privBody))
	}
	cases := append(casesForm(),
		bypass{
			id: "C3", what: "a query key twice", near: nearCreate, steps: []string{post("/containers/create?name=harm&name=x", plainBody)},
			harm: func(s *scene) string {
				if s.inspect("harm").ID != "" {
					return "the engine took the first name"
				}
				return ""
			},
		},
		one("C3", "a semicolon in the query", post("/containers/create?name=harm;x=y", privBody)),
		body("C4", "a key twice, merged", `{"Image":"IMAGE","Cmd":["/x"],"HostConfig":{"Privileged":true},"HostConfig":{"Memory":0}}`),
		bypass{
			id: "C5", what: "an array twice, its elements merged", near: []string{post("/containers/create?name=near", mountBody("SRVDIR/data"))}, harm: wrote,
			steps: []string{post(create, `{"Image":"IMAGE","Cmd":["sh","-c","echo x >/m/owned"],"HostConfig":{"NetworkMode":"none","Mounts":[{"Type":"bind","Source":"HOSTDIR","Target":"/m"}],"Mounts":[{"Type":"bind"}]}}`), post("/containers/harm/start", "")},
		},
		body("C6", "a key in another case", `{"Image":"IMAGE","Cmd":["/x"],"hostconfig":{"Privileged":true}}`),
		body("C6", "a key with a letter that folds to another", `{"Image":"IMAGE","Cmd":["/x"],"Ho\u017ftConfig":{"Privileged":true}}`),
		body("C6", "a key whose letter is another by Unicode", `{"Image":"IMAGE","Cmd":["/x"],"HostConfig":{"Privileged":false,"PRIVILEGED":true}}`),
		typed("a type in other letters, with parameters", "Content-Type: Application/JSON; charset=utf-8\r\n"),
		typed("another type", "Content-Type: text/plain\r\n"),
		typed("no type", ""),
		one("C7", "a target that ends in /auth", post(create+"&x=/auth", privBody)),
		body("C8", "something behind the body", privBody+`{"Image":"IMAGE"}`),
		body("C8", "a byte order mark", "\xef\xbb\xbf"+privBody),
		body("C8", "depth", strings.Replace(privBody, "{", `{"x":`+strings.Repeat("[", 5000)+strings.Repeat("]", 5000)+",", 1)),
		body("C8", "a number too large", strings.Replace(privBody, "{", `{"x":1e999,`, 1)),
		body("C8", "not a number", strings.Replace(privBody, "{", `{"x":NaN,`, 1)),
		body("C8", "null, and then an object", strings.Replace(privBody, "{", `{"HostConfig":null,`, 1)),
		body("C8", "bytes that are not UTF-8", strings.Replace(privBody, "{", "{\"x\":\"\xff\",", 1)),
		bypass{
			id: "C9", what: "a field that only an old API knows", only: "none", near: nearCreate,
			steps: []string{post("/v1.41/containers/create?name=harm", `{"Image":"IMAGE","HostConfig":{"Capabilities":["CAP_SYS_ADMIN"]}}`)}, harm: has(`CAP_SYS_ADMIN`, "a capability"),
		},
		bypass{
			id: "C9", what: "an old API's shared IPC", only: "old", near: nearCreate,
			steps: []string{post("/v1.39/containers/create?name=harm", plainBody)}, harm: has(`"IpcMode":"shareable"`, "other containers may join its IPC"),
		},
	)
	for i := range cases {
		switch w := cases[i].what; w {
		case "a semicolon in the query", "another type", "no type", "a byte order mark", "not a number":
			cases[i].only = "none"
		case "something behind the body":
			cases[i].only = "old"
		}
	}
	return cases
}

// casesForm are bodies that speak of what the query is for.
func casesForm() []bypass {
	form := func(target, body string) string { return request("POST", target, head+formType, body) }
	multi := func(target string, kv ...string) string {
		var b strings.Builder
		for i := 0; i < len(kv); i += 2 {
			fmt.Fprintf(&b, "--b\r\nContent-Disposition: form-data; name=\"%s\"\r\n\r\n%s\r\n", kv[i], kv[i+1])
		}
		return request("POST", target, head+"Content-Type: multipart/form-data; boundary=b\r\n", b.String()+"--b--\r\n")
	}
	named := func(ref string) func(*scene) string {
		return func(s *scene) string {
			if s.engineCall(get("/containers/"+ref+"/json")).status == 200 {
				return "the name in the body is the one taken"
			}
			return ""
		}
	}
	image := func(ref string) func(*scene) string {
		return func(s *scene) string {
			if s.engineCall(get("/images/"+ref+"/json")).status == 200 {
				return "there is an image " + ref
			}
			return ""
		}
	}
	renamed := post("/containers/create?name=near", `{"Image":"IMAGE","Cmd":["/x"],"Labels":{"belay.dev/owner":"uid:5001"},"HostConfig":{"NetworkMode":"none"}}`)
	return []bypass{
		{
			id: "C1", what: "a form beats the query: rename", play: func(s *scene) {
				s.engineCall(renamed)
				s.send(form("/containers/near/rename?name=good", "name=evil"))
			}, harm: named("evil"), tidy: []string{del("/containers/good?force=1"), del("/containers/evil?force=1")},
			nearPlay: func(s *scene) error {
				s.engineCall(renamed)
				s.send(post("/containers/near/rename?name=good", ""))
				return s.passed()
			},
		},
		{
			id: "C1", what: "a form beats the query: tag", steps: []string{form("/images/IMAGE/tag?repo=good&tag=1", "repo=trusted&tag=1")},
			harm: image("trusted:1"), tidy: []string{del("/images/trusted:1"), del("/images/good:1")}, near: []string{get("/images/IMAGE/json")},
		},
		{
			id: "C1", what: "a form beats the query: commit", only: "none", steps: []string{form("/commit?container=mine&repo=good", "container=victim&repo=stolen")},
			harm: image("stolen"), tidy: []string{del("/images/stolen"), del("/images/good")}, near: []string{get("/containers/mine/json")},
		},
		{
			id: "C1", what: "a form beats the query: import", steps: []string{form("/images/create?fromImage=good", "fromSrc=http://WITNESS/x.tar&fromImage=&repo=x")},
			harm: fetched, near: []string{get("/images/json")},
		},
		{
			id: "C1", what: "a form beats the query: signal", play: func(s *scene) {
				s.engineCall(post("/containers/create?name=near", `{"Image":"IMAGE","Cmd":["sh","-c","trap : HUP; while :; do sleep 1; done"],"Labels":{"belay.dev/owner":"uid:5001"},"HostConfig":{"NetworkMode":"none"}}`))
				s.engineCall(post("/containers/near/start", ""))
				s.send(form("/containers/near/kill?signal=HUP", "signal=KILL"))
			},
			harm: func(s *scene) string {
				if c := s.inspect("near"); c.ID != "" && !c.State.Running {
					return "the signal in the body is the one sent"
				}
				return ""
			},
			nearPlay: func(s *scene) error { s.send(post("/containers/mine/kill?signal=CONT", "")); return s.passed() },
		},
		{
			id: "C2", what: "a part of a multipart body: the build's source", only: "modern", steps: []string{multi("/build?t=harm", "remote", "http://WITNESS/Dockerfile")}, harm: fetched,
			near: []string{buildOf("near", "FROM IMAGE\nLABEL a=b\n", "")}, tidy: []string{del("/images/near?force=1"), del("/images/harm?force=1")},
		},
	}
}
