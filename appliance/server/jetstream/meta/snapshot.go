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
	// snapshotV1 is the first version.
	snapshotV1 = 1
)

var castagnoli = crc32.MakeTable(crc32.Castagnoli)

// catalogue is the JSON of a snapshot.
type catalogue struct {
	Next      uint64     `json:"next"`
	Streams   []Stream   `json:"streams"`
	Consumers []Consumer `json:"consumers"`
}

// IsCheckpoint reports whether an entry is a snapshot.
func IsCheckpoint(entry []byte) bool { return strings.HasPrefix(string(entry), snapshotMagic) }

// Snapshot returns the catalogue's bytes. They are an entry too: see [Machine.Apply].
func (m *Machine) Snapshot() []byte {
	c := catalogue{Next: m.next}
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
	b := append([]byte(snapshotMagic), snapshotV1)
	b = append(b, data...)
	return binary.LittleEndian.AppendUint32(b, crc32.Checksum(b, castagnoli))
}

// Restore replaces the catalogue by that of a snapshot. After an error the catalogue is as before.
func (m *Machine) Restore(b []byte) error {
	head := len(snapshotMagic) + 1
	if len(b) < head+4 || string(b[:head-1]) != snapshotMagic {
		return fmt.Errorf("restore snapshot: no snapshot: %w", ErrCorrupt)
	}
	if b[head-1] != snapshotV1 {
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
	n := New()
	n.next = c.Next
	for _, s := range c.Streams {
		if s.Config == nil || n.accounts[s.Account][s.Name] != nil {
			return fmt.Errorf("restore snapshot: stream %q of account %q: %w", s.Name, s.Account, ErrCorrupt)
		}
		if n.accounts[s.Account] == nil {
			n.accounts[s.Account] = map[string]*stream{}
		}
		n.accounts[s.Account][s.Name] = &stream{Stream: s, consumers: map[string]*Consumer{}}
	}
	for _, cons := range c.Consumers {
		s := n.accounts[cons.Account][cons.Stream]
		if s == nil || cons.Config == nil || s.consumers[cons.Name] != nil {
			return fmt.Errorf("restore snapshot: consumer %q of stream %q: %w", cons.Name, cons.Stream, ErrCorrupt)
		}
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
	take := func(id uint64, what string) error {
		if id < FirstGroup || id >= m.next || groups[id] {
			return fmt.Errorf("group %d of %s", id, what)
		}
		groups[id] = true
		return nil
	}
	if m.next < FirstGroup {
		return fmt.Errorf("next group %d", m.next)
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

func (m *Machine) checkConsumers(s Stream, take func(uint64, string) error) error {
	all := m.accounts[s.Account][s.Name]
	for name, c := range all.consumers {
		if c.Account != s.Account || c.Stream != s.Name || c.Name != name || c.Config.Durable != name {
			return fmt.Errorf("consumer %q of stream %q is stored elsewhere", c.Name, s.Name)
		}
		if err := take(c.Group, "consumer "+c.Name); err != nil {
			return err
		}
		if s.Config.Retention == api.WorkQueuePolicy {
			if err := api.CheckWorkQueue(c.Config, all.all()); err != nil {
				return errors.New("consumer " + c.Name + ": " + err.Description)
			}
		}
	}
	return nil
}
