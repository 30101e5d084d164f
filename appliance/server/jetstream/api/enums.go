package api

import (
	"encoding/json"
	"fmt"
	"strings"
)

// Retention tells what removes messages from a stream besides its limits.
type Retention uint8

// Retention policies.
const (
	LimitsPolicy    Retention = iota // only limits remove messages
	InterestPolicy                   // removed when every consumer has acknowledged
	WorkQueuePolicy                  // removed when one consumer has acknowledged
)

// Discard tells what a stream does with a message that would exceed a limit.
type Discard uint8

// Discard policies.
const (
	DiscardOld Discard = iota // remove the oldest messages
	DiscardNew                // refuse the new message
)

// Storage is the storage asked for. Both kinds are durable here, see the engine's design notes.
type Storage uint8

// Storage types; file is the default of an absent field.
const (
	FileStorage Storage = iota
	MemoryStorage
)

// Compression is the at-rest compression of a stream.
type Compression uint8

// Compression algorithms.
const (
	NoCompression Compression = iota
	S2Compression
)

// PersistMode tells whether a publish is acknowledged before it is persisted.
type PersistMode uint8

// Persist modes.
const (
	DefaultPersistMode PersistMode = iota
	AsyncPersistMode
)

// DeliverPolicy selects the first message of a consumer.
type DeliverPolicy uint8

// Deliver policies.
const (
	DeliverAll DeliverPolicy = iota
	DeliverLast
	DeliverNew
	DeliverByStartSequence
	DeliverByStartTime
	DeliverLastPerSubject
)

// AckPolicy tells how deliveries of a consumer are acknowledged.
type AckPolicy uint8

// Ack policies; none is the default of an absent field.
const (
	AckNone AckPolicy = iota
	AckAll
	AckExplicit
	AckFlowControl
)

// ReplayPolicy tells at which pace stored messages are delivered.
type ReplayPolicy uint8

// Replay policies.
const (
	ReplayInstant ReplayPolicy = iota
	ReplayOriginal
)

// PriorityPolicy selects among the pull requests of a priority group (ADR-42).
type PriorityPolicy uint8

// Priority policies.
const (
	PriorityNone PriorityPolicy = iota
	PriorityOverflow
	PriorityPinnedClient
	PriorityPrioritized
)

// ConsumerAction restricts a consumer create request to creating or to updating.
type ConsumerAction uint8

// Consumer actions.
const (
	ActionCreateOrUpdate ConsumerAction = iota
	ActionUpdate
	ActionCreate
)

// names lists the wire texts of an enum, indexed by its value.
type names []string

var (
	retentionNames   = names{"limits", "interest", "workqueue"}
	discardNames     = names{"old", "new"}
	storageNames     = names{"file", "memory"}
	compressionNames = names{"none", "s2"}
	persistNames     = names{"default", "async"}
	deliverNames     = names{"all", "last", "new", "by_start_sequence", "by_start_time", "last_per_subject"}
	ackNames         = names{"none", "all", "explicit", "flow_control"}
	replayNames      = names{"instant", "original"}
	priorityNames    = names{"none", "overflow", "pinned_client", "prioritized"}
	actionNames      = names{"", "update", "create"}
)

func (n names) text(v uint8) string {
	if int(v) < len(n) {
		return n[v]
	}
	return fmt.Sprintf("unknown(%d)", v)
}

func (n names) marshal(v uint8) ([]byte, error) {
	if int(v) >= len(n) {
		return nil, fmt.Errorf("can not marshal %d", v)
	}
	return json.Marshal(n[v])
}

// parse returns the value whose quoted wire text data is.
func (n names) parse(data []byte) (uint8, bool) {
	for i, s := range n {
		if len(data) == len(s)+2 && data[0] == '"' && data[len(data)-1] == '"' && string(data[1:len(data)-1]) == s {
			return uint8(i), true
		}
	}
	return 0, false
}

func badEnum(data []byte) error { return fmt.Errorf("can not unmarshal %q", data) }

// String returns the wire text.
func (v Retention) String() string { return retentionNames.text(uint8(v)) }

// MarshalJSON writes the wire text.
func (v Retention) MarshalJSON() ([]byte, error) { return retentionNames.marshal(uint8(v)) }

// UnmarshalJSON reads the wire text.
func (v *Retention) UnmarshalJSON(data []byte) error {
	n, ok := retentionNames.parse(data)
	if !ok {
		return badEnum(data)
	}
	*v = Retention(n)
	return nil
}

// String returns the wire text.
func (v Discard) String() string { return discardNames.text(uint8(v)) }

// MarshalJSON writes the wire text.
func (v Discard) MarshalJSON() ([]byte, error) { return discardNames.marshal(uint8(v)) }

// UnmarshalJSON reads the wire text, in any case.
func (v *Discard) UnmarshalJSON(data []byte) error {
	n, ok := discardNames.parse([]byte(strings.ToLower(string(data))))
	if !ok {
		return badEnum(data)
	}
	*v = Discard(n)
	return nil
}

// String returns the wire text.
func (v Storage) String() string { return storageNames.text(uint8(v)) }

// MarshalJSON writes the wire text.
func (v Storage) MarshalJSON() ([]byte, error) { return storageNames.marshal(uint8(v)) }

// UnmarshalJSON reads the wire text.
func (v *Storage) UnmarshalJSON(data []byte) error {
	n, ok := storageNames.parse(data)
	if !ok {
		return badEnum(data)
	}
	*v = Storage(n)
	return nil
}

// String returns the wire text.
func (v Compression) String() string { return compressionNames.text(uint8(v)) }

// MarshalJSON writes the wire text.
func (v Compression) MarshalJSON() ([]byte, error) { return compressionNames.marshal(uint8(v)) }

// UnmarshalJSON reads the wire text.
func (v *Compression) UnmarshalJSON(data []byte) error {
	var s string
	if err := json.Unmarshal(data, &s); err != nil {
		return err
	}
	n, ok := compressionNames.parse([]byte(`"` + s + `"`))
	if !ok {
		return fmt.Errorf("unknown compression algorithm")
	}
	*v = Compression(n)
	return nil
}

// String returns the wire text.
func (v PersistMode) String() string { return persistNames.text(uint8(v)) }

// MarshalJSON writes the wire text.
func (v PersistMode) MarshalJSON() ([]byte, error) { return persistNames.marshal(uint8(v)) }

// UnmarshalJSON reads the wire text; an empty text is the default mode.
func (v *PersistMode) UnmarshalJSON(data []byte) error {
	n, ok := persistNames.parse(data)
	if !ok && string(data) != `""` {
		return badEnum(data)
	}
	*v = PersistMode(n)
	return nil
}

// String returns the wire text.
func (v DeliverPolicy) String() string { return deliverNames.text(uint8(v)) }

// MarshalJSON writes the wire text.
func (v DeliverPolicy) MarshalJSON() ([]byte, error) { return deliverNames.marshal(uint8(v)) }

// UnmarshalJSON reads the wire text; old clients send "undefined" for all.
func (v *DeliverPolicy) UnmarshalJSON(data []byte) error {
	n, ok := deliverNames.parse(data)
	if !ok && string(data) != `"undefined"` {
		return badEnum(data)
	}
	*v = DeliverPolicy(n)
	return nil
}

// String returns the wire text.
func (v AckPolicy) String() string { return ackNames.text(uint8(v)) }

// MarshalJSON writes the wire text.
func (v AckPolicy) MarshalJSON() ([]byte, error) { return ackNames.marshal(uint8(v)) }

// UnmarshalJSON reads the wire text.
func (v *AckPolicy) UnmarshalJSON(data []byte) error {
	n, ok := ackNames.parse(data)
	if !ok {
		return badEnum(data)
	}
	*v = AckPolicy(n)
	return nil
}

// String returns the wire text.
func (v ReplayPolicy) String() string { return replayNames.text(uint8(v)) }

// MarshalJSON writes the wire text.
func (v ReplayPolicy) MarshalJSON() ([]byte, error) { return replayNames.marshal(uint8(v)) }

// UnmarshalJSON reads the wire text.
func (v *ReplayPolicy) UnmarshalJSON(data []byte) error {
	n, ok := replayNames.parse(data)
	if !ok {
		return badEnum(data)
	}
	*v = ReplayPolicy(n)
	return nil
}

// String returns the wire text.
func (v PriorityPolicy) String() string { return priorityNames.text(uint8(v)) }

// MarshalJSON writes the wire text.
func (v PriorityPolicy) MarshalJSON() ([]byte, error) { return priorityNames.marshal(uint8(v)) }

// UnmarshalJSON reads the wire text.
func (v *PriorityPolicy) UnmarshalJSON(data []byte) error {
	n, ok := priorityNames.parse(data)
	if !ok {
		return fmt.Errorf("unknown priority policy: %s", data)
	}
	*v = PriorityPolicy(n)
	return nil
}

// String returns the wire text.
func (v ConsumerAction) String() string { return actionNames.text(uint8(v)) }

// MarshalJSON writes the wire text.
func (v ConsumerAction) MarshalJSON() ([]byte, error) { return actionNames.marshal(uint8(v)) }

// UnmarshalJSON reads the wire text.
func (v *ConsumerAction) UnmarshalJSON(data []byte) error {
	n, ok := actionNames.parse(data)
	if !ok {
		return fmt.Errorf("unknown consumer action: %s", data)
	}
	*v = ConsumerAction(n)
	return nil
}
