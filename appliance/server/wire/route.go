package wire

import (
	"bytes"
	"strconv"
)

// Operations of a route. CONNECT, INFO, PING, PONG, +OK and -ERR are those of clients.
const (
	OpRSub    Kind = iota + 32 // RS+: interest begins, or has a new weight
	OpRUnsub                   // RS-: interest ends
	OpLSub                     // LS+: interest of a leaf cluster
	OpLUnsub                   // LS-
	OpRMsg                     // RMSG, HMSG, LMSG: a message
	OpAccount                  // A+, A-: means something to gateways only
)

// RouteOp is one parsed operation of a route. All slices point into the parsed buffer, but for Queues
// itself, which is good until the next Parse.
type RouteOp struct {
	Op
	Account []byte
	Origin  []byte   // OpLSub, OpLUnsub and LMSG: the leaf cluster
	Weight  int      // OpRSub, OpLSub of a queue group: number of its members
	Queues  [][]byte // OpRMsg: the queue groups that get the message; the receiver picks a member of each
}

// RouteParser splits the byte stream of a route into operations, as Parser does that of a client.
type RouteParser struct {
	Parser
	args [][]byte
}

// Parse parses the first operation of buf into op and returns its size, or 0 when buf holds only a
// part of it. An error is a *ProtocolError; the stream cannot be parsed further.
func (p *RouteParser) Parse(buf []byte, op *RouteOp) (int, error) {
	p.need = 0
	if len(buf) < 2 {
		return 0, nil
	}
	second := buf[1] | 0x20
	switch buf[0] {
	case 'R', 'r':
		if second == 'm' {
			return p.parseMsg(buf, "RMSG", 1, op)
		}
		return p.parseInterest(buf, "RS+", "RS-", op)
	case 'H', 'h':
		return p.parseMsg(buf, "HMSG", 2, op)
	case 'L', 'l':
		if second == 'm' {
			return p.parseMsg(buf, "LMSG", 2, op)
		}
		return p.parseInterest(buf, "LS+", "LS-", op)
	case 'P', 'p':
		if second == 'i' {
			return p.parseBare(buf, "PING", OpPing, &op.Op)
		}
		return p.parseBare(buf, "PONG", OpPong, &op.Op)
	case 'C', 'c':
		return p.parseArg(buf, "CONNECT", OpConnect, &op.Op)
	case 'I', 'i':
		return p.parseArg(buf, "INFO", OpInfo, &op.Op)
	case '-':
		return p.parseArg(buf, "-ERR", OpErr, &op.Op)
	case '+':
		return p.parseBare(buf, "+OK", OpOK, &op.Op)
	case 'A', 'a':
		if second != '+' && second != '-' {
			return 0, ErrUnknownOp
		}
		return p.parseBare(buf, string([]byte{'A', buf[1]}), OpAccount, &op.Op)
	}
	return 0, ErrUnknownOp
}

// parseInterest parses RS+, RS-, LS+ and LS-; plus and minus are the two verbs of the kind.
func (p *RouteParser) parseInterest(buf []byte, plus, minus string, op *RouteOp) (int, error) {
	if len(buf) < len(plus) {
		if !hasVerb(buf, plus) {
			return 0, ErrUnknownOp
		}
		return 0, nil
	}
	verb, leaf, ends := plus, plus[0] == 'L', false
	if buf[len(plus)-1] == '-' {
		verb, ends = minus, true
	}
	arg, n, err := p.line(buf, verb, true)
	if n == 0 {
		return 0, err
	}
	args := p.split(arg)
	*op = RouteOp{Op: Op{Kind: OpRSub}}
	if leaf {
		op.Kind = OpLSub
		if len(args) == 0 {
			return 0, ErrBadRouteSub
		}
		op.Origin, args = args[0], args[1:]
	}
	full := 4 // account, subject, queue, weight
	if ends {
		op.Kind, full = op.Kind+(OpRUnsub-OpRSub), 3
	}
	if len(args) != 2 && len(args) != full {
		return 0, ErrBadRouteSub
	}
	op.Account, op.Subject = args[0], args[1]
	if len(args) > 2 {
		op.Queue = args[2]
		if !ends {
			// Like nats-server, a weight that is none counts as one member.
			op.Weight = max(parseSize(args[3]), 1)
		}
	}
	return n, nil
}

// parseMsg parses a message with the given number of sizes in its line: that of the payload, and
// before it that of the header.
func (p *RouteParser) parseMsg(buf []byte, verb string, sizes int, op *RouteOp) (int, error) {
	arg, n, err := p.line(buf, verb, true)
	if n == 0 {
		return 0, err
	}
	args := p.split(arg)
	op.Kind, op.Origin, op.Reply, op.Queues, op.HdrText = OpRMsg, nil, nil, nil, nil
	if verb[0] == 'L' && len(args) > 0 {
		op.Origin, args = args[0], args[1:]
	}
	last := len(args) - sizes
	switch {
	case last < 2:
		return 0, ErrBadRouteMsg
	case last == 2:
	case last == 3:
		op.Reply = args[2]
	case string(args[2]) == "+":
		op.Reply, op.Queues = args[3], args[4:last]
	case string(args[2]) == "|":
		op.Queues = args[3:last]
	default:
		return 0, ErrBadRouteMsg
	}
	op.Account, op.Subject, op.SizText = args[0], args[1], args[len(args)-1]
	hdr, size := 0, parseSize(op.SizText)
	if sizes == 2 {
		op.HdrText = args[last]
		hdr = parseSize(op.HdrText)
	}
	if hdr < 0 || hdr > size {
		return 0, ErrBadRouteMsg
	}
	if hdr == 0 {
		op.HdrText = nil
	}
	if p.MaxPayload >= 0 && size > p.MaxPayload {
		return 0, ErrMaxPayload
	}
	return p.payload(buf, n, hdr, size, &op.Op)
}

// split returns the fields of arg, in memory that the next call takes again.
func (p *RouteParser) split(arg []byte) [][]byte {
	args := p.args[:0]
	for len(arg) > 0 {
		i := bytes.IndexByte(arg, ' ')
		if i < 0 {
			i = len(arg)
		}
		// A tab separates too, but no server sends one.
		for field := arg[:i]; len(field) > 0; {
			k := bytes.IndexByte(field, '\t')
			if k < 0 {
				k = len(field)
			}
			if k > 0 {
				args = append(args, field[:k])
			}
			field = field[min(k+1, len(field)):]
		}
		arg = arg[min(i+1, len(arg)):]
	}
	p.args = args
	return args
}

// AppendRouteSub appends RS+ account subject [queue weight].
func AppendRouteSub(dst []byte, account, subject, queue string, weight int) []byte {
	dst = appendRouteInterest(dst, "RS+ ", account, subject, queue)
	if queue != "" {
		dst = append(dst, ' ')
		dst = strconv.AppendInt(dst, int64(weight), 10)
	}
	return append(dst, CRLF...)
}

// AppendRouteUnsub appends RS- account subject [queue].
func AppendRouteUnsub(dst []byte, account, subject, queue string) []byte {
	return append(appendRouteInterest(dst, "RS- ", account, subject, queue), CRLF...)
}

func appendRouteInterest(dst []byte, verb, account, subject, queue string) []byte {
	dst = append(dst, verb...)
	dst = append(dst, account...)
	dst = append(dst, ' ')
	dst = append(dst, subject...)
	if queue != "" {
		dst = append(dst, ' ')
		dst = append(dst, queue...)
	}
	return dst
}

// RouteMsg is the line before a message on a route.
type RouteMsg struct {
	Account string
	Subject string
	Reply   []byte   // nil: none
	As      []byte   // appended to Reply after an '@': the subject that receivers see; nil: Subject
	Queues  []string // queue groups that get the message
	Hdr     []byte   // size of the header in digits; nil: no header
	Size    []byte   // size of header and payload in digits
}

// Append appends RMSG account subject [reply] size, or HMSG with the size of the header before that of
// all. With queue groups they follow the reply, and a "+" stands before it or a "|" in its place.
func (m *RouteMsg) Append(dst []byte) []byte {
	if m.Hdr != nil {
		dst = append(dst, "HMSG "...)
	} else {
		dst = append(dst, "RMSG "...)
	}
	dst = append(dst, m.Account...)
	dst = append(dst, ' ')
	dst = append(dst, m.Subject...)
	dst = append(dst, ' ')
	if len(m.Queues) > 0 {
		if len(m.Reply) > 0 {
			dst = append(dst, "+ "...)
		} else {
			dst = append(dst, "| "...)
		}
	}
	if len(m.Reply) > 0 {
		dst = append(dst, m.Reply...)
		if m.As != nil {
			dst = append(dst, '@')
			dst = append(dst, m.As...)
		}
		dst = append(dst, ' ')
	}
	for _, q := range m.Queues {
		dst = append(dst, q...)
		dst = append(dst, ' ')
	}
	if m.Hdr != nil {
		dst = append(dst, m.Hdr...)
		dst = append(dst, ' ')
	}
	dst = append(dst, m.Size...)
	return append(dst, CRLF...)
}
