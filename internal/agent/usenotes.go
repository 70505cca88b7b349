package agent

import (
	"maps"
	"os"
	"time"

	"github.com/belay-project/belay/internal/attr"
	"github.com/belay-project/belay/internal/enforce"
	"github.com/belay-project/belay/internal/ident"
	"github.com/belay-project/belay/internal/scan/inuse"
)

// What the kernel tells of files in use, between the looks.
const (
	maxNoted      = 2048    // files of one container that wait to be put into what was seen
	maxNotedBytes = 4 << 20 // of the paths of all containers' files that wait
	// useSettle is the least time between two such.
	useSettle = 30 * time.Second
	// useUnknown is how long a container of which only the kernel has told may be unknown to the
	// engine, before it counts as ended.
	useUnknown = time.Minute
)

// noted is a file of which the kernel told, and how it was used.
type noted struct {
	path   string // of [inuse.Noted]
	how    inuse.How
	script bool
}

// howUsed is how the kernel saw a file used.
func howUsed(ev *enforce.Event) inuse.How {
	switch ev.Hook {
	case "mmap_file":
		return inuse.Mapped
	case "file_open":
		return inuse.Opened
	}
	return inuse.Executed
}

// told takes that a container uses a file. It is called from the goroutine that
// drains the ring and waits for nothing but the lock.
func (u *uses) told(ev *enforce.Event) {
	if u == nil || ev.Container == "" || ev.Build {
		return
	}
	u.a.health.Counter("use_told").Add(1)
	n := noted{how: howUsed(ev)}
	var ok bool
	if n.path, n.script, ok = inuse.Noted(ev.Exe, n.how); !ok {
		return
	}
	now, at := time.Now(), u.a.booted.wallTime(ev.SinceBoot)
	u.mu.Lock()
	defer u.mu.Unlock()
	by := u.of[ev.Container]
	if by == nil {
		by = &usedBy{seen: &inuse.Seen{}, born: now}
		u.of[ev.Container] = by
	}
	_, ok = by.noted[n]
	if n.script && (ev.PathCut || !ok && len(by.noted) >= maxNoted/2) {
		u.a.health.Counter("use_cut").Add(1)
		return
	}
	if ev.PathCut || !ok && len(by.noted) >= maxNoted {
		by.cut++
		return
	}
	if by.noted == nil {
		by.noted = map[noted]time.Time{}
	}
	by.noted[n] = at
	if !ok {
		by.notedBytes += len(n.path)
		u.notedBytes += len(n.path)
		u.boundNoted()
	}
}

// boundNoted keeps what waits within its bound: it is cut where most waits, since containers choose what they use, and not
// what is known of others. u.mu is held.
func (u *uses) boundNoted() {
	if u.notedBytes <= maxNotedBytes {
		return
	}
	var most *usedBy
	for _, o := range u.of {
		if most == nil || o.notedBytes > most.notedBytes {
			most = o
		}
	}
	cut := len(most.noted)
	maps.DeleteFunc(most.noted, func(n noted, _ time.Time) bool {
		if n.script {
			most.notedBytes -= len(n.path)
			u.notedBytes -= len(n.path)
		}
		return n.script
	})
	u.a.health.Counter("use_cut").Add(uint64(cut - len(most.noted)))
	if u.notedBytes <= maxNotedBytes {
		return // without its scripts nothing else is known less
	}
	most.cut += len(most.noted)
	u.dropNoted(most)
}

// dropNoted forgets what waits of a container. u.mu is held.
func (u *uses) dropNoted(by *usedBy) {
	u.notedBytes -= by.notedBytes
	by.noted, by.notedBytes = nil, 0
}

// useLosses counts the records of files in use, scripts aside, that the kernel could not hand over, and those of
// any kind that could not be read.
func (a *Agent) useLosses() (uint64, error) {
	if a.kernel == nil {
		return 0, nil
	}
	f, err := a.kernel.Failures()
	return f["use_ring"] + f["bad_records"], err
}

// missed looks whether files in use were not told of. Whose they were nobody knows: what was not
// seen of any container or image is then not known to be unused.
func (u *uses) missed(now time.Time) {
	n, err := u.losses()
	switch {
	case err != nil:
		u.a.log.Warn("whether files in use were not told of is not known", attr.Error, err.Error())
	case n == u.lost:
		return
	default:
		u.a.health.Counter("use_lost").Add(n - u.lost)
		u.lost = n
	}
	u.lostAt = now
	var doubted []string
	doubt := func(image string, f *inuse.Facts) *inuse.Facts {
		if f != nil && len(f.NotSeen) > 0 {
			doubted = append(doubted, image)
		}
		return f.Doubted()
	}
	u.mu.Lock()
	for _, by := range u.of {
		by.cut++
		by.facts = doubt(by.image, by.facts)
	}
	for image, f := range u.past {
		u.past[image] = doubt(image, f)
	}
	u.mu.Unlock()
	for _, image := range doubted {
		u.write(image, now, 0)
	}
}

// merge puts what the kernel told into what was seen. u.mu is held; it is called by run's
// goroutine, which alone reads what was seen without the lock.
func (u *uses) merge(by *usedBy, now time.Time) {
	for n, at := range by.noted {
		if !by.seen.Note(n.path, n.how, n.script, at) {
			u.a.health.Counter("use_cut").Add(1)
		}
	}
	u.dropNoted(by)
	by.seen.Cut += by.cut
	u.a.health.Counter("use_cut").Add(uint64(by.cut))
	by.cut, by.settled = 0, now
	u.bound()
}

// settle brings what is known of running containers up to what the kernel told.
func (u *uses) settle(now time.Time) {
	var list []*usedBy
	u.mu.Lock()
	for _, by := range u.of {
		// Before the first look nobody knows since when the container was watched.
		if len(by.noted) == 0 && by.cut == 0 || by.seen.Looks == 0 || now.Sub(by.settled) < useSettle {
			continue
		}
		u.merge(by, now)
		if list = append(list, by); len(list) >= maxUseLooks {
			break
		}
	}
	u.mu.Unlock()
	for _, by := range list {
		u.conclude(by)
		u.write(by.image, now, useFileEvery)
	}
}

// conclude makes the facts of what was seen of a container. An image's author chooses how long
// this takes: nobody waits for it.
func (u *uses) conclude(by *usedBy) {
	x := u.indexOf(by.image)
	if x == nil {
		return
	}
	f := x.Facts(by.seen)
	u.mu.Lock()
	by.facts = f
	u.mu.Unlock()
}

// end puts away what is known of a container that runs no more, and returns its image. Of one that
// was over before the first look, only what it used is known, and nothing of what it did not.
func (u *uses) end(id ident.ContainerID, now time.Time) string {
	c, _ := u.a.binder.registry.Describe(id)
	u.mu.Lock()
	by := u.of[id]
	if by.image == "" {
		by.image = c.ImageDigest
	}
	told := len(by.noted) > 0 || by.cut > 0
	if told {
		if by.seen.Looks == 0 {
			by.seen.Looks, by.seen.Unread = 1, 1
		}
		u.merge(by, now)
	}
	u.mu.Unlock()
	if told {
		u.conclude(by)
	}
	u.mu.Lock()
	u.dropNoted(by) // told of meanwhile
	over := u.keep(by)
	delete(u.of, id)
	u.mu.Unlock()
	for _, image := range over {
		_ = os.Remove(u.file(image)) // it counts as unknown, whether or not it is gone
	}
	return by.image
}
