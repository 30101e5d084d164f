package api

import "strings"

// Prefix starts the subject of every API request.
const Prefix = "$JS.API."

// Verb is what a request asks for.
type Verb uint8

// Verbs of requests.
const (
	VerbNone Verb = iota
	VerbAccountInfo
	VerbStreamCreate
	VerbStreamUpdate
	VerbStreamDelete
	VerbStreamInfo
	VerbStreamNames
	VerbStreamList
	VerbStreamPurge
	VerbMsgGet
	VerbMsgDelete
	VerbConsumerCreate // also with a name and a filter
	VerbDurableCreate  // the old form
	VerbConsumerInfo
	VerbConsumerNames
	VerbConsumerList
	VerbConsumerDelete
	VerbConsumerPause
	VerbConsumerReset
	VerbStreamStepDown
	VerbStreamPeerRemove // also evacuate, which is the same here: nobody leaves before another one is in
	VerbStreamCancelMove
	VerbConsumerStepDown
	VerbAccountStreamMove       // of the system account, and of the stream's own
	VerbAccountStreamCancelMove // likewise
	VerbMetaStepDown            // this and what follows of the system account alone
	VerbServerRemove
	VerbServerEvacuate
	VerbNext
	VerbDirectGet // also with a subject
	VerbConsumerPeerRemove
	// VerbUnserved is a call of nats-server that is answered with Call.Refusal.
	VerbUnserved
)

// Call is a parsed request subject.
type Call struct {
	Verb     Verb
	Type     string // the response type; empty for the two that do not answer in JSON
	Account  string // named in the subject
	Stream   string
	Consumer string
	Filter   string // of a consumer create, or the subject of a direct get
	Refusal  *Error // set for VerbUnserved
}

// call is a row of the API: the tokens after Prefix that name it and what the next tokens are: A
// account, S stream, C consumer, F a subject of one or more tokens.
type call struct {
	name    string
	args    string
	verb    Verb
	typ     string
	refusal *Error
}

var (
	errSnapshot = lookup(10064, "{err}", "not supported")
	errRestore  = lookup(10062, "{err}", "not supported")
)

var calls = []call{
	{"INFO", "", VerbAccountInfo, TypeAccountInfo, nil},
	{"STREAM.CREATE", "S", VerbStreamCreate, TypeStreamCreate, nil},
	{"STREAM.UPDATE", "S", VerbStreamUpdate, TypeStreamUpdate, nil},
	{"STREAM.DELETE", "S", VerbStreamDelete, TypeStreamDelete, nil},
	{"STREAM.INFO", "S", VerbStreamInfo, TypeStreamInfo, nil},
	{"STREAM.NAMES", "", VerbStreamNames, TypeStreamNames, nil},
	{"STREAM.LIST", "", VerbStreamList, TypeStreamList, nil},
	{"STREAM.PURGE", "S", VerbStreamPurge, TypeStreamPurge, nil},
	{"STREAM.MSG.GET", "S", VerbMsgGet, TypeMsgGet, nil},
	{"STREAM.MSG.DELETE", "S", VerbMsgDelete, TypeMsgDelete, nil},
	{"CONSUMER.CREATE", "S", VerbConsumerCreate, TypeConsumerCreate, nil},
	{"CONSUMER.CREATE", "SC", VerbConsumerCreate, TypeConsumerCreate, nil},
	{"CONSUMER.CREATE", "SCF", VerbConsumerCreate, TypeConsumerCreate, nil},
	{"CONSUMER.DURABLE.CREATE", "SC", VerbDurableCreate, TypeConsumerCreate, nil},
	{"CONSUMER.INFO", "SC", VerbConsumerInfo, TypeConsumerInfo, nil},
	{"CONSUMER.NAMES", "S", VerbConsumerNames, TypeConsumerNames, nil},
	{"CONSUMER.LIST", "S", VerbConsumerList, TypeConsumerList, nil},
	{"CONSUMER.DELETE", "SC", VerbConsumerDelete, TypeConsumerDelete, nil},
	{"CONSUMER.PAUSE", "SC", VerbConsumerPause, TypeConsumerPause, nil},
	{"CONSUMER.RESET", "SC", VerbConsumerReset, TypeConsumerReset, nil},
	{"STREAM.LEADER.STEPDOWN", "S", VerbStreamStepDown, TypeStreamStepDown, nil},
	{"STREAM.PEER.REMOVE", "S", VerbStreamPeerRemove, TypeStreamPeerRemove, nil},
	{"STREAM.PEER.EVACUATE", "S", VerbStreamPeerRemove, TypeStreamPeerEvacuate, nil},
	{"STREAM.CANCEL_MOVE", "S", VerbStreamCancelMove, TypeStreamCancelMove, nil},
	{"CONSUMER.LEADER.STEPDOWN", "SC", VerbConsumerStepDown, TypeConsumerStepDown, nil},
	{"ACCOUNT.STREAM.MOVE", "AS", VerbAccountStreamMove, TypeStreamUpdate, nil},
	{"ACCOUNT.STREAM.CANCEL_MOVE", "AS", VerbAccountStreamCancelMove, TypeStreamCancelMove, nil},
	{"META.LEADER.STEPDOWN", "", VerbMetaStepDown, TypeMetaStepDown, nil},
	{"SERVER.REMOVE", "", VerbServerRemove, TypeServerRemove, nil},
	{"SERVER.EVACUATE", "", VerbServerEvacuate, TypeServerEvacuate, nil},
	{"CONSUMER.MSG.NEXT", "SC", VerbNext, "", nil},
	{"DIRECT.GET", "S", VerbDirectGet, "", nil},
	{"DIRECT.GET", "SF", VerbDirectGet, "", nil},

	{"STREAM.SNAPSHOT", "S", VerbUnserved, typePrefix + "stream_snapshot_response", errSnapshot},
	{"STREAM.RESTORE", "S", VerbUnserved, typePrefix + "stream_restore_response", errRestore},
	{"CONSUMER.PEER.REMOVE", "SC", VerbConsumerPeerRemove, typePrefix + "consumer_remove_peer_response", nil},
	{"CONSUMER.PEER.EVACUATE", "SC", VerbConsumerPeerRemove, typePrefix + "consumer_evacuate_peer_response", nil},
	{"CONSUMER.UNPIN", "SC", VerbUnserved, typePrefix + "consumer_unpin_response", ErrConsumerInvalidPriorityGroup},
}

// ParseCall reads the subject of a request. ok is false when it is not one of the API; nats-server
// does not answer those.
func ParseCall(s string) (Call, bool) {
	s, ok := strings.CutPrefix(s, Prefix)
	if !ok {
		return Call{}, false
	}
	for i := range calls {
		row := &calls[i]
		rest, ok := strings.CutPrefix(s, row.name)
		if !ok || rest != "" && rest[0] != '.' {
			continue
		}
		c := Call{Verb: row.verb, Type: row.typ, Refusal: row.refusal}
		if c.parseArgs(row.args, rest) {
			return c, true
		}
	}
	return Call{}, false
}

// parseArgs takes the tokens that args lists from rest, each behind a dot; nothing may be left.
func (c *Call) parseArgs(args, rest string) bool {
	for _, arg := range args {
		if rest == "" {
			return false
		}
		rest = rest[1:]
		token := rest
		if arg != 'F' {
			token, _, _ = strings.Cut(rest, ".")
		}
		if token == "" {
			return false
		}
		rest = rest[len(token):]
		switch arg {
		case 'A':
			c.Account = token
		case 'S':
			c.Stream = token
		case 'C':
			c.Consumer = token
		case 'F':
			c.Filter = token
		}
	}
	return rest == ""
}

// Bind checks a consumer create request against the subject it was sent to and gives it the name
// from there.
func (r *CreateConsumerRequest) Bind(c *Call) *Error {
	name := c.Consumer
	if name == "" {
		name = r.Config.Name
	}
	switch {
	case c.Stream != r.Stream:
		return ErrStreamMismatch
	case strings.ContainsAny(name, `\/`):
		return ErrConsumerNameContainsPathSeparators
	case c.Verb == VerbDurableCreate && r.Config.Durable == "":
		return ErrConsumerDurableNameNotSet
	case c.Consumer != "" && r.Config.Durable != "" && r.Config.Durable != c.Consumer:
		return ErrConsumerDurableNameNotMatchSubject
	case c.Consumer == "" && r.Config.Durable != "":
		return ErrConsumerEphemeralWithDurableName
	case c.Filter != "" && len(r.Config.FilterSubjects) > 0:
		return ErrConsumerMultipleFiltersNotAllowed
	case c.Filter != "" && c.Filter != r.Config.FilterSubject:
		return ErrConsumerCreateFilterSubjectMismatch
	}
	r.Config.Name = name
	return nil
}
