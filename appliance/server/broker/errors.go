package broker

import (
	"errors"

	"millrace/appliance/server/wire"
)

// ErrClosed is returned when the broker has been shut down or is in lame duck mode.
var ErrClosed = errors.New("broker: closed")

// closeError ends a connection with its own reason.
type closeError struct {
	protocol wire.ProtocolError
	reason   closeReason
}

func (e *closeError) Error() string { return e.protocol.Error() }

func newCloseError(reason closeReason, text, detail string) *closeError {
	return &closeError{wire.ProtocolError{Text: text, Detail: detail, Close: true}, reason}
}

// errAuthorization is returned for an operation before CONNECT when authentication is required.
var errAuthorization = newCloseError(closedAuth, wire.TextAuthViolation, "no CONNECT")
