package stream

import (
	"bytes"
	"encoding/binary"
	"fmt"
	"math"
	"strconv"
	"time"

	"millrace/appliance/server/jetstream/api"
	"millrace/appliance/server/wire"
)

// Admission decides, where the stream's group leads, what becomes of a publish: it checks limits,
// expectations and duplicates against the machine and against what is in flight, gives the message
// its sequence and puts its record into the open batch. It is pure and not safe for concurrent use.
type Admission struct {
	m *Machine
	// interest reports whether a consumer wants the subject; used by interest retention only.
	interest func(subject string) bool

	open     batch
	inflight []batch   // taken, not applied; oldest first
	leaving  []Leaving // entries that take messages out, not applied; oldest first
	lastSeq  uint64    // last sequence given out
	lastTime int64
	messages uint64 // in flight and open
	bytes    uint64
	encoded  int               // bytes of records in flight and open
	ids      map[string]uint64 // message ids in flight and open
	// subjects holds what is in flight per subject: only kept once a publish has asked for it.
	subjects map[string]subjectFlight
}

type subjectFlight struct{ last, count uint64 }

// batch is a run of records on its way into the log.
type batch struct {
	buf             []byte
	count           uint32
	first, last     uint64
	rollup          uint64 // the last record that removes all before it; 0: none
	messages, bytes uint64
	ids             []string
	subjects        []string
}

// NewAdmission returns the admission of a machine that has applied its whole log.
func NewAdmission(m *Machine, interest func(subject string) bool) *Admission {
	return &Admission{m: m, interest: interest, lastSeq: m.last, lastTime: m.lastTime}
}

// Publish is one message that wants to be stored. Its slices are borrowed for the call.
type Publish struct {
	Subject, Header, Data []byte
}

// Verdict is what Admit decided.
type Verdict struct {
	// Seq is the sequence of the message, or of the stored one that it repeats.
	Seq uint64
	// Duplicate tells that a message with this id has Seq, which may still be in flight.
	Duplicate bool
	// Wait tells that nothing is decided: what the message expects of the stream is true now, and may not be when what
	// is in flight is applied. It is to be admitted again when more of that is, and before what comes after it.
	Wait bool
}

// Admit checks p and, if nothing is against it, puts it into the open batch.
func (a *Admission) Admit(now time.Time, p Publish) (Verdict, *api.Error) {
	cfg := &a.m.cfg
	if cfg.Sealed {
		return Verdict{}, api.ErrStreamSealed
	}
	if limit := cfg.MaxMsgSize; limit >= 0 && limit < math.MaxInt32 && len(p.Header)+len(p.Data) > int(limit) {
		return Verdict{}, api.ErrStreamMessageExceedsMaximum
	}
	if !validSubject(p.Subject) {
		return Verdict{}, api.ErrStreamStoreFailedF(fmt.Sprintf("subject %.100q cannot be stored", p.Subject))
	}
	if len(p.Header) > math.MaxUint16 {
		return Verdict{}, api.ErrStreamHeaderExceedsMaximum
	}
	ns := max(now.UnixNano(), a.lastTime)
	var flags uint16
	var id []byte
	if len(p.Header) > 0 {
		if v := wire.Header(p.Header, HeaderBatchID); len(v) > 0 {
			return Verdict{}, api.ErrAtomicPublishDisabled
		}
		id = wire.Header(p.Header, HeaderMsgID)
		verdict, err := a.expectations(p, id, ns)
		if err != nil || verdict.Duplicate || verdict.Wait {
			return verdict, err
		}
		if flags, err = a.rollup(p.Header); err != nil {
			return Verdict{}, err
		}
		if len(id) > 0 {
			flags |= flagMsgID
		}
	}
	payload := len(p.Subject) + len(p.Header) + len(p.Data)
	size := accounted(cfg.Storage, payload, len(p.Header) > 0)
	switch {
	case cfg.Retention == api.InterestPolicy && !a.interest(string(p.Subject)):
		flags |= flagNoInterest
	default:
		if err := a.limits(p.Subject, size); err != nil {
			return Verdict{}, err
		}
	}
	a.add(p, flags, id, ns, size)
	return Verdict{Seq: a.lastSeq}, nil
}

// expectations checks what the header demands of the stream, in nats-server's order. A message that is not refused
// by what the stream will hold when everything in flight is applied may have to wait for it.
func (a *Admission) expectations(p Publish, id []byte, now int64) (Verdict, *api.Error) {
	h := p.Header
	if v := wire.Header(h, HeaderExpectedStream); len(v) > 0 && string(v) != a.m.cfg.Name {
		return Verdict{}, api.ErrStreamNotMatch
	}
	if v := wire.Header(h, HeaderTTL); len(v) > 0 {
		return Verdict{}, api.ErrMessageTTLDisabled
	}
	if v := wire.Header(h, HeaderIncrement); len(v) > 0 {
		return Verdict{}, api.ErrMessageIncrDisabled
	}
	if v := wire.Header(h, HeaderSchedule); len(v) > 0 {
		return Verdict{}, api.ErrMessageSchedulesDisabled
	}
	wait := false
	subj := wire.Header(h, HeaderExpectedSubject)
	if v := wire.Header(h, HeaderExpectedSubjectSeq); len(v) > 0 {
		if len(subj) == 0 {
			subj = p.Subject
		}
		want, err := strconv.ParseUint(string(v), 10, 64)
		last := a.lastOf(subj)
		if err != nil || want != last {
			return Verdict{}, api.ErrStreamWrongLastSequenceF(last)
		}
		wait = a.undecided(subj, last)
	} else if len(subj) > 0 {
		return Verdict{}, api.ErrStreamExpectedLastSeqPerSubjectInvalid
	}
	if v := wire.Header(h, HeaderExpectedLastSeq); len(v) > 0 {
		if want, err := strconv.ParseUint(string(v), 10, 64); err != nil || want != a.lastSeq {
			return Verdict{}, api.ErrStreamWrongLastSequenceF(a.lastSeq)
		}
	}
	if len(id) > 0 {
		if seq, ok := a.ids[string(id)]; ok {
			return Verdict{Seq: seq, Duplicate: true}, nil
		}
		if seq, ok := a.m.dedupe.find(id, now); ok {
			return Verdict{Seq: seq, Duplicate: true}, nil
		}
	}
	if v := wire.Header(h, HeaderExpectedLastMsgID); len(v) > 0 {
		if last := a.lastMsgID(); string(v) != last {
			return Verdict{}, api.ErrStreamWrongLastMsgIDF(last)
		}
	}
	return Verdict{Wait: wait}, nil
}

func (a *Admission) rollup(h []byte) (uint16, *api.Error) {
	v := bytes.ToLower(wire.Header(h, HeaderRollup))
	switch {
	case len(v) == 0:
		return 0, nil
	case !a.m.cfg.AllowRollup || a.m.cfg.DenyPurge:
		return 0, api.ErrStreamRollupFailedF("rollup not permitted")
	case string(v) == "sub":
		return flagRollupSub, nil
	case string(v) == "all":
		return flagRollupAll, nil
	default:
		return 0, api.ErrStreamRollupFailedF(fmt.Sprintf("rollup value invalid: %q", wire.Header(h, HeaderRollup)))
	}
}

// limits refuses what a stream that discards new messages has no room for.
func (a *Admission) limits(subj []byte, size uint64) *api.Error {
	cfg := &a.m.cfg
	if n := cfg.MaxBytes; n > 0 && size > uint64(n) {
		return api.ErrStreamStoreFailedF("maximum bytes exceeded")
	}
	if cfg.Discard != api.DiscardNew {
		return nil
	}
	if n := cfg.MaxMsgsPer; n > 0 && cfg.DiscardNewPer {
		if _, have, _, _ := a.m.ix.Find(subj); have+a.flight(subj).count >= uint64(n) {
			return api.ErrStreamStoreFailedF("maximum messages per subject exceeded")
		}
	}
	if n := cfg.MaxMsgs; n > 0 && a.m.ix.Count()+a.messages >= uint64(n) {
		// A full subject makes room for its own newest message.
		_, have, _, _ := a.m.ix.Find(subj)
		if cfg.MaxMsgsPer <= 0 || cfg.DiscardNewPer || have < uint64(cfg.MaxMsgsPer) {
			return api.ErrStreamStoreFailedF("maximum messages exceeded")
		}
	}
	if n := cfg.MaxBytes; n > 0 && a.m.bytes+a.bytes+size > uint64(n) {
		return api.ErrStreamStoreFailedF("maximum bytes exceeded")
	}
	return nil
}

func (a *Admission) add(p Publish, flags uint16, id []byte, now int64, size uint64) {
	a.lastSeq++
	a.lastTime = now
	b := &a.open
	if b.count == 0 {
		if cap(b.buf) == 0 {
			b.buf = make([]byte, 0, 4096)
		}
		b.buf = appendEntryHeader(b.buf[:0], KindMessages, a.lastSeq, now)
		b.first = a.lastSeq
	}
	b.buf = appendRecord(b.buf, &record{
		seq: a.lastSeq, time: now, flags: flags, subject: p.Subject, header: p.Header, data: p.Data,
	})
	a.encoded += recordHeader + len(p.Subject) + len(p.Header) + len(p.Data)
	b.count++
	b.last = a.lastSeq
	if flags&flagRollupAll != 0 {
		b.rollup = a.lastSeq
	}
	if flags&flagNoInterest == 0 {
		b.messages++
		b.bytes += size
		a.messages++
		a.bytes += size
	}
	if len(id) > 0 {
		if a.ids == nil {
			a.ids = map[string]uint64{}
		}
		s := string(id)
		a.ids[s] = a.lastSeq
		b.ids = append(b.ids, s)
	}
	if a.subjects != nil {
		s := string(p.Subject)
		f := a.subjects[s]
		a.subjects[s] = subjectFlight{last: a.lastSeq, count: f.count + 1}
		b.subjects = append(b.subjects, s)
	}
}

// flight returns what is in flight of a subject.
func (a *Admission) flight(subj []byte) subjectFlight {
	if a.subjects == nil {
		a.trackSubjects()
	}
	return a.subjects[string(subj)]
}

// trackSubjects starts the account of subjects in flight with the records already there.
func (a *Admission) trackSubjects() {
	a.subjects = map[string]subjectFlight{}
	track := func(b *batch) {
		var r record
		b.subjects = b.subjects[:0]
		for off, n := entryHeader, b.count; n > 0; n-- {
			if err := decodeRecord(b.buf[off:], &r); err != nil {
				panic("BUG: " + err.Error())
			}
			off += int(r.size)
			s := string(r.subject)
			a.subjects[s] = subjectFlight{last: r.seq, count: a.subjects[s].count + 1}
			b.subjects = append(b.subjects, s)
		}
	}
	for i := range a.inflight {
		track(&a.inflight[i])
	}
	track(&a.open)
}

// lastOf returns the sequence of the newest message of subj, stored or in flight; 0 if none, or if one in flight
// removes it. subj may be a filter.
func (a *Admission) lastOf(subj []byte) uint64 {
	if bytes.ContainsAny(subj, "*>") {
		f := NewFilter(string(subj))
		last, _ := a.m.LastMatching(string(subj))
		a.flight(nil)
		for s, fl := range a.subjects {
			if f.Matches(s) {
				last = max(last, fl.last)
			}
		}
		return a.left(last)
	}
	if fl := a.flight(subj); fl.last > 0 {
		return a.left(fl.last)
	}
	last, _ := a.m.LastOf(string(subj))
	return a.left(last)
}

// left returns seq, 0 if a message in flight removes it.
func (a *Admission) left(seq uint64) uint64 {
	if seq < a.rolledUp() {
		return 0
	}
	return seq
}

// lastMsgID returns the id of the newest message, stored or in flight.
func (a *Admission) lastMsgID() string {
	newest := &a.open
	if newest.count == 0 && len(a.inflight) > 0 {
		newest = &a.inflight[len(a.inflight)-1]
	}
	if newest.count == 0 {
		return a.m.lastMsgID
	}
	for _, id := range newest.ids {
		if a.ids[id] == newest.last {
			return id
		}
	}
	return ""
}

// Pending returns the encoded bytes of what is open and in flight.
func (a *Admission) Pending() int { return a.encoded }

// Open returns the number of messages and bytes of the open batch.
func (a *Admission) Open() (messages, size int) { return int(a.open.count), len(a.open.buf) }

// Take closes the open batch and returns its entry, nil if it is empty. The caller owns the entry;
// its bytes must not change.
func (a *Admission) Take() []byte {
	if a.open.count == 0 {
		return nil
	}
	b := a.open
	binary.LittleEndian.PutUint32(b.buf[4:], b.count)
	a.inflight = append(a.inflight, b)
	a.open = batch{buf: make([]byte, 0, min(max(cap(b.buf)/2, 2*len(b.buf)), 1<<20)), ids: nil}
	return b.buf
}

// Applied tells that the machine has applied the oldest taken batch.
func (a *Admission) Applied() {
	b := a.inflight[0]
	a.inflight[0] = batch{}
	a.inflight = a.inflight[1:]
	a.settle(b)
}

// settle takes a batch out of the account of what is in flight.
func (a *Admission) settle(b batch) {
	a.encoded -= max(0, len(b.buf)-entryHeader)
	a.messages -= b.messages
	a.bytes -= b.bytes
	for _, id := range b.ids {
		if a.ids[id] <= b.last {
			delete(a.ids, id)
		}
	}
	for _, s := range b.subjects {
		if f := a.subjects[s]; f.count <= 1 {
			delete(a.subjects, s)
		} else {
			a.subjects[s] = subjectFlight{last: f.last, count: f.count - 1}
		}
	}
}

// Retract takes back the newest taken batch, which the group has refused, and the open one: their
// sequences are given out again.
func (a *Admission) Retract() {
	n := len(a.inflight) - 1
	refused, open := a.inflight[n], a.open
	a.inflight[n] = batch{}
	a.inflight = a.inflight[:n]
	a.open = batch{}
	a.lastSeq = refused.first - 1
	a.settle(open)
	a.settle(refused)
	a.subjects = nil // counted anew when needed
}

// Skip makes seq the lowest sequence that is given out from now on, behind a purge of everything before
// it; the open batch must be empty. It returns the last sequence given out before.
func (a *Admission) Skip(seq uint64) (before uint64) {
	before = a.lastSeq
	a.lastSeq = max(a.lastSeq, seq-1)
	return before
}

// Unskip takes a Skip back, and with it the open batch.
func (a *Admission) Unskip(before uint64) {
	open := a.open
	a.open = batch{}
	a.lastSeq = before
	a.settle(open)
	a.subjects = nil
}

// Moved tells that the machine's last sequence may have moved without a message.
func (a *Admission) Moved() {
	if len(a.inflight) == 0 && a.open.count == 0 {
		a.lastSeq = max(a.lastSeq, a.m.last)
	}
}
