// Package wire holds the NATS protocols of clients and of routes: parsing what they send, appending
// what they are sent, the INFO and CONNECT documents, error texts and message headers. It is pure;
// package broker does the reading and writing.
package wire

import "bytes"

// Kind is a protocol operation.
type Kind uint8

// Operations a client may send.
const (
	OpNone Kind = iota
	OpConnect
	OpPub
	OpHPub
	OpSub
	OpUnsub
	OpPing
	OpPong
	OpInfo
	OpOK
	OpErr
)

// Op is one parsed operation. All slices point into the parsed buffer.
type Op struct {
	Kind    Kind
	Arg     []byte // OpConnect and OpInfo: the JSON; OpErr: the text
	Subject []byte // OpPub, OpHPub, OpSub
	Reply   []byte // OpPub, OpHPub; nil: none
	Queue   []byte // OpSub; nil: none
	SID     []byte // OpSub, OpUnsub
	Max     int    // OpUnsub: messages after which to unsubscribe; 0 or less: now

	Header  []byte // OpHPub: the header block
	Data    []byte // OpPub, OpHPub: the payload without the header
	Body    []byte // OpPub, OpHPub: header, payload and the final CR LF
	HdrText []byte // OpHPub: size of Header in digits, as sent
	Size    int    // OpPub, OpHPub: bytes of Header and Data
	SizText []byte // OpPub, OpHPub: Size in digits, as sent
}

// Parser splits a byte stream into operations. It keeps no bytes: the caller holds a buffer that
// starts at an operation, and offers it again with more bytes when it holds only a part of one.
type Parser struct {
	MaxControlLine int // bytes of the arguments of a line
	MaxPayload     int // bytes of a message with its header; negative: no limit

	need int
}

// Need returns the size in bytes that the incomplete operation of the last Parse has at least, or 0
// when it is not known yet.
func (p *Parser) Need() int { return p.need }

// Parse parses the first operation of buf into op and returns its size, or 0 when buf holds only a
// part of it. An error is a *ProtocolError; the stream cannot be parsed further.
func (p *Parser) Parse(buf []byte, op *Op) (int, error) {
	p.need = 0
	if len(buf) == 0 {
		return 0, nil
	}
	switch buf[0] {
	case 'P', 'p':
		if len(buf) == 1 {
			return 0, nil
		}
		switch buf[1] {
		case 'U', 'u':
			return p.parsePub(buf, op)
		case 'I', 'i':
			return p.parseBare(buf, "PING", OpPing, op)
		case 'O', 'o':
			return p.parseBare(buf, "PONG", OpPong, op)
		}
		return 0, ErrUnknownOp
	case 'H', 'h':
		return p.parsePub(buf, op)
	case 'S', 's':
		return p.parseSub(buf, op)
	case 'U', 'u':
		return p.parseUnsub(buf, op)
	case 'C', 'c':
		return p.parseArg(buf, "CONNECT", OpConnect, op)
	case 'I', 'i':
		return p.parseArg(buf, "INFO", OpInfo, op)
	case '-':
		return p.parseArg(buf, "-ERR", OpErr, op)
	case '+':
		return p.parseBare(buf, "+OK", OpOK, op)
	}
	return 0, ErrUnknownOp
}

// hasVerb reports whether buf starts with verb in any case; a part of it is enough when buf ends.
func hasVerb(buf []byte, verb string) bool {
	n := min(len(buf), len(verb))
	for i := range n {
		c := buf[i]
		if 'a' <= c && c <= 'z' {
			c -= 'a' - 'A'
		}
		if c != verb[i] {
			return false
		}
	}
	return true
}

// line finds the arguments of the line in buf that starts with verb and returns them with the size
// of the line, 0 when it is not complete.
func (p *Parser) line(buf []byte, verb string, spaced bool) (arg []byte, n int, err error) {
	if !hasVerb(buf, verb) {
		return nil, 0, ErrUnknownOp
	}
	start := len(verb)
	if len(buf) <= start {
		return nil, 0, nil
	}
	if spaced && buf[start] != ' ' && buf[start] != '\t' {
		return nil, 0, ErrUnknownOp
	}
	for start < len(buf) && (buf[start] == ' ' || buf[start] == '\t') {
		start++
	}
	end := bytes.IndexByte(buf[start:], '\n')
	if end < 0 {
		if len(buf)-start > p.MaxControlLine {
			return nil, 0, ErrMaxControlLine
		}
		return nil, 0, nil
	}
	arg = buf[start : start+end]
	if end > 0 && arg[end-1] == '\r' {
		arg = arg[:end-1]
	}
	if len(arg) > p.MaxControlLine {
		return nil, 0, ErrMaxControlLine
	}
	return arg, start + end + 1, nil
}

// parseBare parses an operation without arguments; what follows the verb on its line is ignored.
func (p *Parser) parseBare(buf []byte, verb string, kind Kind, op *Op) (int, error) {
	if !hasVerb(buf, verb) {
		return 0, ErrUnknownOp
	}
	end := bytes.IndexByte(buf, '\n')
	if end < 0 {
		if len(buf) > len(verb)+p.MaxControlLine {
			return 0, ErrMaxControlLine
		}
		return 0, nil
	}
	*op = Op{Kind: kind}
	return end + 1, nil
}

// parseArg parses an operation whose argument is the rest of its line.
func (p *Parser) parseArg(buf []byte, verb string, kind Kind, op *Op) (int, error) {
	arg, n, err := p.line(buf, verb, kind == OpErr)
	if n > 0 {
		*op = Op{Kind: kind, Arg: arg}
	}
	return n, err
}

func (p *Parser) parseSub(buf []byte, op *Op) (int, error) {
	arg, n, err := p.line(buf, "SUB", true)
	if n == 0 {
		return 0, err
	}
	var args [4][]byte
	*op = Op{Kind: OpSub}
	switch splitArgs(arg, args[:]) {
	case 2:
		op.Subject, op.SID = args[0], args[1]
	case 3:
		op.Subject, op.Queue, op.SID = args[0], args[1], args[2]
	default:
		return 0, ErrBadSub
	}
	return n, nil
}

func (p *Parser) parseUnsub(buf []byte, op *Op) (int, error) {
	arg, n, err := p.line(buf, "UNSUB", true)
	if n == 0 {
		return 0, err
	}
	var args [3][]byte
	*op = Op{Kind: OpUnsub}
	switch splitArgs(arg, args[:]) {
	case 1:
	case 2:
		op.Max = parseSize(args[1])
	default:
		return 0, ErrBadUnsub
	}
	op.SID = args[0]
	return n, nil
}

// parsePub parses PUB and HPUB. It is written out because every message passes here.
func (p *Parser) parsePub(buf []byte, op *Op) (int, error) {
	verb, kind := "PUB", OpPub
	if buf[0]|0x20 == 'h' {
		verb, kind = "HPUB", OpHPub
	}
	arg, n, err := p.line(buf, verb, true)
	if n == 0 {
		return 0, err
	}
	var args pubArgs
	if !args.splitFast(arg, kind == OpHPub) && !args.split(arg, kind == OpHPub) {
		return 0, ErrBadPub
	}
	op.Kind, op.Subject, op.Reply, op.HdrText, op.SizText = kind, args.subject, args.reply, args.hdr, args.size
	hdr := 0
	size := parseSize(args.size)
	if kind == OpHPub {
		hdr = parseSize(args.hdr)
		if hdr < 0 || hdr > size {
			return 0, ErrBadPub
		}
	}
	if size < 0 {
		return 0, ErrBadPub
	}
	if p.MaxPayload >= 0 && size > p.MaxPayload {
		return 0, ErrMaxPayload
	}
	return p.payload(buf, n, hdr, size, op)
}

// payload takes the payload of size bytes, the first hdr of them the header, that begins at buf[n]. It
// returns the size of the whole operation.
func (p *Parser) payload(buf []byte, n, hdr, size int, op *Op) (int, error) {
	end := n + size
	if len(buf) < end+2 {
		if len(buf) > end && buf[end] != '\r' {
			return 0, ErrUnknownOp
		}
		p.need = end + 2
		return 0, nil
	}
	if buf[end] != '\r' || buf[end+1] != '\n' {
		return 0, ErrUnknownOp
	}
	op.Size = size
	op.Body = buf[n : end+2]
	op.Header = nil
	if hdr > 0 {
		op.Header = buf[n : n+hdr : n+hdr]
	}
	op.Data = buf[n+hdr : end : end]
	return end + 2, nil
}

// pubArgs are the arguments of PUB and HPUB.
type pubArgs struct {
	subject, reply []byte // reply nil: none
	hdr, size      []byte // hdr nil for PUB
}

// splitFast splits arguments with single spaces between them, which is what clients send. It reports
// false for anything else.
func (a *pubArgs) splitFast(arg []byte, header bool) bool {
	i, j := bytes.IndexByte(arg, ' '), bytes.LastIndexByte(arg, ' ')
	if i <= 0 || bytes.IndexByte(arg, '\t') >= 0 {
		return false
	}
	a.subject, a.size = arg[:i], arg[j+1:]
	if header {
		k := j
		if j = bytes.LastIndexByte(arg[:k], ' '); j < 0 {
			return false
		}
		a.hdr = arg[j+1 : k]
	}
	if j > i {
		a.reply = arg[i+1 : j]
		if len(a.reply) == 0 || bytes.IndexByte(a.reply, ' ') >= 0 {
			return false
		}
	}
	return len(a.size) > 0 && (len(a.hdr) > 0 || !header)
}

// split splits any arguments.
func (a *pubArgs) split(arg []byte, header bool) bool {
	var args [5][]byte
	n, sizes := splitArgs(arg, args[:]), 1
	*a = pubArgs{subject: args[0]}
	if header {
		sizes = 2
	}
	switch n - sizes {
	case 1:
	case 2:
		a.reply = args[1]
	default:
		return false
	}
	a.size = args[n-1]
	if header {
		a.hdr = args[n-2]
	}
	return true
}

// splitArgs stores the fields of arg in args and returns their number; it stops when args is full.
func splitArgs(arg []byte, args [][]byte) int {
	n, start := 0, -1
	for i, c := range arg {
		if c == ' ' || c == '\t' {
			if start >= 0 {
				args[n] = arg[start:i]
				start = -1
				if n++; n == len(args) {
					return n
				}
			}
		} else if start < 0 {
			start = i
		}
	}
	if start >= 0 {
		args[n] = arg[start:]
		n++
	}
	return n
}

// parseSize returns the number that d spells with one to nine digits, or -1.
func parseSize(d []byte) int {
	if len(d) == 0 || len(d) > 9 {
		return -1
	}
	n := 0
	for _, c := range d {
		if c < '0' || c > '9' {
			return -1
		}
		n = n*10 + int(c-'0')
	}
	return n
}
