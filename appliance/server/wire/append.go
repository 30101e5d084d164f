package wire

// Lines without arguments.
const (
	CRLF = "\r\n"
	OK   = "+OK\r\n"
	Ping = "PING\r\n"
	Pong = "PONG\r\n"
)

// AppendErr appends an -ERR line.
func AppendErr(dst []byte, text string) []byte {
	dst = append(dst, "-ERR '"...)
	dst = append(dst, text...)
	return append(dst, "'\r\n"...)
}

// AppendMsg appends the line before a message: MSG subject sid [reply] size, or HMSG subject sid
// [reply] hdr size when hdr is not nil. The digits of hdr are the size of the header block, those of
// size the size of header and payload. Header, payload and CR LF follow the line.
func AppendMsg(dst, subject, sid, reply, hdr, size []byte) []byte {
	if hdr != nil {
		dst = append(dst, 'H')
	}
	dst = append(dst, "MSG "...)
	dst = append(dst, subject...)
	dst = append(dst, ' ')
	dst = append(dst, sid...)
	dst = append(dst, ' ')
	if len(reply) > 0 {
		dst = append(dst, reply...)
		dst = append(dst, ' ')
	}
	if hdr != nil {
		dst = append(dst, hdr...)
		dst = append(dst, ' ')
	}
	dst = append(dst, size...)
	return append(dst, CRLF...)
}

// MsgLineFixed is the size of the line of AppendMsg at most, beside its arguments.
const MsgLineFixed = len("HMSG     \r\n")
