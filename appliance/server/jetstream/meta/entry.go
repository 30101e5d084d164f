package meta

import (
	"bytes"
	"encoding/json"
	"fmt"
	"io"
	"time"

	"millrace/appliance/server/jetstream/api"
)

// An entry of the meta log is one byte, the version, and an Entry in JSON. Configurations stand in
// it as clients write them, so that an old log can be read with nothing but this file and package
// api. A field that a reader does not know is an error: it would decide otherwise than the writer.
const (
	// entryV1 is the first version. What it puts is carried by the founder of the cluster alone.
	entryV1 = 1
	// entryV2 adds ID, nodes and places.
	entryV2 = 2
)

// Op is what an entry does.
type Op string

// Operations. The comment lists the fields used besides Op, Time, Account and Stream.
const (
	OpPutStream      Op = "put_stream"      // StreamConfig, Action, Limits
	OpDeleteStream   Op = "delete_stream"   //
	OpPutConsumer    Op = "put_consumer"    // Consumer, ConsumerConfig, Action, Limits, Pedantic
	OpDeleteConsumer Op = "delete_consumer" // Consumer
	OpPauseConsumer  Op = "pause_consumer"  // Consumer, PauseUntil
	OpPutNode        Op = "put_node"        // Node, Replaces; no account and stream
	OpRemoveNode     Op = "remove_node"     // Node, of which the ID counts; no account and stream
	OpPlace          Op = "place"           // Consumer, Nodes: where the stream or consumer shall be
	OpFix            Op = "fix"             // Consumer, Members: those who are not among them begin to be taken out
	OpPlaced         Op = "placed"          // Consumer, Members: it is there
	OpEvict          Op = "evict"           // Consumer, Members: the one replica, which has failed, is to leave
)

// Entry is one change of the catalogue, as it is proposed.
type Entry struct {
	Op Op `json:"op"`
	// ID is by what the proposer recognizes its entry.
	ID string `json:"id,omitempty"`
	// Time is the proposer's clock; what the entry creates is created then. It stands in the entry
	// because every replica and every replay must see the same.
	Time     time.Time `json:"time"`
	Account  string    `json:"account,omitempty"`
	Stream   string    `json:"stream,omitempty"`
	Consumer string    `json:"consumer,omitempty"`
	// StreamConfig is normalized by the proposer.
	StreamConfig *api.StreamConfig `json:"stream_config,omitempty"`
	// ConsumerConfig is that of the request, with its name; it is normalized when the entry is
	// applied, against the stream as it is then.
	ConsumerConfig *api.ConsumerConfig `json:"consumer_config,omitempty"`
	Action         Action              `json:"action,omitempty"`
	Pedantic       bool                `json:"pedantic,omitempty"`
	PauseUntil     *time.Time          `json:"pause_until,omitempty"` // nil resumes
	// Limits are those in force at the proposer, so that every replica decides alike.
	Limits *api.Limits `json:"limits,omitempty"`
	// Nodes are where the replicas shall be, chosen by the proposer. A stream that exists keeps its nodes when
	// there are none; a new consumer goes where its stream is.
	Nodes []uint64 `json:"nodes,omitempty"`
	// Members are the replicas that carry a group, as its leader reports.
	Members []Member `json:"members,omitempty"`
	// Node is a storage node, and Replaces the id of the one in whose place it comes.
	Node     *Node  `json:"node,omitempty"`
	Replaces uint64 `json:"replaces,omitempty"`

	version byte // that was read
}

// Action restricts a put to creating or to updating. A stream is put with one of the two.
type Action string

// Actions. Creating what exists with the same configuration is no error.
const (
	ActionEither Action = ""
	ActionCreate Action = "create"
	ActionUpdate Action = "update"
)

// Encode returns the bytes to propose, or says what is wrong with e.
func (e *Entry) Encode() ([]byte, error) {
	if err := e.check(); err != nil {
		return nil, err
	}
	data, err := json.Marshal(e)
	if err != nil {
		return nil, fmt.Errorf("meta: encode entry %q: %w", e.Op, err)
	}
	return append([]byte{entryV2}, data...), nil
}

// DecodeEntry reads what Encode wrote.
func DecodeEntry(b []byte) (*Entry, error) {
	if len(b) == 0 || b[0] != entryV1 && b[0] != entryV2 {
		return nil, fmt.Errorf("decode entry %.16q: %w", b, ErrVersion)
	}
	var e Entry
	if err := decodeStrict(b[1:], &e); err != nil {
		return nil, fmt.Errorf("decode entry: %w", err)
	}
	e.version = b[0]
	if err := e.check(); err != nil {
		return nil, err
	}
	return &e, nil
}

// decodeStrict reads one JSON value without unknown fields and nothing behind it.
func decodeStrict(b []byte, v any) error {
	d := json.NewDecoder(bytes.NewReader(b))
	d.DisallowUnknownFields()
	if err := d.Decode(v); err != nil {
		return fmt.Errorf("%w: %w", ErrCorrupt, err)
	}
	if _, err := d.Token(); err != io.EOF {
		return fmt.Errorf("%w: bytes behind the end at offset %d", ErrCorrupt, d.InputOffset())
	}
	return nil
}

// check says which field of the entry is missing or out of place.
func (e *Entry) check() error {
	bad := func(field string) error { return fmt.Errorf("entry %q: %s: %w", e.Op, field, ErrInvalidEntry) }
	onStream := e.Op == OpPutStream || e.Op == OpDeleteStream
	switch e.Op {
	case OpPutStream:
		if e.StreamConfig == nil || e.StreamConfig.Name != e.Stream {
			return bad("stream_config")
		}
		if e.Action != ActionCreate && e.Action != ActionUpdate {
			return bad("action")
		}
	case OpPutConsumer:
		if e.ConsumerConfig == nil || e.ConsumerConfig.Durable != e.Consumer {
			return bad("consumer_config")
		}
		if e.Action != ActionEither && e.Action != ActionCreate && e.Action != ActionUpdate {
			return bad("action")
		}
	case OpPutNode, OpRemoveNode:
		n := e.Node
		if n == nil || n.ID != NodeOf(n.ID) || e.Op == OpPutNode && (NodeOf(n.Replica) != n.ID || n.Removed) {
			return bad("node")
		}
	case OpPlace:
		if len(e.Nodes) == 0 {
			return bad("nodes")
		}
	case OpFix, OpPlaced:
		if len(e.Members) == 0 {
			return bad("members")
		}
	case OpEvict:
		if len(e.Members) != 1 {
			return bad("members")
		}
	case OpDeleteStream, OpDeleteConsumer, OpPauseConsumer:
	default:
		return bad("op")
	}
	if e.version == entryV1 && (e.ID != "" || e.Nodes != nil || e.Members != nil || e.Node != nil) {
		return bad("version") // which has no such fields
	}
	put := e.Op == OpPutStream || e.Op == OpPutConsumer
	ofNode := e.Op == OpPutNode || e.Op == OpRemoveNode
	ofGroup := e.Op == OpPlace || e.Op == OpFix || e.Op == OpPlaced || e.Op == OpEvict // a stream's or a consumer's
	switch {
	case e.Time.UTC().Year() < 0 || e.Time.UTC().Year() > 9999: // JSON can not hold it
		return bad("time")
	case ofNode != (e.Account == ""):
		return bad("account")
	case ofNode != (e.Stream == ""), e.Op == OpPutStream && !api.ValidName(e.Stream):
		return bad("stream")
	case !ofGroup && (onStream || ofNode) == (e.Consumer != ""), e.Op == OpPutConsumer && !api.ValidName(e.Consumer):
		return bad("consumer")
	case e.Op != OpPutStream && e.StreamConfig != nil:
		return bad("stream_config")
	case e.Op != OpPutConsumer && (e.ConsumerConfig != nil || e.Pedantic):
		return bad("consumer_config")
	case !put && e.Action != ActionEither:
		return bad("action")
	case put != (e.Limits != nil):
		return bad("limits")
	case ofNode != (e.Node != nil):
		return bad("node")
	case e.Replaces != 0 && (e.Op != OpPutNode || e.Replaces == e.Node.ID):
		return bad("replaces")
	case e.Op != OpPlace && !put && e.Nodes != nil:
		return bad("nodes")
	case e.Op != OpFix && e.Op != OpPlaced && e.Op != OpEvict && e.Members != nil:
		return bad("members")
	case e.Op != OpPauseConsumer && e.PauseUntil != nil:
		return bad("pause_until")
	}
	return nil
}
