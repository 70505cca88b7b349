package authz

import (
	"bytes"
	"crypto/x509"
	"encoding/base64"
	"encoding/json"
	"encoding/pem"
	"errors"
	"fmt"
	"io"
	"net/http"
	"net/textproto"
	"strings"
	"unicode/utf8"
)

const (
	maxHeaders      = 256
	maxCertificates = 16
	// maxMethod is longer than any method of the API.
	maxMethod = 32
)

// question is what the daemon asks about one request.
type question struct {
	user   string
	method string
	uri    string // what follows the method in the request line, as it came
	// body is nil if the daemon showed none: there was none, or the daemon does not show
	// bodies of that type, length or endpoint.
	body []byte
	// header has the last value of each of the request's headers; the daemon leaves
	// out those with credentials.
	header map[string]string
	certs  []*x509.Certificate // leaf first
	// unknown counts fields that no daemon known to us sends.
	unknown int
}

// fields are those that daemons send; see authorization.Request of moby. Those of answers
// are not read.
var fields = []string{
	"User", "UserAuthNMethod", "RequestMethod", "RequestUri", "RequestBody", "RequestHeaders", "RequestPeerCertificates",
	"ResponseStatusCode", "ResponseBody", "ResponseHeaders",
}

// readQuestion reads a question strictly. The daemon writes it, but most of what is in it
// was chosen by who calls the daemon. A field that is not known is left out and counted: a
// newer daemon may say more. One that is known, in another case or twice, is an error.
func readQuestion(raw []byte) (question, error) {
	var q question
	if !utf8.Valid(raw) {
		return q, errors.New("not UTF-8")
	}
	dec := json.NewDecoder(bytes.NewReader(raw))
	seen := map[string]bool{}
	err := eachField(dec, func(key string) error {
		if seen[key] {
			return fmt.Errorf("field %.40q appears twice", key)
		}
		seen[key] = true
		var value json.RawMessage
		if err := dec.Decode(&value); err != nil {
			return fmt.Errorf("field %.40q: %w", key, err)
		}
		if err := q.set(key, value); err != nil {
			return fmt.Errorf("field %.40q: %w", key, err)
		}
		return nil
	})
	if err != nil {
		return question{}, err
	}
	if _, err := dec.Token(); !errors.Is(err, io.EOF) {
		return question{}, errors.New("something follows the question")
	}
	if q.method == "" || q.uri == "" {
		return question{}, errors.New("no method or no path")
	}
	return q, nil
}

// eachField calls f at each value of the object that is next.
func eachField(dec *json.Decoder, f func(key string) error) error {
	if t, err := dec.Token(); err != nil {
		return err
	} else if t != json.Delim('{') {
		return errors.New("not an object")
	}
	for dec.More() {
		t, err := dec.Token()
		if err != nil {
			return err
		}
		key, ok := t.(string)
		if !ok {
			return errors.New("a key is no text")
		}
		if err := f(key); err != nil {
			return err
		}
	}
	_, err := dec.Token()
	return err
}

func (q *question) set(key string, value json.RawMessage) (err error) {
	if string(value) == "null" {
		return errors.New("it is null")
	}
	switch key {
	case "User":
		q.user, err = text(value)
	case "RequestMethod":
		if q.method, err = text(value); err == nil && len(q.method) > maxMethod {
			err = errors.New("it is too long")
		}
	case "RequestUri":
		q.uri, err = text(value)
	case "RequestBody":
		q.body, err = encoded(value)
	case "RequestHeaders":
		q.header, err = readHeaders(value)
	case "RequestPeerCertificates":
		q.certs, err = readCertificates(value)
	case "UserAuthNMethod", "ResponseStatusCode", "ResponseBody", "ResponseHeaders":
	default:
		for _, f := range fields {
			if strings.EqualFold(f, key) {
				return errors.New("it is written in another way than daemons do")
			}
		}
		q.unknown++
	}
	return err
}

func text(value json.RawMessage) (string, error) {
	var s string
	if err := json.Unmarshal(value, &s); err != nil {
		return "", errors.New("not a text") // which the error would quote
	}
	return s, nil
}

func encoded(value json.RawMessage) ([]byte, error) {
	s, err := text(value)
	if err != nil {
		return nil, err
	}
	b, err := base64.StdEncoding.Strict().DecodeString(s)
	if err != nil || strings.ContainsAny(s, "\r\n") {
		return nil, errors.New("not base64")
	}
	return b, nil
}

func readHeaders(value json.RawMessage) (map[string]string, error) {
	dec := json.NewDecoder(bytes.NewReader(value))
	h := map[string]string{}
	err := eachField(dec, func(key string) error {
		t, err := dec.Token()
		if err != nil {
			return err
		}
		v, ok := t.(string)
		if !ok {
			return errors.New("a header is no text")
		}
		key = textproto.CanonicalMIMEHeaderKey(key)
		if _, ok := h[key]; ok {
			return fmt.Errorf("header %.40q appears twice", key)
		}
		if len(h) >= maxHeaders {
			return errors.New("too many headers")
		}
		h[key] = v
		return nil
	})
	return h, err
}

func readCertificates(value json.RawMessage) ([]*x509.Certificate, error) {
	var list []json.RawMessage
	if err := json.Unmarshal(value, &list); err != nil {
		return nil, errors.New("not a list")
	}
	if len(list) > maxCertificates {
		return nil, errors.New("too many certificates")
	}
	var out []*x509.Certificate
	for _, v := range list {
		b, err := encoded(v)
		if err != nil {
			return nil, err
		}
		block, rest := pem.Decode(b)
		if block == nil || block.Type != "CERTIFICATE" || len(bytes.TrimSpace(rest)) > 0 {
			return nil, errors.New("not one certificate")
		}
		c, err := x509.ParseCertificate(block.Bytes)
		if err != nil {
			return nil, fmt.Errorf("a certificate: %w", err)
		}
		out = append(out, c)
	}
	return out, nil
}

// split returns the path and the query of the request's target.
func (q *question) split() (path, query string) {
	path, query, _ = strings.Cut(q.uri, "?")
	return path, query
}

// bodiless tells whether there can be no body that the daemon would read. That it showed
// none proves nothing: daemons hide bodies by their content type (of several headers they
// go by the first, and show us the last: B15, C7), by their length (A2), where the length
// is not said (A1), and by what the target ends in.
func (q *question) bodiless() bool {
	switch q.method {
	case http.MethodGet, http.MethodHead, http.MethodDelete, http.MethodOptions:
		return true // no endpoint reads one
	}
	// The daemon's HTTP server takes this header away from a chunked request.
	return len(q.body) == 0 && q.header["Content-Length"] == "0"
}
