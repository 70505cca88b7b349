package proxy

import (
	"bytes"
	"encoding/json"
	"errors"
	"io"
	"strings"
	"time"

	"github.com/belay-project/belay/internal/apicall"
	"github.com/belay-project/belay/internal/gate/wire"
)

// maxEvent bounds one event; its labels are a container's.
const maxEvent = 1 << 20

// passEvents passes on the events that are about what the caller may see. An event
// that cannot be read ends the stream; one that is too large is left out.
func (x *exchange) passEvents() (bool, error) {
	c, b := x.c, x.b
	c.out = x.resp.AppendHead(c.out[:0], false, "Transfer-Encoding: chunked\r\n")
	framing := x.resp.Framing
	b.r.Consume(len(x.resp.Raw))
	if _, err := c.nc.Write(c.out); err != nil {
		return false, err
	}
	body := wire.NewBody(&b.r, framing)
	var held []byte // what was read of events that are not whole
	var room hold   // for one that is large
	defer room.leave()
	skips := false // up to the end of a line, which is the end of an event
	buf := make([]byte, 8<<10)
	for {
		n, err := body.Read(buf)
		fresh := buf[:n]
		if skips {
			_, after, ends := bytes.Cut(fresh, []byte("\n"))
			fresh, skips = after, !ends
		}
		held = append(held, fresh...)
		if room.n > 0 {
			_ = c.nc.SetWriteDeadline(time.Now().Add(c.s.o.Limits.TakeTime))
		}
		rest, werr := x.passWhole(held)
		if room.n > 0 {
			_ = c.nc.SetWriteDeadline(time.Time{})
		}
		if werr != nil {
			return false, werr
		}
		held = append(held[:0], rest...)
		switch large := len(held) > freeAnswer; {
		case len(held) > maxEvent, large && room.n == 0 && !room.grow(&c.s.answers, c.caller.key, 2*maxEvent):
			c.s.counts.unfiltered.Add(1)
			held, skips = nil, true
			room.leave()
		case !large && room.n > 0:
			held, c.out = bytes.Clone(held), nil
			room.leave()
		}
		if errors.Is(err, io.EOF) {
			if len(bytes.TrimSpace(held)) > 0 {
				return false, x.brokenEvents(errJSON)
			}
			_, err := c.nc.Write([]byte("0\r\n\r\n"))
			return err == nil && framing.Chunked, err
		}
		if err != nil {
			return false, err
		}
	}
}

func (x *exchange) brokenEvents(err error) error {
	x.c.s.counts.unfiltered.Add(1)
	return err
}

// passWhole sends the events in b that are whole and visible, and returns what is left.
func (x *exchange) passWhole(b []byte) (rest []byte, err error) {
	var out []byte
	for {
		i := skipSpace(b, 0)
		// Events are objects. One that is not whole has no end yet.
		if i >= len(b) {
			break
		}
		if b[i] != '{' {
			return nil, x.brokenEvents(errJSON)
		}
		end, err := skipValue(b, i)
		if err != nil {
			break
		}
		ok, err := x.seesEvent(b[i:end])
		if err != nil {
			return nil, x.brokenEvents(err)
		}
		if ok {
			out = append(append(out, b[i:end]...), '\n')
		}
		b = b[end:]
	}
	if len(out) > 0 {
		return b, x.c.writeChunk(out)
	}
	return b, nil
}

var eventKinds = map[string]apicall.ResourceKind{
	"container": apicall.ResourceContainer, "image": apicall.ResourceImage, "volume": apicall.ResourceVolume,
	"network": apicall.ResourceNetwork, "plugin": apicall.ResourcePlugin, "service": apicall.ResourceService,
	"node": apicall.ResourceNode, "secret": apicall.ResourceSecret, "config": apicall.ResourceConfig,
}

func (x *exchange) seesEvent(b []byte) (bool, error) {
	var ev struct {
		Type  string
		Actor struct {
			ID         string
			Attributes map[string]string
		}
	}
	if err := json.Unmarshal(b, &ev); err != nil {
		return false, err
	}
	kind, ok := eventKinds[ev.Type]
	if !ok {
		x.c.s.counts.hidden.Add(1)
		return false, nil // about the daemon itself, or of a kind that is yet to come
	}
	at := ev.Actor.Attributes
	res := apicall.Resource{Kind: kind, ID: ev.Actor.ID, Labels: at, Image: at["image"]}
	if n := at["name"]; n != "" {
		res.Names = []string{strings.TrimPrefix(n, "/")}
	}
	// Attributes of these have no labels among them.
	if kind == apicall.ResourceVolume || kind == apicall.ResourceNetwork {
		res.Labels = x.labelsOf(kind, ev.Actor.ID)
		// That a container joined a network, or mounts a volume, is about the container too.
		if id := at["container"]; id != "" && !x.seesContainer(id) {
			return false, nil
		}
	}
	return x.sees(&res), nil
}

// labelsOf asks for the labels of a thing that an event is about; nil if it is gone.
func (x *exchange) labelsOf(kind apicall.ResourceKind, id string) map[string]string {
	ctx, cancel := x.lookup()
	defer cancel()
	defer x.told.leave()
	f, err := x.c.s.find(ctx, kind, id)
	if err != nil {
		return nil
	}
	return f.Labels
}

// seesContainer tells whether the caller may see a container; nobody sees one that is gone.
func (x *exchange) seesContainer(id string) bool {
	ctx, cancel := x.lookup()
	defer cancel()
	defer x.told.leave()
	f, err := x.c.s.findContainer(ctx, id)
	if err != nil {
		x.c.s.counts.hidden.Add(1)
		return false
	}
	res := apicall.Resource{Kind: apicall.ResourceContainer}
	f.fill(&res)
	return x.sees(&res)
}
