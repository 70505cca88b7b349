package proxy

import (
	"encoding/binary"
	"time"
)

// wayAround names what works in place of BuildKit's own API.
const wayAround = "build with DOCKER_BUILDKIT=0, or with a builder container (docker buildx create --driver docker-container)"

const (
	msgHTTP2    = "belay: BuildKit's gRPC API needs the action build.grpc, which no policy gives: " + wayAround
	msgBuildKit = "belay: builds with BuildKit need the action build.session, which no policy gives: " + wayAround
	msgSession  = "belay: the build's session is not one that the caller has open through the gate"
	msgFrontend = "belay: policies limit frontends, and a Dockerfile that comes with the request, or from elsewhere, can name any: " +
		"build from a directory (docker build, docker buildx build), or with DOCKER_BUILDKIT=0"
)

// HTTP/2 frames, RFC 9113, 6.5 and 6.8.
const (
	frameSettings = 0x4
	frameGoAway   = 0x7
	errHTTP11     = 0xd // HTTP_1_1_REQUIRED
)

// goAway tells a client that speaks HTTP/2 why it is not served, in its own language: an
// answer in HTTP/1.1 would read to it as garbage.
func (c *conn) goAway(msg string) {
	out := appendFrame(nil, frameSettings, nil)
	payload := binary.BigEndian.AppendUint32(nil, 0) // no stream was served
	payload = binary.BigEndian.AppendUint32(payload, errHTTP11)
	out = appendFrame(out, frameGoAway, append(payload, msg...))
	_ = c.nc.SetWriteDeadline(time.Now().Add(answerTime))
	_, _ = c.nc.Write(out)
	c.linger()
}

func appendFrame(dst []byte, kind byte, payload []byte) []byte {
	n := len(payload)
	dst = append(dst, byte(n>>16), byte(n>>8), byte(n), kind, 0, 0, 0, 0, 0)
	return append(dst, payload...)
}
