package meta

import (
	"iter"
	"maps"
	"slices"
	"strings"
	"time"

	"millrace/appliance/server/jetstream/api"
	"millrace/appliance/server/subject"
)

// Stream is a stream of the catalogue. Config must not be changed.
type Stream struct {
	Account string            `json:"account"`
	Name    string            `json:"name"`
	Group   uint64            `json:"group"` // id of its raft group
	Created time.Time         `json:"created"`
	Config  *api.StreamConfig `json:"config"`
}

// Consumer is a durable consumer of the catalogue. Config must not be changed.
type Consumer struct {
	Account string              `json:"account"`
	Stream  string              `json:"stream"`
	Name    string              `json:"name"`
	Group   uint64              `json:"group"` // id of its raft group
	Created time.Time           `json:"created"`
	Config  *api.ConsumerConfig `json:"config"`
}

// Accounts returns the names of the accounts that have streams, sorted.
func (m *Machine) Accounts() []string { return slices.Sorted(maps.Keys(m.accounts)) }

// Stream returns a stream by name.
func (m *Machine) Stream(account, name string) (Stream, bool) {
	s := m.accounts[account][name]
	if s == nil {
		return Stream{}, false
	}
	return s.Stream, true
}

// Streams returns the streams of an account, sorted by name. With a filter these are the streams
// with a subject that overlaps it.
func (m *Machine) Streams(account, filter string) []Stream {
	streams := m.accounts[account]
	var list []Stream
	for _, name := range slices.Sorted(maps.Keys(streams)) {
		s := streams[name]
		if filter == "" || slices.ContainsFunc(s.Config.Subjects, func(own string) bool { return subject.Overlap(own, filter) }) {
			list = append(list, s.Stream)
		}
	}
	return list
}

// Consumer returns a consumer by name.
func (m *Machine) Consumer(account, stream, name string) (Consumer, bool) {
	s := m.accounts[account][stream]
	if s == nil || s.consumers[name] == nil {
		return Consumer{}, false
	}
	return *s.consumers[name], true
}

// Consumers returns the durable consumers of a stream, sorted by name.
func (m *Machine) Consumers(account, stream string) []Consumer {
	s := m.accounts[account][stream]
	if s == nil {
		return nil
	}
	var list []Consumer
	for _, c := range s.sorted() {
		list = append(list, *c)
	}
	return list
}

// Removed reports whether a group was given to a stream or consumer that the log has deleted.
func (m *Machine) Removed(group uint64) bool {
	if group < FirstGroup || group >= m.next {
		return false
	}
	for _, streams := range m.accounts {
		for _, s := range streams {
			if s.Group == group {
				return false
			}
			for _, c := range s.consumers {
				if c.Group == group {
					return false
				}
			}
		}
	}
	return true
}

// Reserved returns the bytes that the streams of an account with that storage reserve by max_bytes.
func (m *Machine) Reserved(account string, storage api.Storage) (bytes int64) {
	for _, s := range m.accounts[account] {
		if s.Config.Storage == storage {
			bytes += max(s.Config.MaxBytes, 0) * int64(s.Config.Replicas)
		}
	}
	return bytes
}

func (s *stream) sorted() []*Consumer {
	list := slices.Collect(maps.Values(s.consumers))
	slices.SortFunc(list, func(a, b *Consumer) int { return strings.Compare(a.Name, b.Name) })
	return list
}

// all yields the consumers by name.
func (s *stream) all() iter.Seq2[string, *api.ConsumerConfig] {
	return func(yield func(string, *api.ConsumerConfig) bool) {
		for _, c := range s.sorted() {
			if !yield(c.Name, c.Config) {
				return
			}
		}
	}
}

func (s *stream) configs() map[string]*api.ConsumerConfig { return maps.Collect(s.all()) }
