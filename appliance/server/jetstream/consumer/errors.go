package consumer

import "errors"

// ErrFormat is returned when an entry or a snapshot does not decode: an unknown version or
// operation, a truncated number, a count above its bound.
var ErrFormat = errors.New("consumer: malformed entry")

// ErrOrder is returned when an operation does not fit the state that it is applied to: a delivery
// at or below the last one, a redelivery of a message that is not pending.
var ErrOrder = errors.New("consumer: operation out of order")
