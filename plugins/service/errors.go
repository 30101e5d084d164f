package service

import (
	"errors"
	"fmt"

	"millrace/plugins"
)

var (
	// ErrNotFound is returned by the interfaces of space.go for what does not exist.
	ErrNotFound = errors.New("service: not found")

	// ErrWrongLastSequence is returned by Store.Publish, inside of a *PublishError, when the
	// expectation in a Nats-Expected-Last-Subject-Sequence header does not hold.
	ErrWrongLastSequence = errors.New("service: wrong last sequence")

	// ErrAway is returned by Consumers.Feed and by a Feed when another node leads the consumer, or
	// none does.
	ErrAway = errors.New("service: consumer is led by another node")

	// ErrUnavailable is returned by Store.Publish, inside of a *PublishError, when what cannot be
	// stored now may be later. It is nobody's fault, so it costs no delivery of a message.
	ErrUnavailable = errors.New("service: not available now")

	// errPaused ends a binding's run after its circuit breaker has opened.
	errPaused = errors.New("service: paused")
)

// PublishError is returned by Store.Publish.
type PublishError struct {
	Index int // of the first message that was not stored
	Err   error
}

// Error implements error.
func (e *PublishError) Error() string { return e.Err.Error() }

// Unwrap returns the reason.
func (e *PublishError) Unwrap() error { return e.Err }

// Error is the error object of an API response.
type Error struct {
	Code        int    `json:"code"`     // as in HTTP
	ErrCode     int    `json:"err_code"` // one of the Code constants, or a JetStream error code
	Description string `json:"description"`
}

// Error implements error.
func (e *Error) Error() string { return e.Description }

// Error codes of the plugin API. Errors of streams and consumers keep their JetStream codes.
const (
	CodeBadRequest       = 20001
	CodePluginNotFound   = 20002
	CodeModuleNotFound   = 20003
	CodeModuleRefused    = 20004
	CodeBindingNotFound  = 20005
	CodeLoop             = 20006
	CodePluginInUse      = 20007
	CodeConsumerInUse    = 20008
	CodePluginNotStarted = 20009
	CodeBusy             = 20010
	CodeInternal         = 20011
	CodeBucketNotFound   = 20012
	CodeStreamNotFound   = 10059 // JetStream's
)

func badRequest(format string, args ...any) *Error {
	return &Error{400, CodeBadRequest, fmt.Sprintf(format, args...)}
}

func pluginNotFound(name string) *Error {
	return &Error{404, CodePluginNotFound, fmt.Sprintf("plugin %q not found", name)}
}

// asError makes the error object of any error.
func asError(err error) *Error {
	if e, ok := errors.AsType[*Error](err); ok {
		return e
	}
	switch {
	case errors.Is(err, plugins.ErrInvalid):
		return &Error{400, CodeModuleRefused, err.Error()}
	case errors.Is(err, plugins.ErrRefused):
		return &Error{400, CodePluginNotStarted, err.Error()}
	}
	if _, ok := errors.AsType[*plugins.TrapError](err); ok {
		return &Error{400, CodePluginNotStarted, err.Error()}
	}
	return &Error{500, CodeInternal, err.Error()}
}
