package api

import (
	"maps"
	"strconv"
	"time"
)

// Level is the JetStream API level of this server, that of nats-server 2.15 (ADR-44).
const Level = 5

// Metadata keys that the server keeps (ADR-44).
const (
	metaRequiredLevel = "_nats.req.level" // stored
	metaVersion       = "_nats.ver"       // in responses only
	metaLevel         = "_nats.level"     // in responses only
)

// LevelServed reports whether a request with that value of the Nats-Required-Api-Level header can
// be served; an empty value requires nothing.
func LevelServed(value string) bool {
	if value == "" {
		return true
	}
	n, err := strconv.Atoi(value)
	return err == nil && n <= Level
}

// stored returns metadata as it is kept: without what is only for responses, with the API level
// that the configuration needs.
func stored(metadata map[string]string, level int) map[string]string {
	m := make(map[string]string, len(metadata)+1)
	maps.Copy(m, metadata)
	delete(m, metaVersion)
	delete(m, metaLevel)
	m[metaRequiredLevel] = strconv.Itoa(level)
	return m
}

func shown(metadata map[string]string, version string) map[string]string {
	m := make(map[string]string, len(metadata)+2)
	maps.Copy(m, metadata)
	m[metaVersion] = version
	m[metaLevel] = strconv.Itoa(Level)
	return m
}

// Shown returns the configuration as create, update and info responses show it: its metadata also
// tells the server's version and API level. Lists show the stored one.
func (c *StreamConfig) Shown(version string) StreamConfig {
	n := *c
	n.Metadata = shown(c.Metadata, version)
	return n
}

// Shown returns the configuration as create, info and reset responses show it, see
// StreamConfig.Shown.
func (c *ConsumerConfig) Shown(version string) ConsumerConfig {
	n := *c
	n.Metadata = shown(c.Metadata, version)
	return n
}

// WithPause returns the configuration paused until that time; nil and the zero time resume.
func (c *ConsumerConfig) WithPause(until *time.Time) ConsumerConfig {
	n := c.Clone()
	n.PauseUntil = nil
	if until != nil && !until.IsZero() {
		t := until.UTC()
		if t.Year() > 9999 {
			t = *until // JSON has four digits; only in its own zone the year has no more
		}
		n.PauseUntil = &t
	}
	n.Metadata = stored(n.Metadata, n.requiredLevel())
	return n
}

func (c *StreamConfig) requiredLevel() int {
	switch {
	case c.AllowBatchPublish:
		return 4
	case c.AllowMsgCounter, c.AllowAtomicPublish, c.AllowMsgSchedules, c.PersistMode == AsyncPersistMode:
		return 2
	case c.AllowMsgTTL, c.SubjectDeleteMarkerTTL > 0:
		return 1
	}
	return 0
}

func (c *ConsumerConfig) requiredLevel() int {
	switch {
	case c.AckPolicy == AckFlowControl:
		return 4
	case c.PauseUntil != nil && !c.PauseUntil.IsZero(),
		c.PriorityPolicy != PriorityNone, c.PinnedTTL != 0, len(c.PriorityGroups) > 0:
		return 1
	}
	return 0
}

// metadataLen is what MaxMetadataLen limits.
func metadataLen(m map[string]string) (n int) {
	for k, v := range m {
		n += len(k) + len(v)
	}
	return n
}
