package proxy

import (
	"bufio"
	"bytes"
	"fmt"
	"io"
	"net"
	"net/http"
	"strings"
	"testing"

	"github.com/belay-project/belay/internal/health"
)

// benchDaemon answers every request with the same bytes, as fast as can be.
func benchDaemon(b *testing.B, answer string) string {
	b.Helper()
	return benchDaemonOf(b, func([]byte) string { return answer })
}

// benchDaemonOf answers by what it has read.
func benchDaemonOf(b *testing.B, answer func(request []byte) string) string {
	b.Helper()
	path := b.TempDir() + "/d.sock"
	l, err := net.Listen("unix", path)
	if err != nil {
		b.Fatal(err)
	}
	b.Cleanup(func() { l.Close() })
	go func() {
		for {
			c, err := l.Accept()
			if err != nil {
				return
			}
			go func() {
				defer c.Close()
				buf := make([]byte, 64<<10)
				for {
					n, err := c.Read(buf)
					if err != nil {
						return
					}
					if _, err := io.WriteString(c, answer(buf[:n])); err != nil {
						return
					}
				}
			}()
		}
	}()
	return path
}

func benchGate(b *testing.B, upstream string) net.Conn {
	b.Helper()
	rules := rulesFrom(b, own)
	s, err := Listen(Options{
		Upstream: upstream, Socket: b.TempDir() + "/g.sock", Policies: func() Rules { return rules }, Health: health.New(nil), Workload: noContainers{},
		Binder: &fakeBinder{},
	})
	if err != nil {
		b.Fatal(err)
	}
	go s.Run(b.Context())
	b.Cleanup(s.Close)
	c, err := net.Dial("unix", s.o.Socket)
	if err != nil {
		b.Fatal(err)
	}
	b.Cleanup(func() { c.Close() })
	return c
}

func benchRequest(b *testing.B, request, answer string) {
	b.Helper()
	benchOn(b, benchDaemon(b, answer), request)
}

func benchOn(b *testing.B, daemon, request string) {
	b.Helper()
	c := benchGate(b, daemon)
	br := bufio.NewReaderSize(c, 64<<10)
	b.ReportAllocs()
	for b.Loop() {
		if _, err := io.WriteString(c, request); err != nil {
			b.Fatal(err)
		}
		r, err := http.ReadResponse(br, nil)
		if err != nil {
			b.Fatal(err)
		}
		if _, err := io.Copy(io.Discard, r.Body); err != nil {
			b.Fatal(err)
		}
	}
}

func BenchmarkPing(b *testing.B) {
	benchRequest(b, "GET /_ping HTTP/1.1\r\nHost: docker\r\nUser-Agent: bench\r\n\r\n",
		"HTTP/1.1 200 OK\r\nApi-Version: 1.41\r\nCache-Control: no-cache\r\nContent-Type: text/plain; charset=utf-8\r\nServer: Docker/20.10\r\nContent-Length: 2\r\n\r\nOK")
}

func BenchmarkList(b *testing.B) {
	one := `{"Id":"` + idWeb + `","Names":["/bench0"],"Image":"bench","ImageID":"sha256:` + idDB + `","Command":"/bin/busybox true","Created":1700000000,"Ports":[],"Labels":{"belay.dev/owner":"` + me() + `"},"State":"created","Status":"Created","HostConfig":{"NetworkMode":"none"},"NetworkSettings":{"Networks":{"none":{"IPAMConfig":null,"Links":null,"Aliases":null,"NetworkID":"","EndpointID":"","Gateway":"","IPAddress":"","IPPrefixLen":0,"IPv6Gateway":"","GlobalIPv6Address":"","GlobalIPv6PrefixLen":0,"MacAddress":"","DriverOpts":null}}},"Mounts":[]}`
	list := "[" + strings.Repeat(one+",", 9) + one + "]\n"
	benchRequest(b, "GET /v1.41/containers/json?all=1 HTTP/1.1\r\nHost: docker\r\nUser-Agent: bench\r\n\r\n",
		"HTTP/1.1 200 OK\r\nContent-Type: application/json\r\nServer: Docker/20.10\r\nTransfer-Encoding: chunked\r\n\r\n"+
			hex(len(list))+"\r\n"+list+"\r\n0\r\n\r\n")
}

// A create of 4 KiB: its image is asked for, it is parsed, judged, encoded anew, and bound.
func BenchmarkCreate(b *testing.B) {
	env := `"PATH=/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin"`
	for len(env) < 3500 {
		env += `,"SETTING_` + hex(len(env)) + `=a value of some length"`
	}
	body := `{"Image":"app","User":"1000","Cmd":["/bin/sh","-c","true"],"Env":[` + env + `],"Labels":{"com.example.a":"b"},"ExposedPorts":{"80/tcp":{}},` +
		`"HostConfig":{"NetworkMode":"none","Memory":67108864,"PidsLimit":64,"RestartPolicy":{"Name":"no"},"CapDrop":["ALL"]},"NetworkingConfig":{"EndpointsConfig":{}}}`
	const head = "HTTP/1.1 %s\r\nContent-Type: application/json\r\nServer: Docker/20.10\r\nContent-Length: %d\r\n\r\n%s"
	image := `{"Id":"sha256:` + idDB + `","RepoTags":["app:latest"],"Config":{"User":"","Labels":{}}}`
	made := `{"Id":"` + idWeb + `","Warnings":[]}`
	image, made = fmt.Sprintf(head, "200 OK", len(image), image), fmt.Sprintf(head, "201 Created", len(made), made)
	d := benchDaemonOf(b, func(request []byte) string {
		if bytes.HasPrefix(request, []byte("GET ")) {
			return image
		}
		return made
	})
	benchOn(b, d, fmt.Sprintf("POST /v1.41/containers/create?name=x HTTP/1.1\r\nHost: docker\r\nContent-Type: application/json\r\nContent-Length: %d\r\n\r\n%s", len(body), body))
}

func hex(n int) string {
	const digits = "0123456789abcdef"
	out := ""
	for ; n > 0; n /= 16 {
		out = string(digits[n%16]) + out
	}
	return out
}
