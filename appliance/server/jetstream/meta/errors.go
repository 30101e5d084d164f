package meta

import "errors"

var (
	// ErrVersion is returned for an entry or a snapshot of a version that is not known here.
	ErrVersion = errors.New("meta: unknown version")
	// ErrCorrupt is returned for bytes that are no entry or no snapshot.
	ErrCorrupt = errors.New("meta: corrupt encoding")
	// ErrInvalidEntry is returned for an entry that lacks a field or has one too many.
	ErrInvalidEntry = errors.New("meta: invalid entry")
)
