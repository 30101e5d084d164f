package workload

import (
	"crypto/sha256"
	"fmt"
	"slices"
	"strings"
	"testing"
	"time"
)

// published is what a publisher of n messages knows, with what the stream holds.
func published(n int) (Published, *Content) {
	p := Published{Publisher: "p", Subject: "s", Sent: n, Acked: make(map[int]Acked), Ordered: true}
	c := &Content{Stream: "S", Leader: "n1"}
	for i := 1; i <= n; i++ {
		id := fmt.Sprintf("p-%d", i)
		p.Acked[i] = Acked{Seq: uint64(i)}
		c.Messages = append(c.Messages, Message{Seq: uint64(i), Subject: "s.p", ID: id, Data: content(id, 0)})
	}
	return p, c
}

func TestCheckPublished(t *testing.T) {
	p, c := published(5)
	if err := CheckPublished(c, []Published{p}); err != nil {
		t.Error(err)
	}
	for _, tt := range []struct {
		name  string
		spoil func(p *Published, c *Content)
		want  string
	}{
		{"lost", func(p *Published, c *Content) { c.Messages = slices.Delete(c.Messages, 2, 3) }, "p-3 was acknowledged as 3 and is lost"},
		{"twice", func(p *Published, c *Content) {
			again := c.Messages[1]
			again.Seq = 6
			c.Messages = append(c.Messages, again)
		}, "p-2 is stored twice, as 2 and 6"},
		{"order", func(p *Published, c *Content) {
			c.Messages[1].ID, c.Messages[2].ID = "p-3", "p-2"
			c.Messages[1].Data, c.Messages[2].Data = c.Messages[2].Data, c.Messages[1].Data
		}, "p-2 is stored after p-3"},
		{"content", func(p *Published, c *Content) { c.Messages[0].Data = []byte("x") }, "is not what was sent"},
		{"never sent", func(p *Published, c *Content) { p.Sent = 4; delete(p.Acked, 5) }, "message 5"},
		{"sequence", func(p *Published, c *Content) { p.Acked[5] = Acked{Seq: 7} }, "acknowledged as 7 and is stored as 5"},
	} {
		p, c := published(5)
		tt.spoil(&p, c)
		wants(t, tt.name, CheckPublished(c, []Published{p}), tt.want)
	}
	// What is not acknowledged may be there or not.
	p, c = published(5)
	delete(p.Acked, 5)
	p.Sent = 6
	if err := CheckPublished(c, []Published{p}); err != nil {
		t.Error(err)
	}
}

func TestCheckEqual(t *testing.T) {
	_, a := published(3)
	_, b := published(3)
	a.hash()
	b.hash()
	if err := CheckEqual([]*Content{a, b}); err != nil {
		t.Error(err)
	}
	b.Messages[1].Time = time.Unix(1, 0)
	b.hash()
	wants(t, "time", CheckEqual([]*Content{a, b}), "contents differ: message 2")
	b.Hash, b.State.Bytes = a.Hash, 1
	wants(t, "state", CheckEqual([]*Content{a, b}), "states differ")
	if a.Hash == ([sha256.Size]byte{}) {
		t.Error("no hash")
	}
}

func TestCheckDelivered(t *testing.T) {
	p, _ := published(3)
	now := time.Now()
	var d Deliveries
	for seq := range uint64(2) {
		d.deliver(seq+1, fmt.Sprintf("p-%d", seq+1), now)
	}
	wants(t, "lost", CheckDelivered("C", &d, []Published{p}), "p-3, acknowledged as 3, was never delivered")
	d.deliver(3, "p-3", now)
	d.confirm(3)
	d.deliver(3, "p-3", now) // it was on its way
	if err := CheckDelivered("C", &d, []Published{p}); err != nil {
		t.Error(err)
	}
	d.deliver(3, "p-3", time.Now().Add(time.Second))
	wants(t, "again", CheckDelivered("C", &d, []Published{p}), "message 3 (p-3) came again")
	d = Deliveries{StaleLeaders: true}
	for range 2 {
		d.deliver(1, "p-1", time.Now().Add(time.Second))
		d.confirm(1)
	}
	if len(d.again) != 0 {
		t.Error(d.again)
	}
	d.deliver(1, "p-2", now)
	wants(t, "changed", CheckDelivered("C", &d, nil), "message 1 was p-1 and is p-2")
}

// history is a bucket with three writes of one key, one of them without an answer, and a refused one.
func history() (*Bucket, *Content) {
	b := &Bucket{Name: "B", ops: []*operation{
		{client: 1, key: "k", value: "a", call: 1, ret: 2, revision: 1},
		{client: 2, key: "k", value: "b", expected: 1, call: 3},
		{client: 3, key: "k", value: "x", expected: 1, call: 3, ret: 9, refused: true},
		{client: 1, key: "k", value: "c", expected: 2, call: 5, ret: 6, revision: 3},
		{client: 4, key: "k", value: "y", expected: 1, call: 3},
	}}
	c := &Content{Stream: "KV_B"}
	for i, value := range []string{"a", "b", "c"} {
		c.Messages = append(c.Messages, Message{Seq: uint64(i + 1), Subject: "$KV.B.k", Data: []byte(value)})
	}
	return b, c
}

func TestBucketCheck(t *testing.T) {
	b, c := history()
	if err := b.Check(c); err != nil {
		t.Error(err)
	}
	for _, tt := range []struct {
		name  string
		spoil func(b *Bucket, c *Content)
		want  string
	}{
		{"lost", func(b *Bucket, c *Content) { c.Messages = c.Messages[:2] }, `value "c" of key k was written as revision 3; the stream has it as 0`},
		{"lost in the middle", func(b *Bucket, c *Content) { c.Messages = slices.Delete(c.Messages, 1, 2) }, `expected revision 2 and was written over revision 1`},
		{"refused", func(b *Bucket, c *Content) { c.Messages[2].Data = []byte("x") }, `value "x" of key k was refused and is there`},
		{"twice", func(b *Bucket, c *Content) {
			c.Messages = append(c.Messages, Message{Seq: 4, Subject: "$KV.B.k", Data: []byte("c")})
		}, `value "c" of key k has revisions 3 and 4`},
		{"nobody", func(b *Bucket, c *Content) { c.Messages[1].Data = []byte("z") }, "which nobody wrote there"},
		{"both of two", func(b *Bucket, c *Content) {
			// Two clients were told that they wrote over revision 1.
			b.ops[4].ret, b.ops[4].revision = 7, 4
			c.Messages = append(c.Messages, Message{Seq: 4, Subject: "$KV.B.k", Data: []byte("y")})
		}, "no order"},
		{"before it was asked", func(b *Bucket, c *Content) { b.ops[1].call = 8 }, "no order"},
	} {
		b, c := history()
		tt.spoil(b, c)
		wants(t, tt.name, b.Check(c), tt.want)
	}
}

func wants(t *testing.T, name string, err error, want string) {
	t.Helper()
	if err == nil || !strings.Contains(err.Error(), want) {
		t.Errorf("%s: found %v, want %q", name, err, want)
	}
}
