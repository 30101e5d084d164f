package service

import (
	"fmt"
	"strings"
)

const headerLine = "NATS/1.0\r\n"

// headerValue returns the first value of a field of a raw header block, or "".
func headerValue(block []byte, name string) string {
	for line := range strings.SplitSeq(string(block), "\r\n") {
		if field, value, ok := strings.Cut(line, ":"); ok && strings.EqualFold(field, name) {
			return strings.TrimSpace(value)
		}
	}
	return ""
}

// newHeader returns a block of base's fields, if there are any, and the given names and values.
func newHeader(base []byte, pairs ...string) []byte {
	b := []byte(headerLine)
	if len(base) > len(headerLine)+2 {
		b = append(b[:0], base[:len(base)-2]...)
	}
	for i := 0; i+1 < len(pairs); i += 2 {
		b = fmt.Appendf(b, "%s: %s\r\n", pairs[i], pairs[i+1])
	}
	return append(b, "\r\n"...)
}

// withoutServerFields returns the fields of a block whose names do not start with Nats-, because
// those would have an effect when the message is published again.
func withoutServerFields(block []byte) []byte {
	b := []byte(headerLine)
	_, fields, _ := strings.Cut(string(block), "\r\n")
	for line := range strings.SplitSeq(fields, "\r\n") {
		if line != "" && !strings.HasPrefix(strings.ToLower(line), "nats-") {
			b = append(append(b, line...), "\r\n"...)
		}
	}
	return append(b, "\r\n"...)
}
