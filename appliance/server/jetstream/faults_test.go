package jetstream

import (
	"encoding/json"
	"errors"
	"fmt"
	"runtime"
	"slices"
	"strings"
	"sync"
	"testing"
	"testing/synctest"
	"time"

	"millrace/appliance/server/jetstream/api"
	"millrace/appliance/server/jetstream/meta"
	"millrace/appliance/server/jetstream/stream"
)

// refuseWith makes the logs refuse proposals, but for those of the groups given; nil takes them again.
func (d *disk) refuseWith(err error, but ...uint64) {
	d.mu.Lock()
	defer d.mu.Unlock()
	d.refuse, d.takes = err, but
}

var errFull = errors.New("disk is full")

// Requests that the log refuses must not hold the workers that others need.
func TestEngineAnswersWhileTheLogRefuses(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		s := newServer(t, newDisk())
		defer s.engine.Close()
		s.call("STREAM.CREATE.S", streamConfig("S"), nil)
		s.call("CONSUMER.DURABLE.CREATE.S.C", durable("S", "C"), nil)
		answers := s.subscribe("r.>")
		s.disk.refuseWith(errFull)
		for i := range 8 {
			s.bus.Publish("$JS.API.STREAM.PURGE.S", fmt.Sprintf("r.purge.%d", i), nil, nil)
			s.bus.Publish("$JS.API.CONSUMER.RESET.S.C", fmt.Sprintf("r.reset.%d", i), nil, nil)
		}
		s.bus.Publish("$JS.API.INFO", "r.info", nil, nil)
		time.Sleep(time.Minute)
		if got := answers.take(); len(got) != 17 {
			t.Errorf("%d answers to 17 requests", len(got))
		}
		s.disk.refuseWith(nil)
	})
}

// What could not be started for want of room is started when there is some.
func TestStreamStartsWhenThereIsRoom(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		s := newServer(t, newDisk())
		defer s.engine.Close()
		s.call("STREAM.CREATE.T", streamConfig("T"), nil)
		room := func(there bool) {
			s.disk.mu.Lock()
			s.disk.noRoom = !there
			s.disk.mu.Unlock()
		}
		answers := s.subscribe("r.>")
		body, _ := json.Marshal(streamConfig("S"))
		room(false)
		s.bus.Publish("$JS.API.STREAM.CREATE.S", "r.create", nil, body)
		consumer, _ := json.Marshal(durable("T", "C"))
		s.bus.Publish("$JS.API.CONSUMER.DURABLE.CREATE.T.C", "r.consumer", nil, consumer)
		time.Sleep(10 * time.Second)
		s.bus.Publish("S.a", "r.full", nil, []byte("x"))
		synctest.Wait()
		for _, a := range answers.take() {
			if !strings.Contains(a, "error") {
				t.Errorf("without room: %s", a)
			}
		}
		room(true)
		time.Sleep(bringAgain + time.Second)
		s.bus.Publish("S.a", "r.stored", nil, []byte("x"))
		s.bus.Publish("$JS.API.CONSUMER.INFO.T.C", "r.info", nil, nil)
		synctest.Wait()
		got := answers.take()
		if len(got) != 2 || strings.Contains(got[0]+got[1], "error") {
			t.Errorf("with room: %v", got)
		}
	})
}

func TestEngineClosesWithACatalogueEntryInFlight(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		s := newServer(t, newDisk())
		s.disk.holdBack()
		body, err := json.Marshal(streamConfig("S"))
		if err != nil {
			t.Fatal(err)
		}
		s.bus.Publish("$JS.API.STREAM.CREATE.S", "r", nil, body)
		synctest.Wait()
		s.engine.Close()
	})
}

// The catalogue decided to delete, the process ended before the log was dropped.
func TestEngineDropsLogsOfDeletedStreams(t *testing.T) {
	s := newServer(t, newDisk())
	s.call("STREAM.CREATE.S", streamConfig("S"), nil)
	s.bus.Publish("S.a", "", nil, []byte("x"))
	entry, err := (&meta.Entry{Op: meta.OpDeleteStream, Account: "A", Stream: "S", Time: time.Now()}).Encode()
	if err != nil {
		t.Fatal(err)
	}
	const unknown = 1 << 40 // never given out: nobody may delete it
	s.disk.mu.Lock()
	s.disk.logs[metaGroup] = append(s.disk.logs[metaGroup], entry)
	s.disk.logs[unknown] = [][]byte{[]byte("somebody's")}
	s.disk.mu.Unlock()
	s = s.restart()
	defer s.engine.Close()
	ids := s.disk.Logs()
	slices.Sort(ids)
	if want := []uint64{metaGroup, unknown}; !slices.Equal(ids, want) {
		t.Errorf("logs %v, want %v", ids, want)
	}
}

// The catalogue is read from a state, and from the entries after it.
func TestCatalogIsRestoredFromItsState(t *testing.T) {
	s := newServer(t, newDisk())
	s.call("STREAM.CREATE.S", streamConfig("S"), nil)
	s.call("CONSUMER.DURABLE.CREATE.S.C", durable("S", "C"), nil)
	s.disk.snapshot(t, metaGroup)
	s.disk.forget(t, metaGroup)
	s.call("STREAM.CREATE.T", streamConfig("T"), nil)
	s.call("CONSUMER.DELETE.S.C", nil, nil)
	s = s.restart()
	defer s.engine.Close()
	s.call("STREAM.INFO.S", nil, nil)
	s.call("STREAM.INFO.T", nil, nil)
	s.call("CONSUMER.INFO.S.C", nil, api.ErrConsumerNotFound)
}

func TestStreamRetriesRefusedRemovals(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		s := newServer(t, newDisk())
		defer s.engine.Close()
		s.call("STREAM.CREATE.S", streamConfig("S"), nil)
		s.bus.Publish("S.a", "", nil, []byte("x"))
		st, _ := s.engine.accounts["A"].stream("S")
		s.disk.refuseWith(errFull)
		st.remove(1)
		s.disk.refuseWith(nil)
		time.Sleep(2 * retryRemovals)
		synctest.Wait()
		if state := s.call("STREAM.INFO.S", nil, nil)["state"].(map[string]any); state["messages"] != 0.0 {
			t.Errorf("state %v", state)
		}
	})
}

// A purge beyond the end moves the sequences on although publishes are on their way.
func TestStreamPurgesAheadUnderLoad(t *testing.T) {
	s := newServer(t, newDisk())
	s.call("STREAM.CREATE.S", streamConfig("S"), nil)
	acks := s.subscribe("ack")
	st, _ := s.engine.accounts["A"].stream("S")
	s.disk.holdBack()
	s.bus.Publish("S.a", "ack", nil, nil) // in flight
	s.bus.Publish("S.a", "ack", nil, nil) // in the open batch
	done := make(chan *api.Error, 1)
	purge := purging(time.Now(), stream.Purge{Seq: 1000})
	purge.ahead = 1000
	st.propose(purge, func(_ stream.Effects, err *api.Error) { done <- err })
	s.bus.Publish("S.a", "ack", nil, nil) // after it
	s.disk.release()
	if err := <-done; err != nil {
		t.Fatal(err)
	}
	want := []string{`{"stream":"S","seq":1}`, `{"stream":"S","seq":2}`, `{"stream":"S","seq":1000}`}
	if got := acks.take(); !slices.Equal(got, want) {
		t.Errorf("acks %q", got)
	}
	s = s.restart()
	defer s.engine.Close()
	state := s.call("STREAM.INFO.S", nil, nil)["state"].(map[string]any)
	if state["messages"] != 1.0 || state["first_seq"] != 1000.0 {
		t.Errorf("after the restart: %v", state)
	}
}

// A stream whose configuration its log has refused serves as soon as that takes it.
func TestStreamServesAfterItsConfigurationWasRefused(t *testing.T) {
	s := newServer(t, newDisk())
	defer s.engine.Close()
	s.disk.refuseWith(errFull, metaGroup)
	created := make(chan struct{})
	var wg sync.WaitGroup
	wg.Go(func() {
		s.call("STREAM.CREATE.S", streamConfig("S"), nil)
		close(created)
	})
	for s.engine.accounts["A"].local("S") == nil {
		runtime.Gosched()
	}
	select {
	case <-created:
		t.Error("created although its log refused the configuration")
	default:
	}
	s.disk.refuseWith(nil)
	wg.Wait()
	s.call("STREAM.INFO.S", nil, nil)
}

// One stream that cannot be served says why and leaves the others in peace.
func TestEngineServesOthersBesideABrokenStream(t *testing.T) {
	s := newServer(t, newDisk())
	s.call("STREAM.CREATE.S", streamConfig("S"), nil)
	s.call("STREAM.CREATE.T", streamConfig("T"), nil)
	st, _ := s.engine.accounts["A"].stream("S")
	s.engine.Close()
	s.disk.logs[st.spec.Log] = append(s.disk.logs[st.spec.Log], []byte("not an entry"))
	s = newServer(t, s.disk)
	defer s.engine.Close()
	s.call("STREAM.INFO.T", nil, nil)
	response := s.call("STREAM.INFO.S", nil, api.ErrStreamOfflineReasonF(""))
	if text := fmt.Sprint(response["error"]); !strings.Contains(text, fmt.Sprintf("log %d:", st.spec.Log)) {
		t.Errorf("the error does not say where: %s", text)
	}
}

func TestConsumersStartWhileTheirStreamIsDeleted(t *testing.T) {
	s := newServer(t, newDisk())
	defer s.engine.Close()
	for i := range 50 {
		name := fmt.Sprintf("S%d", i)
		s.call("STREAM.CREATE."+name, streamConfig(name), nil)
		st, _ := s.engine.accounts["A"].stream(name)
		var wg sync.WaitGroup
		for range 4 {
			wg.Go(func() {
				begun(st, api.ConsumerConfig{AckPolicy: api.AckExplicit}, time.Now())
			})
		}
		s.call("STREAM.DELETE."+name, nil, nil)
		wg.Wait()
		if n := len(st.allConsumers()); n > 0 {
			t.Fatalf("%d consumers live on after their stream was deleted", n)
		}
	}
}

// slowBus subscribes to one subject only when it may.
type slowBus struct {
	*space
	subject string
	asked   chan struct{}
	may     chan struct{}
}

func (b slowBus) Subscribe(subj, queue string, fn func(Msg)) (func(), error) {
	if subj == b.subject {
		close(b.asked)
		<-b.may
	}
	return b.space.Subscribe(subj, queue, fn)
}

// Who is told that a stream was updated can publish to its new subjects.
func TestStreamUpdateIsAnsweredWhenItIsInForce(t *testing.T) {
	slow := slowBus{subject: "other", asked: make(chan struct{}), may: make(chan struct{})}
	s := newServerWith(t, newDisk(), func(c *Config) {
		bus := c.Bus
		c.Bus = func(account string) Bus { slow.space = bus(account).(*space); return slow }
	})
	defer s.engine.Close()
	s.call("STREAM.CREATE.S", streamConfig("S"), nil)
	updated := make(chan struct{})
	var wg sync.WaitGroup
	wg.Go(func() {
		s.call("STREAM.UPDATE.S", streamConfig("S", func(c *api.StreamConfig) { c.Subjects = []string{"other"} }), nil)
		close(updated)
	})
	<-slow.asked
	select {
	case <-updated:
		t.Error("answered before it takes messages of the new subject")
	case <-time.After(100 * time.Millisecond):
	}
	close(slow.may)
	wg.Wait()
}

// An update leaves subjects that stay alone: no message is stored twice or missed meanwhile.
func TestStreamUpdateKeepsSubscriptions(t *testing.T) {
	s := newServer(t, newDisk())
	defer s.engine.Close()
	s.call("STREAM.CREATE.S", streamConfig("S"), nil)
	before := s.bus.next
	s.call("STREAM.UPDATE.S", streamConfig("S", func(c *api.StreamConfig) { c.MaxMsgs = 7 }), nil)
	if s.bus.next != before {
		t.Errorf("%d new subscriptions", s.bus.next-before)
	}
	s.call("STREAM.UPDATE.S", streamConfig("S", func(c *api.StreamConfig) { c.Subjects = []string{"other"} }), nil)
	if s.bus.HasInterest("S.a") || !s.bus.HasInterest("other") {
		t.Error("the subjects did not change")
	}
}
