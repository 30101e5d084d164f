// Package api holds the JetStream API as clients see it: the JSON of requests and responses, the
// error table, request subjects, and the validation of stream and consumer configurations. It does
// no I/O, keeps no state and reads no clock; the jetstream engine and its state machines call it.
//
// Field names, encodings and error codes are those of nats-server 2.15. Durations are int64
// nanoseconds on the wire, times RFC 3339 with nanoseconds, message bodies base64.
package api
