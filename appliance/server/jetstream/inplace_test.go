package jetstream

import (
	"fmt"
	"testing"
	"testing/synctest"
)

// create asks for a consumer as a client of this node does, and returns whether it is there when that goes on.
func (s *server) create(config string, last bool) (answers int) {
	in := s.subscribe("in")
	s.engine.accounts["A"].request(Msg{Subject: []byte("$JS.API.CONSUMER.CREATE.S"), Reply: []byte("in"),
		Data: []byte(`{"stream_name":"S","config":{` + config + `}}`), Own: true, Last: last})
	return len(in.take())
}

// Only what takes little and waits for nobody is done while the client waits.
func TestRequestsInPlace(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		s := newServer(t, newDisk())
		defer s.engine.Close()
		s.call("STREAM.CREATE.S", streamConfig("S"), nil)
		for i := range fewMessages {
			s.bus.Publish(fmt.Sprint("S.", i), "", nil, nil)
		}
		synctest.Wait()
		check := func(when string, rows map[string]bool) {
			t.Helper()
			for config, want := range rows {
				if got := s.create(config, true) == 1; got != want {
					t.Errorf("%s, %s: in place: %t", when, config, got)
				}
				synctest.Wait()
			}
		}
		const ephemeral = `"ack_policy":"none","deliver_subject":"to"`
		check("a small stream", map[string]bool{
			ephemeral:                 true,
			`"ack_policy":"explicit"`: true,
			`"durable_name":"D","name":"D","ack_policy":"explicit"`: false,
			`"ack_policy":7`: false,
			ephemeral + `,"deliver_policy":"last_per_subject"`: true,
			ephemeral + `,"name":"N"`:                          true,
		})
		check("a name that is there", map[string]bool{ephemeral + `,"name":"N"`: false})
		if s.create(ephemeral, false) != 0 {
			t.Error("served in place with more behind it")
		}
		st := s.engine.accounts["A"].local("S")
		st.creating.Lock()
		if s.create(ephemeral, true) != 0 {
			t.Error("served in place while another consumer is made")
		}
		st.creating.Unlock()
		synctest.Wait()
		s.disk.mu.Lock()
		s.disk.lease = ErrNotLeader
		s.disk.mu.Unlock()
		if in := s.subscribe("in"); s.engine.accounts["A"].request(Msg{Subject: []byte("$JS.API.STREAM.INFO.S"), Reply: []byte("in"), Own: true, Last: true}) {
			t.Errorf("settled without a lease: %q", in.take())
		}
		synctest.Wait()
		s.disk.mu.Lock()
		s.disk.lease = nil
		s.disk.mu.Unlock()

		s.bus.Publish("S.0", "", nil, nil)
		synctest.Wait()
		check("a stream that is not small", map[string]bool{
			ephemeral:                              false,
			ephemeral + `,"deliver_policy":"new"`:  true,
			ephemeral + `,"deliver_policy":"last"`: false,
			ephemeral + `,"deliver_policy":"last_per_subject","filter_subject":"S.7"`:                    true,
			ephemeral + `,"deliver_policy":"last_per_subject","filter_subject":"S.*"`:                    false,
			ephemeral + `,"deliver_policy":"last_per_subject","filter_subjects":["S.1","S.2"]`:           true,
			ephemeral + `,"deliver_policy":"by_start_sequence","opt_start_seq":5,"filter_subject":"S.7"`: false,
		})
		if n := st.numConsumers(); n != 12 { // all but the refused ones and the name that was there
			t.Errorf("%d consumers", n)
		}
	})
}
