package core_test

import (
	"bytes"
	"reflect"
	"strings"
	"testing"

	"millrace/raft/core"
)

// encode returns a message as it is on the wire.
func encode(m *core.Message) []byte {
	return bytes.Join(m.AppendData([][]byte{m.AppendHeader(nil)}), nil)
}

// sample returns a valid message of each type.
func samples() []core.Message {
	head := core.Message{From: 3, To: 1<<64 - 4, Term: 7}
	with := func(set func(m *core.Message)) core.Message {
		m := head
		set(&m)
		return m
	}
	return []core.Message{
		with(func(m *core.Message) {
			m.Type, m.Index, m.LogTerm, m.Commit = core.MsgApp, 10, 5, 9
			m.Entries = []core.Entry{{Index: 11, Term: 5, Data: []byte("first")}, {Index: 12, Term: 7},
				{Index: 13, Term: 7, Type: core.EntryConfChangeV2, Data: []byte{18, 4, 8, 0, 16, 4}}}
		}),
		with(func(m *core.Message) { m.Type, m.Commit = core.MsgApp, 3 }),
		with(func(m *core.Message) {
			m.Type, m.Reject, m.Index, m.RejectHint, m.LogTerm = core.MsgAppResp, true, 12, 8, 3
		}),
		with(func(m *core.Message) {
			m.Type, m.Index, m.LogTerm, m.Context = core.MsgVote, 10, 5, []byte("CampaignTransfer")
		}),
		with(func(m *core.Message) { m.Type = core.MsgVoteResp }),
		with(func(m *core.Message) { m.Type, m.Index, m.LogTerm = core.MsgPreVote, 10, 6 }),
		with(func(m *core.Message) { m.Type, m.Reject = core.MsgPreVoteResp, true }),
		with(func(m *core.Message) {
			m.Type = core.MsgSnap
			m.Snapshot = &core.SnapshotMeta{Index: 20, Term: 6, Members: core.Membership{
				Voters: []uint64{1, 3}, Learners: []uint64{5}, Outgoing: []uint64{1, 2, 4},
				LearnersNext: []uint64{2}, AutoLeave: true}}
		}),
		with(func(m *core.Message) {
			m.Type, m.Commit, m.Context = core.MsgHeartbeat, 4, []byte{1, 0, 0, 0, 0, 0, 0, 0}
		}),
		with(func(m *core.Message) { m.Type = core.MsgHeartbeatResp }),
		with(func(m *core.Message) { m.Type = core.MsgTimeoutNow }),
	}
}

func TestMessageRoundTrip(t *testing.T) {
	types := make(map[core.MessageType]bool)
	for _, m := range samples() {
		types[m.Type] = true
		b := encode(&m)
		if len(b) != m.HeaderSize()+m.DataSize() {
			t.Errorf("%s: %d bytes, announced are %d and %d", m.Type, len(b), m.HeaderSize(), m.DataSize())
		}
		got, err := core.DecodeMessage(b)
		if err != nil || !reflect.DeepEqual(got, m) {
			t.Errorf("%s: decoded %+v (%v), want %+v", m.Type, got, err, m)
		}
		for n := range b {
			if _, err := core.DecodeMessage(b[:n]); err == nil {
				t.Errorf("%s: the first %d of %d bytes are taken for a message", m.Type, n, len(b))
			}
		}
		if _, err := core.DecodeMessage(append(b, 0)); err == nil {
			t.Errorf("%s: a byte too many is taken", m.Type)
		}
	}
	if len(types) != int(core.MsgTimeoutNow) {
		t.Errorf("%d types of messages were tried, there are %d", len(types), core.MsgTimeoutNow)
	}
}

func TestMessageDataIsNotCopied(t *testing.T) {
	m := samples()[0]
	parts := m.AppendData(nil)
	if len(parts) != 2 || &parts[0][0] != &m.Entries[0].Data[0] {
		t.Errorf("%d parts, or a copy; want the data of the two entries that have some", len(parts))
	}
	b := encode(&m)
	got, err := core.DecodeMessage(b)
	if err != nil {
		t.Fatal(err)
	}
	if &got.Entries[0].Data[0] != &b[m.HeaderSize()] {
		t.Error("the decoded data is a copy")
	}
}

// The bytes of a message must not change from release to release.
func TestMessageBytesAreStable(t *testing.T) {
	m := core.Message{Type: core.MsgApp, From: 1, To: 2, Term: 3, LogTerm: 2, Index: 4, Commit: 5,
		Entries: []core.Entry{{Index: 5, Term: 3, Data: []byte("xy")}}}
	want := "\x01\x01\x00\x00" + "\x01\x00\x00\x00" +
		"\x01\x00\x00\x00\x00\x00\x00\x00" + "\x02\x00\x00\x00\x00\x00\x00\x00" +
		"\x03\x00\x00\x00\x00\x00\x00\x00" + "\x02\x00\x00\x00\x00\x00\x00\x00" +
		"\x04\x00\x00\x00\x00\x00\x00\x00" + "\x05\x00\x00\x00\x00\x00\x00\x00" +
		"\x00\x00\x00\x00\x00\x00\x00\x00" +
		"\x03\x00\x00\x00\x00\x00\x00\x00" + "\x02\x00\x00\x00" + "\x00\x00\x00\x00" + "xy"
	if got := encode(&m); string(got) != want {
		t.Errorf("encoded %q, want %q", got, want)
	}
}

// malformed are changes that make a message one that no replica sends, by the error they give.
var malformed = []struct {
	want   string
	sample int // index in samples
	change func(m *core.Message)
}{
	{"unknown type 0", 0, func(m *core.Message) { m.Type = 0 }},
	{"unknown type 99", 4, func(m *core.Message) { m.Type = 99 }},
	{"MsgVoteResp from replica 0 to", 4, func(m *core.Message) { m.From = 0 }},
	{"to 18446744073709551615", 4, func(m *core.Message) { m.To = 1<<64 - 1 }},
	{"from replica 3 to 3", 4, func(m *core.Message) { m.To = 3 }},
	{"of term 0", 4, func(m *core.Message) { m.Term = 0 }},
	{"with 3 entries", 0, func(m *core.Message) { m.Type = core.MsgHeartbeat }},
	{"MsgSnap with snapshot false", 7, func(m *core.Message) { m.Snapshot = nil }},
	{"entry 13 of type 1", 0, func(m *core.Message) { m.Entries[2].Type = core.EntryConfChange }},
	{"entry 12 of term 4 after one of term 5", 0, func(m *core.Message) { m.Entries[1].Term = 4 }},
	{"entry 13 of term 8", 0, func(m *core.Message) { m.Entries[2].Term = 8 }},
	{"previous entry 0 of term 5", 0, func(m *core.Message) { m.Index = 0 }},
	{"with index 18446744073709551615", 1, func(m *core.Message) { m.Index = 1<<64 - 1 }},
	{"hint 13 for index 12", 2, func(m *core.Message) { m.RejectHint = 13 }},
	{"log term 7 in term 7", 3, func(m *core.Message) { m.LogTerm = 7 }},
	{"context of 3 bytes", 8, func(m *core.Message) { m.Context = m.Context[:3] }},
	{"snapshot of entry 0", 7, func(m *core.Message) { m.Snapshot.Index = 0 }},
	{"snapshot of term 9 in term 7", 7, func(m *core.Message) { m.Snapshot.Term = 9 }},
	{"no voters", 7, func(m *core.Message) { m.Snapshot.Members.Voters = nil }},
	{"not sorted", 7, func(m *core.Message) { m.Snapshot.Members.Outgoing = []uint64{2, 1} }},
	{"both a voter and a learner", 7, func(m *core.Message) { m.Snapshot.Members.Learners = []uint64{3} }},
	{"not a voter that leaves", 7, func(m *core.Message) { m.Snapshot.Members.LearnersNext = []uint64{9} }},
	{"not in a joint change", 7, func(m *core.Message) { m.Snapshot.Members.Outgoing = nil }},
	{"replica id 0", 7, func(m *core.Message) { m.Snapshot.Members.Voters[0] = 0 }},
}

func TestMessageMalformed(t *testing.T) {
	for _, test := range malformed {
		m := samples()[test.sample]
		test.change(&m)
		if _, err := core.DecodeMessage(encode(&m)); err == nil || !strings.Contains(err.Error(), test.want) {
			t.Errorf("decoded: %v, want %q", err, test.want)
		}
	}
	b := encode(&samples()[0])
	for at, want := range map[int]string{
		0: "version 255, known is 1", 2: "unknown flags 0xff", 7: "ends too early",
		messageHead + 13: "entry 0: unknown flags",
	} {
		bad := bytes.Clone(b)
		bad[at] = 0xff
		if _, err := core.DecodeMessage(bad); err == nil || !strings.Contains(err.Error(), want) {
			t.Errorf("byte %d changed: %v, want %q", at, err, want)
		}
	}
}

const messageHead = 64

func FuzzDecodeMessage(f *testing.F) {
	for _, m := range samples() {
		f.Add(encode(&m))
	}
	f.Add([]byte{1})
	f.Add(bytes.Repeat([]byte{0xff}, 100))
	f.Fuzz(func(t *testing.T, b []byte) {
		m, err := core.DecodeMessage(b)
		if err != nil {
			return
		}
		if got := encode(&m); !bytes.Equal(got, b) {
			t.Errorf("decoded and encoded %q, from %q", got, b)
		}
		// What can be decoded can be stepped by a replica of the group. Only one that misses what it
		// is told to have panics.
		c := newCluster(t, 1, 2, 3)
		r := c.replicas[1]
		m.To = 1
		if m.Commit > 0 && m.Type == core.MsgHeartbeat || m.From == 1 {
			return
		}
		if err := r.core.Step(&m); err == nil {
			r.core.Ready(&r.rd)
		}
	})
}
