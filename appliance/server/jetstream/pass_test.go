package jetstream

import (
	"strings"
	"testing"
	"testing/synctest"

	"millrace/appliance/server/jetstream/api"
)

// A passed request that comes to who leads no more goes to all, as its client has sent it.
func TestPassedRequestGoesOnToAll(t *testing.T) {
	inRing(t, api.LimitsPolicy, func(r *ring) {
		in, all := r.listen("in"), r.listen("$JS.API.STREAM.INFO.S")
		const passed = "NATS/1.0\r\nMillrace-Request: $JS.API.STREAM.INFO.S in A\r\n"
		for _, header := range []string{"", "Nats-Required-Api-Level: 1\r\nX: y\r\n"} {
			for i, n := range r.nodes {
				if !n.engine.takePassed(Msg{Header: []byte(passed + header + "\r\n"), Data: []byte("{}")}) {
					r.Fatal("not taken")
				}
				synctest.Wait()
				answers, again := in.take(), all.take()
				if i == 0 {
					if len(answers) != 1 || !strings.Contains(answers[0].data, `"name":"S"`) || len(again) != 0 {
						r.Errorf("the leader answers %q and passes %q on", answers, again)
					}
					continue
				}
				want := letter{reply: "in", data: "{}"}
				if header != "" {
					want.header = "NATS/1.0\r\n" + header + "\r\n"
				}
				if len(answers) != 0 || len(again) != 1 || again[0] != want {
					r.Errorf("node %d answers %q and passes %q on", i, answers, again)
				}
			}
		}
		for _, header := range []string{"", "NATS/1.0\r\n\r\n", "NATS/1.0\r\nX: Millrace-Request: a b\r\n\r\n"} {
			if r.nodes[0].engine.takePassed(Msg{Header: []byte(header)}) {
				r.Errorf("%q is taken for a passed request", header)
			}
		}
		for _, of := range []string{"$JS.API.STREAM.INFO.S in NOBODY", "$JS.API.STREAM.INFO.S in", "$JS.API.STREAM.INFO.S  A", "no.call in A", ""} {
			if !r.nodes[0].engine.takePassed(Msg{Header: []byte("NATS/1.0\r\nMillrace-Request: " + of + "\r\n\r\n")}) {
				r.Errorf("%q is not taken", of)
			}
		}
		if synctest.Wait(); len(in.take())+len(all.take()) != 0 {
			r.Error("requests that make no sense are answered")
		}
	})
}
