package dockerapi

import (
	"errors"
	"fmt"
	"net/http"
)

// Error is why a request was refused before any policy saw it.
type Error struct {
	// Status is the HTTP status to answer with.
	Status int
	// Code is the stable reason code, one of the Code constants.
	Code string
	// Msg says what is wrong, for the caller. It quotes no value of the request
	// but names of keys: values may be secrets.
	Msg string
	// Path is the JSON path ("HostConfig.Mounts[0].Source"), query key, header or
	// path variable that is at fault; "" if it is the request as a whole.
	Path string
}

// Error returns the message with the place.
func (e *Error) Error() string {
	if e.Path == "" {
		return e.Msg
	}
	return e.Path + ": " + e.Msg
}

// The reason codes. They appear in journals and metrics: never reuse one.
const (
	CodeNoRoute          = "no_route"          // no route of the API: denied by default
	CodeBadPath          = "bad_path"          // not absolute, or a byte that no name has
	CodeUncleanPath      = "unclean_path"      // "//", "." or ".." segments, trailing slash
	CodeEncodedPath      = "encoded_path"      // an escape that hides a plain character
	CodeBadVersion       = "bad_version"       // version prefix not /v1.24 to /v1.56
	CodeSlashInName      = "slash_in_name"     // a link alias, or a name that is none
	CodeQuerySyntax      = "query_syntax"      // ";" or a broken escape
	CodeDuplicateQuery   = "duplicate_query"   // a single-valued key twice
	CodeUnknownQuery     = "unknown_query"     // no API version knows the key here
	CodeBadValue         = "bad_value"         // a value outside what the daemon reads one way only
	CodeContentType      = "content_type"      // not what the route takes; forms
	CodeContentEncoding  = "content_encoding"  // an encoding that the route does not take
	CodeDuplicateHeader  = "duplicate_header"  // a header with weight twice
	CodeConnectionHeader = "connection_header" // Connection names a header with weight
	CodeUnexpectedBody   = "unexpected_body"   // a body where the route takes none
	CodeMissingBody      = "missing_body"      // no body where the route needs one
	CodeBodyTooLarge     = "body_too_large"    // over Limits.BodyBytes
	CodeBadJSON          = "bad_json"          // not JSON
	CodeTrailingData     = "trailing_data"     // something after the JSON value
	CodeBadUTF8          = "bad_utf8"          // invalid UTF-8, lone surrogates, NUL, byte order mark
	CodeTooDeep          = "too_deep"          // over Limits.Depth
	CodeTooManyKeys      = "too_many_keys"     // over Limits.Keys
	CodeDuplicateKey     = "duplicate_key"     // a JSON key twice
	CodeWrongCase        = "wrong_case"        // a JSON key that folds to a known one
	CodeUnknownField     = "unknown_field"     // a JSON key that no API version knows here
	CodeWrongType        = "wrong_type"        // a JSON value of another type than the field's
	CodeBadNumber        = "bad_number"        // a number out of the field's range
	CodeLabelReserved    = "label_reserved"    // a label in the gate's own name space
	CodeCannotRewrite    = "cannot_rewrite"    // an obligation or a resolved name does not fit
)

// codeOf returns the reason code of an error of this package.
func codeOf(err error) string {
	if e, ok := errors.AsType[*Error](err); ok {
		return e.Code
	}
	return ""
}

func errorf(status int, code, path, format string, args ...any) *Error {
	return &Error{Status: status, Code: code, Path: path, Msg: fmt.Sprintf(format, args...)}
}

func badRequest(code, path, format string, args ...any) *Error {
	return errorf(http.StatusBadRequest, code, path, format, args...)
}

// Errors of Match are made once: matching does not allocate, denials included.
var (
	errNoRoute     = &Error{Status: http.StatusNotFound, Code: CodeNoRoute, Msg: "no such endpoint of the Docker API"}
	errBadPath     = &Error{Status: http.StatusBadRequest, Code: CodeBadPath, Msg: "the path has a character that no name has"}
	errUncleanPath = &Error{Status: http.StatusBadRequest, Code: CodeUncleanPath, Msg: "the path is not clean: empty, '.' or '..' segments"}
	errEncodedPath = &Error{Status: http.StatusBadRequest, Code: CodeEncodedPath, Msg: "the path has an escape for a character that needs none or may not appear"}
	errBadVersion  = &Error{Status: http.StatusBadRequest, Code: CodeBadVersion, Msg: "the API version must be written /v1.24 to /v1.56 or left out"}
	errSlashInName = &Error{Status: http.StatusBadRequest, Code: CodeSlashInName, Msg: "the name has a slash: link aliases are not supported, use the container's own name or id"}
)
