package jetstream

import (
	"fmt"
	"testing"
	"testing/synctest"

	"millrace/appliance/server/jetstream/api"
)

// What became of a message in flight is undecided when its leader changes: nobody is answered then, nor who
// repeated it. The next leader knows of it if its log has it, and only then.
func TestDuplicatesInFlightWhenTheLeaderChanges(t *testing.T) {
	for _, kept := range []int{0, 1} {
		inRing(t, api.LimitsPolicy, func(r *ring) {
			config := *r.nodes[0].stream.assigned.Config
			config.Duplicates = 120e9
			for _, n := range r.nodes {
				ms := *n.stream.assigned
				ms.Config = &config
				n.stream.assign(ms)
			}
			synctest.Wait()
			in := r.listen("in")
			send := func() {
				r.space.Publish("S.a", "in", []byte("NATS/1.0\r\nNats-Msg-Id: x\r\n\r\n"), nil)
				synctest.Wait()
			}
			r.publish(1)
			r.held(ringStream, true)
			send()
			send()
			r.elect(ringStream, 1, kept)
			if got := in.take(); len(got) > 0 {
				r.Errorf("kept %d: answers %q to what is undecided", kept, got)
			}
			r.held(ringStream, false)
			for i := range 2 {
				send()
				want := `{"stream":"S","seq":2}`
				if kept == 1 || i > 0 {
					want = `{"stream":"S","seq":2,"duplicate":true}`
				}
				if got := in.take(); len(got) != 1 || got[0].data != want {
					r.Errorf("kept %d: answers %q, want %s", kept, got, want)
				}
			}
			r.elect(ringStream, 2, 0)
			send()
			if got, want := in.take(), `{"stream":"S","seq":2,"duplicate":true}`; len(got) != 1 || got[0].data != want {
				r.Errorf("kept %d: the third leader answers %q, want %s", kept, got, want)
			}
			for _, n := range r.nodes {
				if s := n.stored(); s != fmt.Sprint([]int{1, 2}) {
					r.Errorf("kept %d: node %d holds %s", kept, n.number, s)
				}
			}
		})
	}
}
