package service

import (
	"encoding/json"
	"fmt"
	"maps"
	"slices"
	"strconv"
	"strings"
	"time"

	"millrace/appliance/server/subject"
	"millrace/plugins"
)

// Keys of a consumer's metadata that make it a binding.
const (
	keyPlugin     = "millrace.plugin"
	keyVersion    = "millrace.plugin.version"
	keyPublish    = "millrace.plugin.publish"     // filters, separated by commas
	keyKV         = "millrace.plugin.kv"          // bucket:r or bucket:rw, separated by commas
	keyConfig     = "millrace.plugin.config"      // what the config import returns
	keyBatch      = "millrace.plugin.batch"       // messages of a batch, at most
	keyTick       = "millrace.plugin.tick"        // interval of cpi_on_tick, as Go writes durations
	keyDeadLetter = "millrace.plugin.dead_letter" // subject
	keyMemory     = "millrace.plugin.memory"      // bytes
	keyID         = "millrace.plugin.id"          // of this binding, part of message ids
	keyState      = "millrace.plugin.state"       // StatePaused, StateErrored or absent
	keyReason     = "millrace.plugin.reason"      // why it is errored
)

// States of a binding.
const (
	StateRunning  = "running"
	StatePaused   = "paused"
	StateErrored  = "errored"
	StateStarting = "starting" // no node is known to run it; the one that leads the consumer will
)

const (
	defaultBatch      = 256
	maxBatch          = 1000
	defaultMaxDeliver = 5
	ackWait           = 30 * time.Second
)

// spec is a binding as its consumer describes it.
type spec struct {
	stream, consumer string
	plugin           string
	version          int
	filters          []string // none: the whole stream
	publish          []string
	kv               map[string]plugins.Access
	config           string
	batch            int
	tick             time.Duration
	deadLetter       string
	memory           int64
	maxDeliver       int
	deliverPolicy    string
	id               string
	state, reason    string
}

// metadata returns the binding as metadata.
func (s *spec) metadata() map[string]string {
	m := map[string]string{keyPlugin: s.plugin, keyVersion: strconv.Itoa(s.version), keyID: s.id,
		keyBatch: strconv.Itoa(s.batch)}
	set := func(key, value string) {
		if value != "" {
			m[key] = value
		}
	}
	var kv []string
	for _, bucket := range slices.Sorted(maps.Keys(s.kv)) {
		kv = append(kv, bucket+":"+string(s.kv[bucket]))
	}
	set(keyPublish, strings.Join(s.publish, ","))
	set(keyKV, strings.Join(kv, ","))
	set(keyConfig, s.config)
	set(keyDeadLetter, s.deadLetter)
	set(keyState, s.state)
	set(keyReason, s.reason)
	if s.tick > 0 {
		set(keyTick, s.tick.String())
	}
	if s.memory > 0 {
		set(keyMemory, strconv.FormatInt(s.memory, 10))
	}
	return m
}

// consumerConfig is the part of a consumer configuration that bindings are made of.
type consumerConfig struct {
	Name           string            `json:"name"`
	Durable        string            `json:"durable_name"`
	DeliverPolicy  string            `json:"deliver_policy"`
	AckPolicy      string            `json:"ack_policy"`
	AckWait        time.Duration     `json:"ack_wait"` // ns
	MaxDeliver     int               `json:"max_deliver"`
	FilterSubject  string            `json:"filter_subject,omitempty"`
	FilterSubjects []string          `json:"filter_subjects,omitempty"`
	ReplayPolicy   string            `json:"replay_policy"`
	MaxAckPending  int               `json:"max_ack_pending"`
	DeliverSubject string            `json:"deliver_subject,omitempty"`
	Metadata       map[string]string `json:"metadata"`
}

// consumer returns the configuration of the consumer that carries the binding.
func (s *spec) consumerConfig() ([]byte, error) {
	c := consumerConfig{
		Name: s.consumer, Durable: s.consumer, DeliverPolicy: s.deliverPolicy, AckPolicy: "explicit",
		AckWait: ackWait, MaxDeliver: s.maxDeliver, ReplayPolicy: "instant",
		MaxAckPending: max(1000, 4*s.batch), Metadata: s.metadata(),
	}
	if len(s.filters) == 1 {
		c.FilterSubject = s.filters[0]
	} else {
		c.FilterSubjects = s.filters
	}
	return json.Marshal(c)
}

// Bound reports whether a consumer with such metadata carries a binding.
func Bound(metadata map[string]string) bool { return metadata[keyPlugin] != "" }

// isBinding reports whether a consumer carries a binding.
func isBinding(c *Consumer) bool { return Bound(c.Metadata) }

// parseSpec reads the binding of a consumer, whoever created that. On an error the spec holds what
// could be read.
func parseSpec(c *Consumer) (*spec, error) {
	m := c.Metadata
	s := &spec{stream: c.Stream, consumer: c.Name, plugin: m[keyPlugin], publish: splitList(m[keyPublish]),
		config: m[keyConfig], deadLetter: m[keyDeadLetter], id: m[keyID], state: m[keyState],
		reason: m[keyReason], batch: defaultBatch}
	var config consumerConfig
	if err := json.Unmarshal(c.Config, &config); err != nil {
		return s, fmt.Errorf("configuration: %w", err)
	}
	s.maxDeliver, s.deliverPolicy, s.filters = config.MaxDeliver, config.DeliverPolicy, config.FilterSubjects
	if config.FilterSubject != "" {
		s.filters = []string{config.FilterSubject}
	}
	if config.AckPolicy != "explicit" || config.DeliverSubject != "" {
		return s, fmt.Errorf("a plugin needs a pull consumer with explicit acknowledgement")
	}
	if s.id == "" {
		s.id = c.Name
	}
	var err error
	if s.version, err = strconv.Atoi(m[keyVersion]); err != nil {
		return s, fmt.Errorf("metadata %s: %q is no number", keyVersion, m[keyVersion])
	}
	if v := m[keyBatch]; v != "" {
		if s.batch, err = strconv.Atoi(v); err != nil {
			return s, fmt.Errorf("metadata %s: %q is no number", keyBatch, v)
		}
	}
	if v := m[keyTick]; v != "" {
		if s.tick, err = time.ParseDuration(v); err != nil {
			return s, fmt.Errorf("metadata %s: %w", keyTick, err)
		}
	}
	if v := m[keyMemory]; v != "" {
		if s.memory, err = strconv.ParseInt(v, 10, 64); err != nil {
			return s, fmt.Errorf("metadata %s: %q is no number", keyMemory, v)
		}
	}
	s.kv = map[string]plugins.Access{}
	for _, grant := range splitList(m[keyKV]) {
		bucket, access, _ := strings.Cut(grant, ":")
		s.kv[bucket] = plugins.Access(access)
	}
	return s, s.validate()
}

func splitList(s string) []string {
	return strings.FieldsFunc(s, func(r rune) bool { return r == ',' || r == ' ' })
}

// validName reports whether s can be the name of a plugin, consumer or bucket.
func validName(s string) bool {
	return len(s) > 0 && len(s) <= 128 && !strings.ContainsFunc(s, func(r rune) bool {
		return !(r >= 'a' && r <= 'z' || r >= 'A' && r <= 'Z' || r >= '0' && r <= '9' || r == '_' || r == '-')
	})
}

// validate checks what can be checked without the stream.
func (s *spec) validate() error {
	switch {
	case !validName(s.plugin):
		return badRequest("plugin name %q: use letters, digits, - and _", s.plugin)
	case !validName(s.consumer):
		return badRequest("consumer name %q: use letters, digits, - and _", s.consumer)
	case s.batch < 1 || s.batch > maxBatch:
		return badRequest("batch %d: must be 1 to %d", s.batch, maxBatch)
	case s.tick < 0 || s.tick > 0 && s.tick < 10*time.Millisecond:
		return badRequest("tick %v: must be at least 10ms", s.tick)
	case s.memory < 0 || s.memory > plugins.MaxMemoryBytes:
		return badRequest("memory %d: must be at most %d bytes", s.memory, plugins.MaxMemoryBytes)
	case s.deadLetter != "" && (!subject.ValidLiteral(s.deadLetter) || s.deadLetter[0] == '$'):
		return badRequest("dead-letter subject %q is not a subject that can be published to", s.deadLetter)
	}
	for _, f := range s.filters {
		if !subject.Valid(f) {
			return badRequest("filter %q is not a valid subject filter", f)
		}
	}
	for _, f := range s.publish {
		if !subject.Valid(f) || f[0] == '$' {
			return badRequest("publish grant %q: must be a subject filter that does not start with $", f)
		}
	}
	for bucket, access := range s.kv {
		if !validName(bucket) || access != plugins.Read && access != plugins.ReadWrite {
			return badRequest("KV grant %q: must be the name of a bucket with r or rw", bucket+":"+string(access))
		}
	}
	return nil
}

// checkLoop refuses a binding that could feed itself. subjects are the stream's.
func (s *spec) checkLoop(subjects []string) error {
	consumed := s.filters
	if len(consumed) == 0 {
		consumed = subjects
	}
	outputs := s.publish
	if s.deadLetter != "" {
		outputs = append(slices.Clone(outputs), s.deadLetter)
	}
	for _, out := range outputs {
		for _, in := range consumed {
			if subject.Overlap(out, in) {
				return &Error{400, CodeLoop, fmt.Sprintf(
					"plugin %s would feed its own input: %q, which it may publish to, overlaps %q, which it consumes from %s",
					s.plugin, out, in, s.stream)}
			}
		}
	}
	for bucket, access := range s.kv {
		if access == plugins.ReadWrite && s.stream == "KV_"+bucket {
			return &Error{400, CodeLoop, fmt.Sprintf(
				"plugin %s would feed its own input: it consumes the bucket %s, which it may write", s.plugin, bucket)}
		}
	}
	return nil
}
