package journal

import (
	"maps"
	"slices"
	"strconv"
	"strings"
)

// line is JSON of a record in the making. Records of the kernel side come by the ten thousand, and
// encoding/json takes six times as long for one as this, which writes the same bytes.
type line struct {
	b []byte
	// odd is set by what is left to encoding/json.
	odd bool
}

// appendRecord appends r. ok is false for what is left to encoding/json: records that do not come from
// the kernel side, and texts beyond ASCII.
func appendRecord(b []byte, r *Record) (_ []byte, ok bool) {
	if r.API != nil || r.Factor != nil || r.Image != nil || r.Load != nil || r.Anchor != nil || len(r.Lost) > 0 {
		return b, false
	}
	l := line{b: b}
	l.text(`{"schema":`, r.Schema)
	l.text(`,"bootId":`, r.BootID)
	l.number(`,"seq":`, r.Seq)
	l.raw(`,"time":"`)
	var err error
	if l.b, err = r.Time.AppendText(l.b); err != nil {
		return b, false
	}
	l.text(`","host":`, r.Host)
	l.text(`,"kind":`, string(r.Kind))
	l.textIf(`,"event":`, r.Event)
	l.container(r.Container)
	l.process(r.Process)
	l.policy(r.Policy)
	l.textIf(`,"hook":`, r.Hook)
	l.object(r.Object)
	l.textIf(`,"decision":`, string(r.Decision))
	if r.Errno != 0 {
		l.raw(`,"errno":`)
		l.b = strconv.AppendInt(l.b, int64(r.Errno), 10)
	}
	l.textIf(`,"level":`, r.Level)
	l.textIf(`,"backend":`, string(r.Backend))
	l.textIf(`,"message":`, r.Message)
	l.texts(`,"flags":[`, r.Flags)
	l.raw("}")
	return l.b, !l.odd
}

func (l *line) container(c *Container) {
	if c == nil {
		return
	}
	l.text(`,"container":{"id":`, string(c.ID))
	l.textIf(`,"name":`, c.Name)
	l.textIf(`,"image":`, c.Image)
	l.textIf(`,"digest":`, c.Digest)
	l.textIf(`,"workload":`, c.Workload)
	if len(c.Labels) > 0 {
		before := `,"labels":{`
		for _, k := range slices.Sorted(maps.Keys(c.Labels)) {
			l.text(before, k)
			l.text(":", c.Labels[k])
			before = ","
		}
		l.raw("}")
	}
	if c.CgroupID != 0 {
		l.quoted(`,"cgroupId":"`, uint64(c.CgroupID))
	}
	l.textIf(`,"class":`, c.Class)
	l.raw("}")
}

func (l *line) process(p *Process) {
	if p == nil {
		return
	}
	l.number(`,"process":{"pid":`, uint64(p.PID))
	l.number(`,"tid":`, uint64(p.TID))
	l.quoted(`,"startNs":"`, p.StartNS)
	l.number(`,"uid":`, uint64(p.UID))
	l.number(`,"euid":`, uint64(p.EUID))
	l.number(`,"gid":`, uint64(p.GID))
	l.number(`,"egid":`, uint64(p.EGID))
	l.caps(`,"capEffective":"`, p.CapEffective)
	l.caps(`,"capPermitted":"`, p.CapPermitted)
	l.text(`,"comm":`, p.Comm)
	l.textIf(`,"cwd":`, p.Cwd)
	l.texts(`,"args":[`, p.Args)
	l.fact(`,"argsTruncated":true`, p.ArgsTruncated)
	if x := p.Executable; x != nil {
		l.text(`,"executable":{"path":`, x.Path)
		l.fact(`,"pathTruncated":true`, x.PathTruncated)
		l.dev(`,"dev":"`, x.Dev)
		l.quoted(`,"ino":"`, x.Ino)
		l.text(`,"layer":`, string(x.Layer))
		l.raw("}")
	}
	before := `,"ancestors":[{"pid":`
	for _, a := range p.Ancestors {
		l.number(before, uint64(a.PID))
		l.quoted(`,"startNs":"`, a.StartNS)
		l.number(`,"uid":`, uint64(a.UID))
		l.text(`,"comm":`, a.Comm)
		before = `},{"pid":`
	}
	l.fact("}]", len(p.Ancestors) > 0)
	l.raw("}")
}

func (l *line) policy(p *Policy) {
	if p == nil {
		return
	}
	l.text(`,"policy":{"name":`, p.Name)
	l.text(`,"revision":`, p.Revision)
	l.text(`,"rule":`, p.Rule)
	l.text(`,"mode":`, p.Mode)
	l.textIf(`,"phase":`, p.Phase)
	l.raw("}")
}

func (l *line) object(o *Object) {
	if o == nil {
		return
	}
	l.text(`,"object":{"type":`, o.Type)
	l.textIf(`,"name":`, o.Name)
	l.textIf(`,"path":`, o.Path)
	l.fact(`,"pathTruncated":true`, o.PathTruncated)
	if o.Dev != (Dev{}) {
		l.dev(`,"dev":"`, o.Dev)
	}
	if o.Ino != 0 {
		l.quoted(`,"ino":"`, o.Ino)
	}
	l.textIf(`,"layer":`, string(o.Layer))
	l.textIf(`,"addr":`, o.Addr)
	l.numberIf(`,"port":`, o.Port)
	l.textIf(`,"localAddr":`, o.LocalAddr)
	l.numberIf(`,"localPort":`, o.LocalPort)
	l.textIf(`,"protocol":`, o.Protocol)
	l.raw("}")
}

func (l *line) raw(s string) { l.b = append(l.b, s...) }

func (l *line) fact(s string, is bool) {
	if is {
		l.raw(s)
	}
}

func (l *line) number(before string, n uint64) {
	l.raw(before)
	l.b = strconv.AppendUint(l.b, n, 10)
}

func (l *line) numberIf(before string, n uint16) {
	if n != 0 {
		l.number(before, uint64(n))
	}
}

// quoted appends a number whose first quote is in before.
func (l *line) quoted(before string, n uint64) {
	l.number(before, n)
	l.raw(`"`)
}

func (l *line) dev(before string, d Dev) {
	l.number(before, uint64(d.Major))
	l.quoted(":", uint64(d.Minor))
}

func (l *line) caps(before string, c Caps) {
	const digits = 16
	l.raw(before)
	hex := strconv.AppendUint(make([]byte, 0, digits), uint64(c), 16)
	l.raw("0000000000000000"[len(hex):])
	l.b = append(append(l.b, hex...), '"')
}

func (l *line) textIf(before, s string) {
	if s != "" {
		l.text(before, s)
	}
}

func (l *line) texts(before string, ss []string) {
	if len(ss) == 0 {
		return
	}
	for _, s := range ss {
		l.text(before, s)
		before = ","
	}
	l.raw("]")
}

func (l *line) text(before, s string) {
	l.raw(before)
	l.raw(`"`)
	for i := range len(s) {
		if c := s[i]; c < ' ' || c > '~' || c == '"' || c == '\\' {
			l.escaped(s)
			return
		}
	}
	l.raw(s)
	l.raw(`"`)
}

var escapes = strings.NewReplacer(`"`, `\"`, `\`, `\\`, "\n", `\n`, "\r", `\r`, "\t", `\t`)

// escaped appends a text that is not plain, and its last quote.
func (l *line) escaped(s string) {
	s = escapes.Replace(s)
	for i := range len(s) {
		l.odd = l.odd || s[i] < ' ' || s[i] > '~'
	}
	l.raw(s)
	l.raw(`"`)
}
