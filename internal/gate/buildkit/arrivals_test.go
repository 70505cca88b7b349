package buildkit

import (
	"bytes"
	"encoding/binary"
	"io"
	"testing"

	"golang.org/x/net/http2"
	"golang.org/x/net/http2/hpack"
)

// message is a prefix of gRPC's for a message of n bytes, and what has come of it.
func message(n, come int) []byte {
	return append(binary.BigEndian.AppendUint32([]byte{0}, uint32(n)), make([]byte, come)...)
}

// What is not whole is counted, however the connection cuts it, and given back when it is whole
// or its call ends, at either end.
func TestArrivals(t *testing.T) {
	const mib = 1 << 20
	for _, cut := range []int{1, 7, 1 << 20} {
		var buf bytes.Buffer
		fr := http2.NewFramer(&buf, nil)
		r := &room{most: 2 * mib}
		a := newArrivals(r, true)
		come := func(write func()) error {
			t.Helper()
			buf.Reset()
			write()
			for all := buf.Bytes(); len(all) > 0; all = all[min(cut, len(all)):] {
				if err := a.read(all[:min(cut, len(all))]); err != nil {
					return err
				}
			}
			return nil
		}
		data := func(stream uint32, end bool, b []byte) func() {
			return func() {
				if err := fr.WriteDataPadded(stream, end, b, make([]byte, 20)); err != nil {
					t.Fatal(err)
				}
			}
		}
		step := func(what string, write func(), least, most int) {
			t.Helper()
			if err := come(write); err != nil {
				t.Errorf("%s: %v", what, err)
			}
			if n := r.held(); n < least || n > most {
				t.Errorf("cut by %d: %s: %d are held, %d to %d are wanted", cut, what, n, least, most)
			}
		}
		step("preface", func() { buf.WriteString(http2.ClientPreface); _ = fr.WriteSettings() }, 0, 0)
		step("a whole message, and one more", data(1, false, append(message(9, 9), message(0, 0)...)), 0, 0)
		step("a part", data(1, false, message(mib, 200<<10)), 200<<10, 300<<10)
		step("of two calls", data(3, false, message(mib, 300<<10)), 500<<10, 640<<10)
		step("the first is whole", data(1, false, make([]byte, mib-200<<10)), 300<<10, 400<<10)
		step("the second ends", func() { _ = fr.WriteRSTStream(3, http2.ErrCodeCancel) }, 0, 0)
		step("one more", data(5, false, message(mib, 100<<10)), 100<<10, 200<<10)
		buf.Reset()
		_ = fr.WriteHeaders(http2.HeadersFrameParam{StreamID: 5, EndStream: true, EndHeaders: true, BlockFragment: []byte("x")})
		if a.wrote(buf.Bytes()); r.held() != 0 {
			t.Errorf("this end ends a call: %d are held", r.held())
		}
		step("what comes then", data(5, false, make([]byte, 200<<10)), 0, 0)
		step("small frames", func() {
			for i := range 4000 {
				b := make([]byte, 1)
				if i == 0 {
					b = message(mib, 0)
				}
				data(7, false, b)()
			}
		}, 4000*frameBytes, mib)
		step("the client ends it", data(7, true, []byte("x")), 0, 0)
		if err := come(func() {
			for i := range 3 {
				data(uint32(9+2*i), false, message(mib, mib-1))()
			}
		}); err == nil {
			t.Error("more than there is room for")
		}
		if a.close(); r.held() != 0 {
			t.Errorf("%d are left", r.held())
		}
	}
}

// Frames without data leave nothing: gRPC passes over those of streams that nobody has opened.
func TestEmptyFrames(t *testing.T) {
	var buf bytes.Buffer
	fr := http2.NewFramer(&buf, nil)
	a := newArrivals(&room{most: 1 << 20}, true)
	buf.WriteString(http2.ClientPreface)
	for i := range uint32(10_000) {
		if err := fr.WriteData(2*i+1, false, nil); err != nil {
			t.Fatal(err)
		}
	}
	if err := a.read(buf.Bytes()); err != nil || len(a.streams) > 0 {
		t.Errorf("%d streams are kept, %v", len(a.streams), err)
	}
}

// A caller who leaves messages half sent loses the connection, and his others are bounded too.
func TestHalfMessages(t *testing.T) {
	j := &judge{deny: func(*Question) bool { return false }}
	r := &room{most: 1 << 20}
	client, in := pair(t)
	out, daemon := pair(t)
	defer client.Close()
	defer daemon.Close()
	go func() { _, _ = io.Copy(io.Discard, daemon) }()
	ended := make(chan error, 1)
	go func() { ended <- ServeControl(t.Context(), in, out, j, Rooms{&room{most: 1 << 20}, r}) }()
	go func() { _, _ = io.Copy(io.Discard, client) }()
	var head bytes.Buffer
	enc := hpack.NewEncoder(&head)
	fr := http2.NewFramer(client, nil)
	_, _ = io.WriteString(client, http2.ClientPreface)
	_ = fr.WriteSettings()
	for i := range 64 {
		id := uint32(1 + 2*i)
		head.Reset()
		for _, kv := range [][2]string{
			{":method", "POST"}, {":scheme", "http"}, {":path", serviceControl + "Solve"}, {":authority", "x"},
			{"content-type", "application/grpc"}, {"te", "trailers"},
		} {
			_ = enc.WriteField(hpack.HeaderField{Name: kv[0], Value: kv[1]})
		}
		_ = fr.WriteHeaders(http2.HeadersFrameParam{StreamID: id, EndHeaders: true, BlockFragment: head.Bytes()})
		for _, b := range [][]byte{message(MaxMessage-1, 16000), make([]byte, 16000), make([]byte, 16000)} {
			if fr.WriteData(id, false, b) != nil {
				break
			}
		}
	}
	<-ended
	if r.held() != 0 {
		t.Errorf("%d are left", r.held())
	}
	j.mu.Lock()
	defer j.mu.Unlock()
	if len(j.refused) == 0 || j.refused[len(j.refused)-1] != CauseTooMuch {
		t.Errorf("noted: %q", j.refused)
	}
}
