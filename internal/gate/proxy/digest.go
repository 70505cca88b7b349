package proxy

import (
	"cmp"
	"context"
	"encoding/json"
	"errors"
	"net/http"
	"path"
	"runtime"
	"strings"
	"time"

	"golang.org/x/sys/unix"

	"github.com/belay-project/belay/internal/attr"
	"github.com/belay-project/belay/internal/load/treedigest"
)

// Below digestPrefix and before digestSuffix is the container in whose volume the gate itself looks, and says its digest.
const (
	digestPrefix = "/belay/v1/containers/"
	digestSuffix = "/digest"
)

const (
	digestsAtOnce = 1
	// tellEvery is the time between two signs of a look that goes on.
	tellEvery = time.Second
	// digestShare is the part of a processor that looks take, one in so many: the agent has half of one, and callers wait for it.
	digestShare = 4
	// digestBurst is how much processor time they may take beyond that at once, for some 500 MiB: whoever has a container moved waits for it.
	digestBurst = 500 * time.Millisecond
)

// digested returns the container in whose volume the request has the gate look.
func digested(path string) (container string, ok bool) {
	rest, ok := strings.CutPrefix(path, digestPrefix)
	if !ok {
		return "", false
	}
	return strings.CutSuffix(rest, digestSuffix)
}

// digestVolume answers with the digest of a volume. It tells as much as the files themselves to whoever can guess them, so it is
// judged as the request for their archive.
func (x *exchange) digestVolume(container string) (keep bool) {
	c := x.c
	if c.req.Method != http.MethodGet {
		c.s.counts.refused.Add(1)
		return x.deny(&refusal{status: http.StatusMethodNotAllowed, cause: "method", msg: "belay: " + c.req.Path + " takes GET"})
	}
	if r := x.judge("/containers/" + container + "/archive"); r != nil {
		return x.deny(r)
	}
	at := path.Clean(x.req.Query.Get("path"))
	dir, r := x.volumeAt(at)
	if r != nil {
		return x.deny(r)
	}
	select {
	case c.s.digests <- struct{}{}:
		defer func() { <-c.s.digests }()
	default:
		return x.deny(&refusal{status: http.StatusTooManyRequests, cause: "digests", retryAfter: true, msg: "belay: the gate looks at another volume already"})
	}
	x.forget()
	c.s.counts.digests.Add(1)
	x.count(http.StatusOK)
	return x.sendDigest(dir, path.Base(at)) == nil
}

// volumeAt asks the daemon for the directory of the volume that the container has at a path, of which it would have all in an
// archive, and nothing else.
func (x *exchange) volumeAt(at string) (string, *refusal) {
	s := x.c.s
	ctx, cancel := x.lookup()
	defer cancel()
	dir, err := s.volumeDir(ctx, cmp.Or(x.req.Call.Resources[0].ID, x.req.Call.Resources[0].Asked), at)
	switch {
	case err == nil:
		return dir, nil
	case errors.Is(err, errDaemon):
		return "", x.daemonGone(err)
	case errors.Is(err, errNotFound):
		return "", &refusal{status: http.StatusNotFound, cause: "absent", msg: notFound(&x.req.Call.Resources[0])}
	}
	s.counts.unresolved.Add(1)
	return "", &refusal{status: http.StatusNotImplemented, cause: "no_volume", msg: "belay: " + err.Error()}
}

var errNoVolume = errors.New("the container has no whole volume of the daemon's own at that path, of which there is a digest")

func (s *Server) volumeDir(ctx context.Context, container, at string) (string, error) {
	var a struct {
		HostConfig struct {
			Mounts []struct {
				Target        string
				VolumeOptions struct{ Subpath string }
			}
			VolumesFrom []string
			Tmpfs       map[string]string
		}
		Mounts []struct{ Type, Name, Source, Destination, Driver string }
	}
	if err := s.get(ctx, "/containers/", container, "/json", &a); err != nil {
		return "", err
	}
	// Of another's volume it may have a part, which nothing here says; and a tmpfs can lie over a volume.
	if len(a.HostConfig.VolumesFrom) > 0 {
		return "", errNoVolume
	}
	for to := range a.HostConfig.Tmpfs {
		if to = path.Clean(to); to == at || strings.HasPrefix(to, at+"/") {
			return "", errNoVolume
		}
	}
	for i := range a.HostConfig.Mounts {
		if m := &a.HostConfig.Mounts[i]; path.Clean(m.Target) == at && m.VolumeOptions.Subpath != "" {
			return "", errNoVolume
		}
	}
	var name, source string
	for _, m := range a.Mounts {
		switch to := path.Clean(m.Destination); {
		case to == at && m.Type == "volume" && m.Driver == "local":
			name, source = m.Name, m.Source
		case strings.HasPrefix(to, at+"/"):
			return "", errNoVolume // what lies below that is not the container's to read
		}
	}
	if name == "" {
		return "", errNoVolume
	}
	var v struct {
		Name, Driver, Mountpoint string
		Options                  map[string]string
	}
	if err := s.get(ctx, "/volumes/", name, "", &v); err != nil {
		return "", err
	}
	if v.Name != name || v.Driver != "local" || len(v.Options) > 0 || !path.IsAbs(v.Mountpoint) || v.Mountpoint != source {
		return "", errNoVolume
	}
	return v.Mountpoint, nil
}

// sendDigest answers in lines of JSON: how many bytes were read until now, each second, and at the end the digest, or what went wrong.
func (x *exchange) sendDigest(dir, name string) error {
	c := x.c
	_ = c.nc.SetWriteDeadline(time.Now().Add(answerTime))
	if _, err := c.nc.Write([]byte("HTTP/1.1 200 OK\r\nContent-Type: application/json\r\nTransfer-Encoding: chunked\r\n\r\n")); err != nil {
		return err
	}
	var gone error
	line := func(what string, v any) error {
		b, err := json.Marshal(map[string]any{what: v})
		if err == nil {
			_ = c.nc.SetWriteDeadline(time.Now().Add(answerTime))
			err = c.writeChunk(append(b, '\n'))
		}
		gone = errors.Join(gone, err)
		return err
	}
	runtime.LockOSThread() // whose time is counted
	defer runtime.UnlockOSThread()
	var read int64
	told := time.Now()
	pace := &c.s.pace
	pace.used = threadTime()
	digest, err := treedigest.Of(dir, name, func(n int) error {
		read += int64(n)
		pace.wait()
		if time.Since(told) < tellEvery {
			return nil
		}
		told = time.Now()
		return line("bytes", read)
	})
	switch {
	case gone != nil:
		c.s.counts.canceled.Add(1)
		return gone
	case err != nil:
		c.s.o.Log.Warn("a volume has no digest", attr.Error, err.Error())
		err = line("error", err.Error())
	default:
		err = line("digest", digest)
	}
	if err == nil {
		_, err = c.nc.Write([]byte("0\r\n\r\n"))
	}
	_ = c.nc.SetWriteDeadline(time.Time{})
	return err
}

// pace keeps what looks do to a part of a processor, and a burst that comes back while there are none. The zero value has all of it.
type pace struct {
	at   time.Time
	used time.Duration // by the thread that looks, until at
	left time.Duration // of the burst; negative: taken beyond it
}

// wait waits until looks have taken no more than their part.
func (p *pace) wait() {
	if early := p.early(time.Now(), threadTime()); early > 10*time.Millisecond {
		<-time.After(early)
	}
}

// early is for how long a thread that has used so much by now has to wait.
func (p *pace) early(now time.Time, used time.Duration) time.Duration {
	p.left = min(digestBurst, p.left+now.Sub(p.at)/digestShare) - (used - p.used)
	p.at, p.used = now, used
	return max(0, -p.left*digestShare)
}

// threadTime is the processor time that this thread has taken.
func threadTime() time.Duration {
	var t unix.Timespec
	_ = unix.ClockGettime(unix.CLOCK_THREAD_CPUTIME_ID, &t) // it fails for other clocks
	return time.Duration(t.Nano())
}
