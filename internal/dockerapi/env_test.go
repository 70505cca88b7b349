package dockerapi

import (
	"encoding/json"
	"fmt"
	"net/http"
	"reflect"
	"strings"
	"testing"

	"github.com/distribution/reference"
)

// An environment that is set apart is read as the daemon will read what it is sent.
func TestEnvironmentApart(t *testing.T) {
	vars := []string{`"A=b"`, `"\u0041=\ud83d\ude00"`, `"Q=\"\\\/\n\u007f\u2028<&>"`, `"é=日"`, `""`}
	many := strings.Join(vars, ",") + strings.Repeat(`,"SETTING=a value"`, 20)
	for name, body := range map[string]string{
		"create":         `{"Image":"app","Env":[` + many + `],"HostConfig":{"Memory":1}}`,
		"nothing else":   `{"Env":[` + many + `]}`,
		"with a null":    `{"Image":"app","Env":[null,` + many + `]}`,
		"few":            `{"Image":"app","Env":["A=b"]}`,
		"one":            `{"Image":"app","Env":["A=` + strings.Repeat("b", 300) + `"]}`,
		"not there":      `{"Image":"app","Env":null}`,
		"labels besides": `{"Labels":{"a":"b"},"Env":[` + many + `],"Image":"app","Cmd":["x"]}`,
	} {
		for _, path := range []string{"/v1.41/containers/create", "/v1.41/containers/web/exec"} {
			if strings.HasSuffix(path, "exec") {
				body = strings.NewReplacer(`"Image":"app"`, `"User":"u"`, `"HostConfig":{"Memory":1}`, `"Tty":true`, `"Labels":{"a":"b"}`, `"Tty":true`).Replace(body)
			}
			t.Run(name+path, func(t *testing.T) {
				m, err := FindRoute("POST", path)
				if err != nil {
					t.Fatal(err)
				}
				r, err := Parse(m, "", http.Header{"Content-Type": {"application/json"}}, []byte(body), Options{})
				if err != nil {
					t.Fatal(err)
				}
				_, _, sent, err := r.Encode()
				if err != nil {
					t.Fatal(err)
				}
				for what, text := range map[string][]byte{"sent": sent, "asked": []byte(body)} {
					want := m.Route.body.json()
					if err := json.Unmarshal(text, want); err != nil {
						t.Fatal(err)
					}
					if !reflect.DeepEqual(r.Body, want) {
						t.Errorf("judged %s, %s %s", show(r.Body), what, show(want))
					}
				}
			})
		}
	}
}

// The short way to split the usual names is the long one.
func TestPlainImage(t *testing.T) {
	for _, name := range []string{"alpine", "nginx:125", "a", "0", "postgres:16alpine", "localhost", "app:latest", strings.Repeat("a", 63), "cafe:cafe"} {
		short, tag, ok := plainImage(name)
		if !ok {
			t.Errorf("%s goes the long way", name)
		}
		named, err := reference.ParseNormalizedNamed(name)
		if err != nil {
			t.Fatal(err)
		}
		named = reference.TagNameOnly(named)
		if got, want := "docker.io/library/"+short+":"+tag, named.String(); got != want {
			t.Errorf("%s: got %s, want %s", name, got, want)
		}
	}
	for _, name := range []string{"", ":", "a:", ":a", "a/b", "a.b", "A", "a:B", "a@sha256:aa", "a:b:c", "a-b", strings.Repeat("a", 64)} {
		if short, tag, ok := plainImage(name); ok {
			t.Errorf("%q is taken for %s:%s", name, short, tag)
		}
	}
}

func show(v any) string {
	b, err := json.Marshal(v)
	return fmt.Sprint(string(b), err)
}
