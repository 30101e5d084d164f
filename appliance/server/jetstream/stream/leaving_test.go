package stream

import (
	"fmt"
	"math/rand/v2"
	"testing"

	"millrace/appliance/server/jetstream/api"
)

// flights are entries on their way to a machine, which applies them later, and to a second one, which applies each
// message of a batch by itself, so that what it expects can be held against what there is.
type flights struct {
	*bench
	single  *Machine
	entries uint64
	going   [][]byte
	expects map[uint64]expectation // by the sequence of the message
}

type expectation struct {
	subject string
	last    uint64
}

// send puts an entry on its way.
func (f *flights) send(entry []byte) { f.going = append(f.going, entry) }

// land applies the oldest entry.
func (f *flights) land() {
	f.t.Helper()
	entry := f.going[0]
	f.going = f.going[1:]
	h, err := decodeHead(entry)
	if err != nil {
		f.t.Fatal(err)
	}
	if h.kind != KindMessages {
		f.one(entry)
		f.apply(entry)
		f.a.Moved()
		f.a.Left()
		return
	}
	off := entryHeader
	for range h.count {
		var r record
		if err := decodeRecord(entry[off:], &r); err != nil {
			f.t.Fatal(err)
		}
		off += int(r.size)
		if want, ok := f.expects[r.seq]; ok {
			if last, _ := f.single.LastMatching(want.subject); last != want.last {
				f.t.Errorf("message %d expects %d as the last of %s, which is %d when it is stored", r.seq, want.last, want.subject, last)
			}
		}
		one := appendEntryHeader(nil, KindMessages, r.seq, r.time)
		one[4] = 1
		f.one(appendRecord(one, &r))
	}
	f.apply(entry)
	f.a.Applied()
}

func (f *flights) one(entry []byte) {
	f.t.Helper()
	f.entries++
	if _, err := f.single.Apply(f.entries, entry); err != nil {
		f.t.Fatal(err)
	}
}

// What a message expects of its subject is true when it is stored, whatever was on its way when it was admitted; and
// it waits only while something is.
func TestAdmissionExpectsWhatWillBe(t *testing.T) {
	waited, kept := 0, 0
	for seed := range uint64(300) {
		rnd := rand.New(rand.NewPCG(seed, 2))
		cfg := api.StreamConfig{Name: "S", MaxMsgSize: -1, AllowRollup: true}
		switch rnd.IntN(3) {
		case 0:
			cfg.MaxMsgs = int64(rnd.IntN(8) + 1)
		case 1:
			cfg.MaxBytes = int64(rnd.IntN(300) + 200)
		}
		f := &flights{bench: newBench(t, cfg), single: New(), expects: map[uint64]expectation{}}
		f.one(EncodeConfig(f.now, cfg))
		subjects := []string{"a", "b", "c.1", "c.2", "c.*"}
		for range 200 {
			subj := subjects[rnd.IntN(len(subjects))]
			literal := subj
			if subj == "c.*" {
				literal = "c.1"
			}
			switch rnd.IntN(9) {
			case 0:
				p := Purge{Filter: []string{"", "a", "c.*"}[rnd.IntN(3)], Keep: uint64(rnd.IntN(2))}
				if p.Keep == 0 && rnd.IntN(2) == 0 {
					p.Seq = f.a.lastSeq - min(f.a.lastSeq, uint64(rnd.IntN(4)))
				}
				f.take()
				f.send(EncodePurge(f.now, p))
				f.a.Leave(Leaving{Purge: &p})
			case 1:
				r := Remove{Seqs: []uint64{f.a.lastSeq - min(f.a.lastSeq, uint64(rnd.IntN(4)))}}
				if rnd.IntN(3) == 0 {
					r = Remove{Upto: r.Seqs[0]}
				}
				f.take()
				f.send(EncodeRemove(f.now, r))
				f.a.Leave(Leaving{Remove: &r})
			case 2:
				if _, err := f.admit(literal, "", HeaderRollup, "all"); err != nil {
					t.Fatal(err)
				}
			case 3, 4:
				if len(f.going) > 0 {
					f.land()
				}
			case 5:
				f.take()
			default:
				last := f.a.lastOf([]byte(subj))
				v, err := f.admit(literal, "", HeaderExpectedSubjectSeq, fmt.Sprint(last), HeaderExpectedSubject, subj)
				switch {
				case err != nil:
					t.Fatal(err)
				case v.Wait:
					if waited++; len(f.going) == 0 && f.a.open.count == 0 {
						t.Fatalf("seed %d: nothing is in flight", seed)
					}
				default:
					kept++
					f.expects[v.Seq] = expectation{subj, last}
				}
			}
			if t.Failed() {
				t.Fatalf("seed %d", seed)
			}
		}
	}
	if waited == 0 || kept < waited {
		t.Errorf("%d messages waited, %d did not", waited, kept)
	}
}

// take sends the open batch on its way.
func (f *flights) take() {
	if entry := f.a.Take(); entry != nil {
		f.send(entry)
	}
}
