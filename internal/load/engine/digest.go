package engine

import (
	"bufio"
	"context"
	"encoding/json"
	"fmt"
	"io"
	"net/url"
)

// maxDigestLine bounds one line of a gate's answer.
const maxDigestLine = 64 << 10

// TreeDigest has the gate before the engine say the digest of the volume that a container has at path, of the files as they are
// on the gate's host: none of them is sent. It may take as long as the gate reads on.
//
// Errors: what the gate says; what an engine without a gate, or with an older one, says of a path that it does not know.
func (e *Engine) TreeDigest(ctx context.Context, id, path string) (string, error) {
	what := "digest of " + path
	body, err := e.stream(ctx, what, "GET", gatePrefix+"v1/containers/"+id+"/digest", url.Values{"path": {path}}, nil, "", false)
	if err != nil {
		return "", err
	}
	defer body.Close()
	lines := bufio.NewScanner(body)
	lines.Buffer(nil, maxDigestLine)
	for lines.Scan() {
		var line struct{ Digest, Error string } // or how far it is
		switch err := json.Unmarshal(lines.Bytes(), &line); {
		case err != nil:
			return "", fmt.Errorf("%s: read the answer: %w", what, err)
		case line.Error != "":
			return "", fmt.Errorf("%s: the gate says: %s", what, line.Error)
		case line.Digest != "":
			return line.Digest, nil
		}
	}
	if err := lines.Err(); err != nil {
		return "", fmt.Errorf("%s: read the answer: %w", what, err)
	}
	return "", fmt.Errorf("%s: %w", what, io.ErrUnexpectedEOF)
}
