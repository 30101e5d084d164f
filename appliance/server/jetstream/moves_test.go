package jetstream

import (
	"testing"
	"testing/synctest"
)

// A nats-server that is a router passes requests of all accounts to the system account, with a header that says whose they
// are. Only users of the system account may change the cluster.
func TestSystemRequestsOfOtherAccountsAreIgnored(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		s := newServer(t, newDisk())
		defer s.engine.Close()
		answers := 0
		if _, err := s.engine.cfg.System.Subscribe("in", "", func(Msg) { answers++ }); err != nil {
			t.Fatal(err)
		}
		for _, subject := range systemSubjects {
			for _, h := range [][]byte{header(headerImported, `{"acc":"A","server":"r"}`), nil} {
				s.engine.systemRequest(Msg{Subject: []byte(subject), Reply: []byte("in"), Header: h, Data: []byte(`{"peer":"x"}`)})
				synctest.Wait()
				if want := h == nil; (answers == 1) != want {
					t.Errorf("%s with %q: %d answers", subject, h, answers)
				}
				answers = 0
			}
		}
	})
}
