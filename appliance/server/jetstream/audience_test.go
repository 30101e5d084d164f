package jetstream

import (
	"cmp"
	"fmt"
	"maps"
	"math/rand/v2"
	"slices"
	"strings"
	"testing"
	"testing/synctest"
	"time"

	"millrace/appliance/server/jetstream/api"
	"millrace/appliance/server/jetstream/stream"
)

// Whom an entry concerns, compared with what asking each consumer finds, while consumers come, change their
// filter, catch up, fall behind and go.
func TestAudienceAgainstModel(t *testing.T) {
	for seed := range uint64(20) {
		rng := rand.New(rand.NewPCG(seed, 0))
		s := &Stream{account: &account{engine: &Engine{}}, consumers: map[string]*consumerEntry{}, audience: newAudience()}
		filters := []string{"", "k.*", "k.>", ">", "*.1", "k.1", "k.2", "k.3.x", "j"}
		subjects := []string{"k.1", "k.2", "k.3", "k.3.x", "j", "j.1", "l.9"}
		config := func() (cfg api.ConsumerConfig) {
			if f := filters[rng.IntN(len(filters))]; rng.IntN(3) > 0 {
				cfg.FilterSubject = f
			} else {
				cfg.FilterSubjects = []string{filters[1+rng.IntN(8)], filters[1+rng.IntN(8)]}
			}
			return cfg
		}
		live, behind := map[*consumerEntry]bool{}, map[*consumerEntry]bool{}
		refiltered := map[*consumerEntry]bool{}
		any := func() *consumerEntry {
			for _, c := range s.consumers {
				return c
			}
			return nil
		}
		for index := uint64(1); index < 300; index++ {
			switch c := any(); rng.IntN(6) {
			case 0, 1:
				cfg := config()
				cfg.Name = fmt.Sprint("C", index)
				c := s.newConsumer(0, cfg, time.Now())
				s.mu.Lock()
				s.enterLocked(c)
				s.mu.Unlock()
			case 2:
				if c != nil && rng.IntN(2) == 0 {
					s.forgetConsumer(c)
					s.noteBehind(c, true) // its goroutine is about to end
					delete(live, c)
					delete(behind, c)
				}
			case 3:
				if c != nil {
					cfg := config()
					changed := !slices.Equal(cfg.Filters(), c.config.Filters())
					s.mu.Lock()
					s.configureLocked(c, cfg)
					s.mu.Unlock()
					if changed {
						refiltered[c], live[c] = true, false
					}
				}
			case 4:
				if c != nil {
					s.noteLive(c)
					live[c] = !refiltered[c]
				}
			case 5:
				if c != nil {
					on := rng.IntN(2) == 0
					s.noteBehind(c, on)
					behind[c] = on
				}
			}

			fx := stream.Effects{HeadMoved: rng.IntN(2) == 0, ByPurge: rng.IntN(4) == 0}
			if rng.IntN(2) == 0 {
				fx.Removed = []uint64{1}
			}
			var entry []byte
			var stored []string
			if rng.IntN(3) > 0 {
				for range 1 + rng.IntN(3) {
					stored = append(stored, subjects[rng.IntN(len(subjects))])
				}
				entry = messagesEntry(t, stored...)
				fx.First, fx.Last, fx.ByPurge = 1, uint64(len(stored)), false
			}
			var attentive, removal, arrival []*consumerEntry
			for _, c := range s.consumers {
				matched := slices.ContainsFunc(stored, c.filter.Matches)
				switch {
				case !live[c]:
					if fx.HeadMoved || fx.Removed != nil {
						attentive = append(attentive, c)
					}
				case fx.Last == 0 && (fx.ByPurge || fx.Removed != nil), matched && fx.Removed != nil:
					removal = append(removal, c)
				}
				if matched || fx.Last > 0 && behind[c] {
					arrival = append(arrival, c)
				}
			}
			var got concerned
			s.concern(&got, index, entry, &fx)
			for _, x := range []struct {
				what      string
				got, want []*consumerEntry
			}{{"attentive", got.attentive, attentive}, {"removal", got.removal, removal}, {"arrival", got.arrival, arrival}} {
				if g, w := names(x.got), names(x.want); !slices.Equal(g, w) {
					t.Fatalf("seed %d, entry %d of %v, %+v: %s %v, want %v", seed, index, stored, fx, x.what, g, w)
				}
			}
		}
		for c := range maps.Clone(s.consumers) {
			s.forgetConsumer(s.consumers[c])
		}
		if a := &s.audience; len(a.groups)+len(a.attentive)+len(a.behind)+a.bySubject.Len() != 0 {
			t.Errorf("seed %d: without consumers %+v", seed, a)
		}
	}
}

// names sorts consumers and drops repetitions, of which there may be some.
func names(list []*consumerEntry) (n []string) {
	for _, c := range list {
		n = append(n, c.name)
	}
	slices.SortFunc(n, func(a, b string) int { return cmp.Or(cmp.Compare(len(a), len(b)), strings.Compare(a, b)) })
	return slices.Compact(n)
}

// messagesEntry returns an entry of messages with these subjects.
func messagesEntry(t *testing.T, subjects ...string) []byte {
	t.Helper()
	m := stream.New()
	cfg := api.StreamConfig{Name: "S", Subjects: []string{">"}, MaxMsgs: -1, MaxBytes: -1, MaxMsgsPer: -1, MaxMsgSize: -1}
	if _, err := m.Apply(1, stream.EncodeConfig(time.Now(), &cfg)); err != nil {
		t.Fatal(err)
	}
	a := stream.NewAdmission(m, func(string) bool { return true })
	for _, subj := range subjects {
		if _, err := a.Admit(time.Now(), stream.Publish{Subject: []byte(subj)}); err != nil {
			t.Fatal(err)
		}
	}
	return a.Take()
}

// Watchers of many keys get what is theirs, and nothing twice.
func TestWatchersOfManyKeys(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		s := newServer(t, newDisk())
		defer s.engine.Close()
		s.call("STREAM.CREATE.S", streamConfig("S", func(c *api.StreamConfig) { c.MaxMsgsPer = 1 }), nil)
		const keys = 50
		inboxes, want := make([]*inbox, keys), make([][]string, keys)
		for i := range keys {
			inboxes[i], want[i] = s.subscribe(fmt.Sprint("in.", i)), []string{"first"}
			s.bus.Publish(fmt.Sprint("S.", i), "", nil, []byte("first"))
			s.call(fmt.Sprint("CONSUMER.CREATE.S.C", i, ".S.", i), api.CreateConsumerRequest{Stream: "S", Config: api.ConsumerConfig{
				Name: fmt.Sprint("C", i), FilterSubject: fmt.Sprint("S.", i), DeliverSubject: fmt.Sprint("in.", i),
				DeliverPolicy: api.DeliverLastPerSubject, AckPolicy: api.AckNone,
			}}, nil)
		}
		synctest.Wait()
		rng := rand.New(rand.NewPCG(1, 2))
		for n := range 500 {
			i := rng.IntN(keys)
			s.bus.Publish(fmt.Sprint("S.", i), "", nil, []byte(fmt.Sprint(n)))
			synctest.Wait()
			want[i] = append(want[i], fmt.Sprint(n))
		}
		for i := range keys {
			if got := inboxes[i].take(); !slices.Equal(got, want[i]) {
				t.Errorf("key %d: got %v, want %v", i, got, want[i])
			}
		}
		stream, _ := s.engine.accounts["A"].stream("S")
		if n := len(stream.audience.attentive); n != 0 {
			t.Errorf("%d consumers are told of everything though they wait", n)
		}
	})
}
