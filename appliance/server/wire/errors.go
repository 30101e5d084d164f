package wire

// ProtocolError is a violation of the protocol by a client or a route. Text is what -ERR tells it, exactly as
// nats-server words it; Detail says more for the log.
type ProtocolError struct {
	Text   string
	Detail string
	Close  bool // the connection is closed after the -ERR
}

// Error returns the text and the detail.
func (e *ProtocolError) Error() string {
	if e.Detail == "" {
		return e.Text
	}
	return e.Text + ": " + e.Detail
}

// Errors of the parser. All of them end the connection.
var (
	// ErrUnknownOp is returned for a line that starts with no known verb, or a payload that does not
	// end where its size says.
	ErrUnknownOp = &ProtocolError{Text: TextUnknownOp, Close: true}
	// ErrBadPub is returned for PUB or HPUB with wrong arguments.
	ErrBadPub = &ProtocolError{Text: TextUnknownOp, Detail: "malformed PUB or HPUB arguments", Close: true}
	// ErrBadSub is returned for SUB with wrong arguments.
	ErrBadSub = &ProtocolError{Text: TextUnknownOp, Detail: "malformed SUB arguments", Close: true}
	// ErrBadUnsub is returned for UNSUB with wrong arguments.
	ErrBadUnsub = &ProtocolError{Text: TextUnknownOp, Detail: "malformed UNSUB arguments", Close: true}
	// ErrBadRouteSub is returned for RS+, RS-, LS+ or LS- with wrong arguments.
	ErrBadRouteSub = &ProtocolError{Text: TextUnknownOp, Detail: "malformed subscription of a route", Close: true}
	// ErrBadRouteMsg is returned for RMSG, HMSG or LMSG with wrong arguments.
	ErrBadRouteMsg = &ProtocolError{Text: TextUnknownOp, Detail: "malformed message of a route", Close: true}
	// ErrMaxControlLine is returned for a line longer than Parser.MaxControlLine.
	ErrMaxControlLine = &ProtocolError{Text: TextMaxControlLine, Close: true}
	// ErrMaxPayload is returned for a message larger than Parser.MaxPayload.
	ErrMaxPayload = &ProtocolError{Text: TextMaxPayload, Close: true}
)

// Texts of -ERR lines, as clients know them.
const (
	TextUnknownOp         = "Unknown Protocol Operation"
	TextMaxControlLine    = "maximum control line exceeded"
	TextMaxPayload        = "Maximum Payload Violation"
	TextMaxConns          = "maximum connections exceeded"
	TextMaxAccountConns   = "maximum account active connections exceeded"
	TextMaxSubs           = "maximum subscriptions exceeded"
	TextAuthViolation     = "Authorization Violation"
	TextAuthTimeout       = "Authentication Timeout"
	TextStaleConnection   = "Stale Connection"
	TextInvalidSubject    = "Invalid Subject"
	TextInvalidPubSubject = "Invalid Publish Subject"
	TextBadProtocol       = "invalid client protocol"
	TextNoRespHeaders     = "no responders requires headers support"
	TextClientOnRoutePort = "attempted to connect to route port"
	TextTLSRequired       = "Secure Connection - TLS Required"
)
