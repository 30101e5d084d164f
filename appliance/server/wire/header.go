package wire

import (
	"bytes"
	"strconv"
)

// HeaderLine starts every header block.
const HeaderLine = "NATS/1.0\r\n"

// Header returns the value of the first field named key (exact case) of a header block, without
// surrounding white space, or nil when there is none. The value points into hdr.
func Header(hdr []byte, key string) []byte {
	start, end := headerField(hdr, key)
	if start < 0 {
		return nil
	}
	value := hdr[start+len(key)+1 : end]
	for len(value) > 0 && (value[0] == ' ' || value[0] == '\t') {
		value = value[1:]
	}
	for n := len(value); n > 0 && (value[n-1] == ' ' || value[n-1] == '\t'); n-- {
		value = value[:n-1]
	}
	return value
}

// headerField returns where the line of the first field named key starts and where its CR LF is.
func headerField(hdr []byte, key string) (start, end int) {
	off := bytes.Index(hdr, []byte(CRLF))
	for off >= 0 {
		off += len(CRLF)
		line := hdr[off:]
		n := bytes.Index(line, []byte(CRLF))
		if n <= 0 {
			return -1, -1
		}
		if n > len(key) && line[len(key)] == ':' && string(line[:len(key)]) == key {
			return off, off + n
		}
		off += n
	}
	return -1, -1
}

// AppendHeader appends hdr with one more field; a nil hdr starts a block.
func AppendHeader(dst, hdr []byte, key, value string) []byte {
	if len(hdr) <= len(CRLF) {
		dst = append(dst, HeaderLine...)
	} else {
		dst = append(dst, hdr[:len(hdr)-len(CRLF)]...)
	}
	dst = append(dst, key...)
	dst = append(dst, ": "...)
	dst = append(dst, value...)
	return append(dst, "\r\n\r\n"...)
}

// AppendStatus appends a header block that holds a status line only, such as "NATS/1.0 404 No
// Messages".
func AppendStatus(dst []byte, code int, text string) []byte {
	dst = append(dst, HeaderLine[:len(HeaderLine)-len(CRLF)]...)
	dst = append(dst, ' ')
	dst = strconv.AppendInt(dst, int64(code), 10)
	if text != "" {
		dst = append(dst, ' ')
		dst = append(dst, text...)
	}
	return append(dst, "\r\n\r\n"...)
}

// AppendNoResponders appends the header block of the status 503 that answers a request to subject
// when no one is subscribed to it.
func AppendNoResponders(dst, subject []byte) []byte {
	dst = append(dst, "NATS/1.0 503\r\nNats-Subject: "...)
	dst = append(dst, subject...)
	return append(dst, "\r\n\r\n"...)
}

// Status returns the code of a header block's status line, or 0 when it has none.
func Status(hdr []byte) int {
	const prefix = "NATS/1.0 "
	if len(hdr) < len(prefix)+3 || string(hdr[:len(prefix)]) != prefix {
		return 0
	}
	return max(parseSize(hdr[len(prefix):len(prefix)+3]), 0)
}
