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
	Group   Group             `json:"group"`
	Created time.Time         `json:"created"`
	Config  *api.StreamConfig `json:"config"`
}

// Consumer is a durable consumer of the catalogue. Config must not be changed.
type Consumer struct {
	Account string              `json:"account"`
	Stream  string              `json:"stream"`
	Name    string              `json:"name"`
	Group   Group               `json:"group"`
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

// Removed reports whether a log on a node is of a replica of which the catalogue knows that it is gone: its
// group was deleted, or goes on without it. It is false for what the catalogue does not know.
func (m *Machine) Removed(node, log uint64) bool {
	id, generation := GroupOfLog(log), log>>groupBits
	if id < FirstGroup || id >= m.next {
		return false
	}
	for g := range m.groups() {
		if g.ID != id {
			continue
		}
		if member, ok := g.Replica(node); ok && g.LogOf(member) == log {
			return false
		}
		if generation == 0 {
			return slices.ContainsFunc(g.Began, func(replica uint64) bool { return NodeOf(replica) == node })
		}
		return generation <= g.Given
	}
	return true
}

// groups yields the groups of all streams and consumers, in no order.
func (m *Machine) groups() iter.Seq[*Group] {
	return func(yield func(*Group) bool) {
		for _, streams := range m.accounts {
			for _, s := range streams {
				if !yield(&s.Group) {
					return
				}
				for _, c := range s.consumers {
					if !yield(&c.Group) {
						return
					}
				}
			}
		}
	}
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
