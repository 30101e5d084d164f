package meta

import (
	"encoding/binary"
	"encoding/json"
	"errors"
	"fmt"
	"hash/crc32"
	"strings"

	"millrace/appliance/server/jetstream/api"
)

// A snapshot is
//
//	0  4  "MRMC"
//	4  1  version
//	5  n  the catalogue as JSON, streams sorted by account and name, consumers by name
//	   4  CRC-32C of all bytes before it, little-endian
//
// so that equal catalogues have equal bytes.
const (
	snapshotMagic = "MRMC"
	// snapshotV1 is the first version. Groups are ids, carried by the founder alone, and there are no nodes.
	snapshotV1 = 1
	// snapshotV2 has nodes, and says where groups are.
	snapshotV2 = 2
)

var castagnoli = crc32.MakeTable(crc32.Castagnoli)

// catalogue is the JSON of a snapshot.
type catalogue struct {
	Next      uint64     `json:"next"`
	Streams   []Stream   `json:"streams"`
	Consumers []Consumer `json:"consumers"`
	Nodes     []Node     `json:"nodes,omitempty"`
}

// IsCheckpoint reports whether an entry is a snapshot.
func IsCheckpoint(entry []byte) bool { return strings.HasPrefix(string(entry), snapshotMagic) }

// Snapshot returns the catalogue's bytes. They are an entry too: see [Machine.Apply].
func (m *Machine) Snapshot() []byte {
	c := catalogue{Next: m.next, Nodes: m.Nodes()}
	for _, account := range m.Accounts() {
		for _, s := range m.Streams(account, "") {
			c.Streams = append(c.Streams, s)
			c.Consumers = append(c.Consumers, m.Consumers(account, s.Name)...)
		}
	}
	data, err := json.Marshal(&c)
	if err != nil {
		panic(fmt.Sprintf("BUG: the catalogue has no encoding: %v", err)) // configurations came from JSON
	}
	b := append([]byte(snapshotMagic), snapshotV2)
	b = append(b, data...)
	return binary.LittleEndian.AppendUint32(b, crc32.Checksum(b, castagnoli))
}

// Restore replaces the catalogue by that of a snapshot. After an error the catalogue is as before.
func (m *Machine) Restore(b []byte) error {
	head := len(snapshotMagic) + 1
	if len(b) < head+4 || string(b[:head-1]) != snapshotMagic {
		return fmt.Errorf("restore snapshot: no snapshot: %w", ErrCorrupt)
	}
	version := b[head-1]
	if version != snapshotV1 && version != snapshotV2 {
		return fmt.Errorf("restore snapshot: version %d: %w", b[head-1], ErrVersion)
	}
	body, sum := b[:len(b)-4], binary.LittleEndian.Uint32(b[len(b)-4:])
	if crc32.Checksum(body, castagnoli) != sum {
		return fmt.Errorf("restore snapshot: checksum: %w", ErrCorrupt)
	}
	var c catalogue
	if err := decodeStrict(body[head:], &c); err != nil {
		return fmt.Errorf("restore snapshot: %w", err)
	}
	n := New(m.founder)
	n.next = c.Next
	for _, node := range c.Nodes {
		if _, twice := n.nodes[node.ID]; twice {
			return fmt.Errorf("restore snapshot: node %x: %w", node.ID, ErrCorrupt)
		}
		n.nodes[node.ID] = node
	}
	place := func(g *Group) {
		if version == snapshotV1 {
			*g = founded(g.ID, m.founder)
		}
	}
	for _, s := range c.Streams {
		if s.Config == nil || n.accounts[s.Account][s.Name] != nil {
			return fmt.Errorf("restore snapshot: stream %q of account %q: %w", s.Name, s.Account, ErrCorrupt)
		}
		if n.accounts[s.Account] == nil {
			n.accounts[s.Account] = map[string]*stream{}
		}
		place(&s.Group)
		n.accounts[s.Account][s.Name] = &stream{Stream: s, consumers: map[string]*Consumer{}}
	}
	for _, cons := range c.Consumers {
		s := n.accounts[cons.Account][cons.Stream]
		if s == nil || cons.Config == nil || s.consumers[cons.Name] != nil {
			return fmt.Errorf("restore snapshot: consumer %q of stream %q: %w", cons.Name, cons.Stream, ErrCorrupt)
		}
		place(&cons.Group)
		s.consumers[cons.Name] = &cons
	}
	if err := n.check(); err != nil {
		return fmt.Errorf("restore snapshot: %w: %w", ErrCorrupt, err)
	}
	*m = *n
	return nil
}

// check verifies the invariants of Machine.
func (m *Machine) check() error {
	groups := map[uint64]bool{}
	take := func(g Group, what string) error {
		if err := g.check(); err != nil {
			return fmt.Errorf("%s: %w", what, err)
		}
		id := g.ID
		if id < FirstGroup || id >= m.next || groups[id] {
			return fmt.Errorf("group %d of %s", id, what)
		}
		groups[id] = true
		return nil
	}
	if m.next < FirstGroup || m.next > 1<<groupBits {
		return fmt.Errorf("next group %d", m.next)
	}
	if err := m.checkRegistry(); err != nil {
		return err
	}
	for _, account := range m.Accounts() {
		list := m.Streams(account, "")
		if len(list) == 0 {
			return fmt.Errorf("account %q has no stream", account)
		}
		for i, s := range list {
			if s.Account != account || s.Name != s.Config.Name || m.accounts[account][s.Name] == nil {
				return fmt.Errorf("stream %q of account %q is stored elsewhere", s.Name, account)
			}
			if err := take(s.Group, "stream "+s.Name); err != nil {
				return err
			}
			for _, other := range list[i+1:] {
				if api.SubjectsOverlap(s.Config.Subjects, other.Config.Subjects) {
					return fmt.Errorf("streams %q and %q overlap", s.Name, other.Name)
				}
			}
			if err := m.checkConsumers(s, take); err != nil {
				return err
			}
		}
	}
	return nil
}

func (m *Machine) checkConsumers(s Stream, take func(Group, string) error) error {
	all := m.accounts[s.Account][s.Name]
	for name, c := range all.consumers {
		if c.Account != s.Account || c.Stream != s.Name || c.Name != name || c.Config.Durable != name {
			return fmt.Errorf("consumer %q of stream %q is stored elsewhere", c.Name, s.Name)
		}
		if err := take(c.Group, "consumer "+c.Name); err != nil {
			return err
		}
		for _, list := range c.Group.lists() {
			for _, member := range list {
				if _, ok := s.Group.Replica(member.Node); !ok && !m.isRemoved(member.Node) {
					return fmt.Errorf("consumer %q is on node %x, its stream %q is not", name, member.Node, s.Name)
				}
			}
		}
		if s.Config.Retention == api.WorkQueuePolicy {
			if err := api.CheckWorkQueue(c.Config, all.all()); err != nil {
				return errors.New("consumer " + c.Name + ": " + err.Description)
			}
		}
	}
	return nil
}
