package control

import (
	"context"
	"errors"
	"net/http"

	"github.com/belay-project/belay/internal/policy"
)

// What an [Agent] wraps so that the answer has a fitting status, and what a caller
// of [Client] branches on.
var (
	ErrNotFound  = errors.New("no such container")
	ErrAmbiguous = errors.New("more than one container matches")
)

// ErrNotRunning is returned by [Client] when nothing answers on the socket.
var ErrNotRunning = errors.New("the agent is not running")

// errTooMany refuses a request beyond the rate of its share.
var errTooMany = &Error{Status: http.StatusTooManyRequests, Message: "too many requests: wait some seconds"}

// ErrInUse is returned by [Listen] when a live agent holds the socket.
var ErrInUse = errors.New("another agent is running")

// Error is the agent's answer to a request that it refused or could not fulfil.
// [errors.Is] finds the sentinels of this package in it.
type Error struct {
	Status  int    // of HTTP
	Message string // may have several lines, and text that a container chose
}

// Error returns the message as the agent sent it.
func (e *Error) Error() string { return e.Message }

// Is makes the sentinels of this package work on both sides of the socket.
func (e *Error) Is(target error) bool {
	switch target {
	case ErrForbidden:
		return e.Status == http.StatusForbidden
	case ErrNoPolicy:
		return e.Status == http.StatusNotFound
	case ErrChanged:
		return e.Status == http.StatusPreconditionFailed
	case ErrRefused:
		return e.Status == http.StatusUnprocessableEntity
	}
	return target == ErrNotFound && e.Status == http.StatusNotFound ||
		target == ErrAmbiguous && e.Status == http.StatusConflict
}

// statusOf returns the HTTP status that tells what kind of error err is.
func statusOf(err error) int {
	var (
		known  *Error
		policy policy.Errors
	)
	switch {
	case errors.As(err, &known):
		return known.Status
	case errors.Is(err, ErrNotFound):
		return http.StatusNotFound
	case errors.Is(err, ErrAmbiguous):
		return http.StatusConflict
	case errors.Is(err, ErrForbidden):
		return http.StatusForbidden
	case errors.Is(err, ErrNoPolicy):
		return http.StatusNotFound
	case errors.Is(err, ErrChanged):
		return http.StatusPreconditionFailed
	case errors.As(err, &policy), errors.Is(err, ErrRefused):
		return http.StatusUnprocessableEntity
	case errors.Is(err, context.DeadlineExceeded):
		return http.StatusGatewayTimeout
	case errors.Is(err, context.Canceled):
		return http.StatusServiceUnavailable
	}
	return http.StatusInternalServerError
}
