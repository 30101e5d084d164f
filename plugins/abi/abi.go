// Package abi holds the names, numbers and message layout of CPI 1, the interface between the host
// and a consumer plugin. It does no I/O; the host and the guest SDK import it. The normative text is
// plugins/ABI.md.
package abi

import "strconv"

// Module is the import module of CPI 1.
const Module = "cpi1"

// Names of the guest's exports.
const (
	ExportMemory     = "memory"
	ExportMarker     = "cpi_abi_1"
	ExportInitialize = "_initialize"
	ExportInit       = "cpi_init"
	ExportBuf        = "cpi_buf"
	ExportOnBatch    = "cpi_on_batch"
	ExportOnTick     = "cpi_on_tick"
)

// ManifestSection is the custom section in which a module may say what it wants.
const ManifestSection = "cpi.manifest"

// WholeBatch is the msg argument of an import call that belongs to no single message.
const WholeBatch = -1

// Revisions with a meaning of their own in kv_put and kv_delete.
const (
	RevisionAny    = -1 // write whatever is stored
	RevisionCreate = 0  // write only if the key has no value
)

// Code is the result of an import: a negative one says why nothing was done.
type Code int32

// Result codes. A result of 0 or more is success, and a length where the import returns one.
const (
	OK          Code = 0
	Invalid     Code = -1
	Denied      Code = -2
	NotFound    Code = -3
	Conflict    Code = -5
	Limit       Code = -6
	Unavailable Code = -7
	Unsupported Code = -8
)

// Error returns what the code means, so that a guest can return a Code as an error.
func (c Code) Error() string {
	switch c {
	case OK:
		return "ok"
	case Invalid:
		return "invalid argument"
	case Denied:
		return "denied"
	case NotFound:
		return "not found"
	case Conflict:
		return "revision conflict"
	case Limit:
		return "limit reached"
	case Unavailable:
		return "unavailable"
	case Unsupported:
		return "unsupported"
	}
	return "code " + strconv.Itoa(int(c))
}

// Settle says what becomes of a message.
type Settle int32

// Kinds of settlement.
const (
	Ack        Settle = 0 // done
	Nak        Settle = 1 // deliver again, after the delay in nanoseconds that the call gives
	Term       Settle = 2 // never deliver again
	DeadLetter Settle = 3 // copy to the dead-letter subject, then never deliver again
)

// String returns the kind's name as effects in JSON show it.
func (s Settle) String() string {
	switch s {
	case Ack:
		return "ack"
	case Nak:
		return "nak"
	case Term:
		return "term"
	case DeadLetter:
		return "dead-letter"
	}
	return "settle(" + strconv.Itoa(int(s)) + ")"
}

// Level is the importance of a log line.
type Level int32

// Log levels.
const (
	Debug Level = 0
	Info  Level = 1
	Warn  Level = 2
	Error Level = 3
)

// String returns the level's name.
func (l Level) String() string {
	switch l {
	case Debug:
		return "debug"
	case Info:
		return "info"
	case Warn:
		return "warn"
	}
	return "error"
}

// MetricKind says how the value of a metric call is meant.
type MetricKind int32

// Kinds of metric.
const (
	Counter MetricKind = 0 // add the value
	Gauge   MetricKind = 1 // set the value
)
