package dockerapi

import (
	"mime"
	"net/http"
	"net/textproto"
	"strings"
)

// Headers that are passed on, beside Content-Type and those with a prefix of
// metaPrefixes. The daemon reads no others, so nothing else of the caller's reaches
// it: hop-by-hop headers least of all.
var passedHeaders = map[string]bool{
	"Accept":            true,
	"User-Agent":        true,
	"X-Registry-Auth":   true,
	"X-Registry-Config": true,
	"Traceparent":       true,
	"Tracestate":        true,
}

// metaPrefixes are X-Meta- (given to registries) and the headers by which a build
// session says what it offers.
var metaPrefixes = []string{"X-Meta-", "X-Docker-Expose-Session-"}

// singleHeaders may appear once: two parsers that take the first and the last of them
// would judge one thing and do another.
var singleHeaders = []string{
	"Authorization", "Connection", "Content-Encoding", "Content-Length", "Content-Type", "Expect", "Host",
	"Origin", "Sec-Websocket-Key", "Sec-Websocket-Version", "Te", "Trailer", "Transfer-Encoding", "Upgrade",
	"X-Registry-Auth", "X-Registry-Config",
}

const (
	jsonType = "application/json"
	tarType  = "application/x-tar"
)

// parseHeader checks a request's headers and returns those to pass on. hasBody says
// that a JSON body is there.
func parseHeader(r *Route, h http.Header, hasBody bool, opt Options) (http.Header, error) {
	for key := range h {
		if textproto.CanonicalMIMEHeaderKey(key) != key {
			return nil, badRequest(CodeDuplicateHeader, "", "a header's name is not in canonical form")
		}
	}
	for _, key := range singleHeaders {
		if len(h[key]) > 1 {
			return nil, badRequest(CodeDuplicateHeader, key, "the header appears twice")
		}
	}
	named, err := connectionHeaders(h)
	if err != nil {
		return nil, err
	}
	out := make(http.Header, 4)
	for key, values := range h {
		if named[key] || opt.DropRegistryAuth && strings.HasPrefix(key, "X-Registry-") {
			continue
		}
		if passedHeaders[key] || hasMetaPrefix(key) {
			out[key] = values[:len(values):len(values)]
		}
	}
	if err := checkContent(r, h, hasBody, out); err != nil {
		return nil, err
	}
	return out, nil
}

func hasMetaPrefix(key string) bool {
	for _, p := range metaPrefixes {
		if strings.HasPrefix(key, p) {
			return true
		}
	}
	return false
}

// connectionHeaders returns the headers that Connection names, and refuses one that
// names more than connection management.
func connectionHeaders(h http.Header) (map[string]bool, error) {
	named := map[string]bool{}
	for _, v := range h["Connection"] {
		for token := range strings.SplitSeq(v, ",") {
			key := textproto.CanonicalMIMEHeaderKey(textproto.TrimString(token))
			if key == "" {
				continue
			}
			if passedHeaders[key] || hasMetaPrefix(key) || strings.HasPrefix(key, "Content-") || key == "Host" ||
				key == "Transfer-Encoding" || key == "Authorization" {
				return nil, badRequest(CodeConnectionHeader, "Connection", "the header names %s", key)
			}
			named[key] = true
		}
	}
	return named, nil
}

// checkContent holds the content type to what the route takes. Forms are refused on
// every route: the daemon lets their fields override or fill in the query. What goes
// on is our own spelling.
func checkContent(r *Route, h http.Header, hasBody bool, out http.Header) error {
	ct := h.Get("Content-Type")
	media, params := "", map[string]string(nil)
	if _, there := h["Content-Type"]; there {
		var err error
		if media, params, err = mime.ParseMediaType(ct); err != nil {
			return badRequest(CodeContentType, "Content-Type", "the content type is malformed")
		}
	}
	if media == "application/x-www-form-urlencoded" || strings.HasPrefix(media, "multipart/") {
		return errorf(http.StatusUnsupportedMediaType, CodeContentType, "Content-Type", "forms are not taken: put parameters into the query")
	}
	encoding := h.Get("Content-Encoding")
	switch {
	case r.HasJSON() && hasBody:
		if media != jsonType || !onlyUTF8(params) {
			return errorf(http.StatusUnsupportedMediaType, CodeContentType, "Content-Type", "the content type must be application/json")
		}
		out["Content-Type"] = []string{jsonType}
	case r.HasStream():
		out["Content-Type"] = []string{tarType}
		if encoding != "" {
			switch encoding {
			case "identity", "gzip", "bzip2", "xz", "zstd":
				out["Content-Encoding"] = []string{encoding}
				return nil
			}
		}
	}
	if encoding != "" && encoding != "identity" {
		return errorf(http.StatusUnsupportedMediaType, CodeContentEncoding, "Content-Encoding", "the route takes no such encoding")
	}
	return nil
}

// onlyUTF8 says that a content type has no parameter but the one that says what JSON
// is anyway.
func onlyUTF8(params map[string]string) bool {
	for k, v := range params {
		if k != "charset" || !strings.EqualFold(v, "utf-8") {
			return false
		}
	}
	return true
}
