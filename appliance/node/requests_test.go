package node

import (
	"encoding/json"
	"fmt"
	"slices"
	"strings"
	"testing"
	"testing/synctest"
	"time"

	"millrace/appliance/server/jetstream"
	"millrace/appliance/server/jetstream/api"
	"millrace/appliance/server/subject"
)

// ask makes a request of the account A as a client of this node does and returns what comes to its inbox until it
// has n messages, and how many nodes got the request itself.
func (b *plant) ask(call, body string, n int) (got []string, nodes int) {
	c := b.of
	bus := c.accounts["A"]
	inbox := fmt.Sprintf("_INBOX.%s.%d", b.name, time.Now().UnixNano())
	answers := make(chan string, 64)
	stop, err := bus.Subscribe(inbox, "", func(m jetstream.Msg) { answers <- string(m.Data) })
	if err != nil {
		c.t.Fatal(err)
	}
	defer stop()
	subj := api.Prefix + call
	m := jetstream.Msg{Subject: []byte(subj), Reply: []byte(inbox), Data: []byte(body), Own: true, Last: true}
	var own, others []func(jetstream.Msg) bool
	bus.mu.Lock()
	for _, s := range bus.subs {
		switch {
		case s.each == nil || !subject.Match(s.filter, subj):
		case s.at == b:
			own = append(own, s.each)
		default:
			others = append(others, s.each)
		}
	}
	bus.mu.Unlock()
	settled := false
	for _, fn := range own {
		settled = fn(m) || settled
		nodes++
	}
	if m.Own, m.Last = false, false; !settled {
		for _, fn := range others {
			fn(m)
			nodes++
		}
	}
	late := time.After(5 * time.Second)
	for len(got) < n {
		select {
		case a := <-answers:
			got = append(got, a)
		case <-late:
			return got, nodes
		}
	}
	return got, nodes
}

const watcher = `{"stream_name":"S","config":{"deliver_subject":%q,"ack_policy":"none","deliver_policy":"last_per_subject",` +
	`"filter_subject":"S.a","flow_control":true,"idle_heartbeat":5000000000,"mem_storage":true,"num_replicas":1}}`

// A request about a stream is for its leader: the others do not get it, wherever the client is.
func TestRequestsGoToTheLeader(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		c := newBoxes(t, 3)
		c.call("A", "STREAM.CREATE.S", `{"name":"S","subjects":["S.*"],"num_replicas":3}`, 0, nil)
		c.awaitPlaces("S", "n1 n2 n3")
		for range 3 {
			c.request("A", "S.a", "value")
		}
		for _, b := range c.list {
			c.await("requests that go to the leader", func() bool { // which is sure, and known, soon
				_, nodes := b.ask("STREAM.INFO.S", "", 1)
				return nodes == 1
			})
		}
		for _, b := range c.list {
			for _, q := range []struct{ call, body, want string }{
				{"STREAM.INFO.S", "", `"messages":3`},
				{"STREAM.MSG.GET.S", `{"seq":2}`, `"seq":2`},
				{"CONSUMER.CREATE.S", fmt.Sprintf(watcher, "to."+b.name), `"num_pending":1`},
				{"CONSUMER.CREATE.S", `{"stream_name":"S","config":{"durable_name":"no.name"}}`, `"err_code":`},
			} {
				got, nodes := b.ask(q.call, q.body, 1)
				if len(got) != 1 || !strings.Contains(got[0], q.want) || nodes != 1 {
					t.Errorf("%s at %s: %q from %d nodes, want %s from one", q.call, b.name, got, nodes, q.want)
				}
			}
			// What several may know, or the leader of another group, all are asked.
			if got, nodes := b.ask("STREAM.NAMES", "", 1); len(got) != 1 || nodes != 3 {
				t.Errorf("names at %s: %q from %d nodes", b.name, got, nodes)
			}
		}
	})
}

// A watcher gets its first values right after the answer.
func TestWatcherGetsItsValueWithTheAnswer(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		c := newBoxes(t, 3)
		c.call("A", "STREAM.CREATE.S", `{"name":"S","subjects":["S.*"],"num_replicas":3}`, 0, nil)
		c.request("A", "S.a", "old")
		c.request("A", "S.a", "new")
		for _, b := range c.list {
			inbox := "to." + b.name
			values := make(chan string, 4)
			stop, err := c.accounts["A"].Subscribe(inbox, "", func(m jetstream.Msg) { values <- string(m.Data) })
			if err != nil {
				t.Fatal(err)
			}
			defer stop()
			if got, _ := b.ask("CONSUMER.CREATE.S", fmt.Sprintf(watcher, inbox), 1); len(got) != 1 || strings.Contains(got[0], `"error"`) {
				t.Errorf("at %s: %q", b.name, got)
			}
			if v := <-values; v != "new" {
				t.Errorf("at %s: value %q", b.name, v)
			}
			c.request("A", "S.a", "newer")
			c.request("A", "S.b", "another")
			if v := <-values; v != "newer" {
				t.Errorf("at %s: value %q", b.name, v)
			}
			c.request("A", "S.a", "new")
			<-values
		}
	})
}

// No request is lost while the leadership changes, nor is one kept from the others by who leads no more and does not know it.
func TestRequestsWhileTheLeaderChanges(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		c := newBoxes(t, 3)
		c.call("A", "STREAM.CREATE.S", `{"name":"S","subjects":["S.*"],"num_replicas":3}`, 0, nil)
		c.awaitPlaces("S", "n1 n2 n3")
		answered := func(b *plant) string {
			got, _ := b.ask("STREAM.INFO.S", "", 1)
			var info api.StreamInfoResponse
			if len(got) != 1 || json.Unmarshal([]byte(got[0]), &info) != nil || info.Error != nil {
				return fmt.Sprintf("%q", got)
			}
			return info.Cluster.Leader
		}
		for i := range 12 {
			c.call("A", "STREAM.LEADER.STEPDOWN.S", "", 0, nil)
			for k := range c.list {
				if leader := answered(c.list[(i+k)%3]); !strings.HasPrefix(leader, "n") {
					t.Errorf("after step-down %d at %s: %s", i, c.list[(i+k)%3].name, leader)
				}
			}
		}
		old := c.info("S").Cluster.Leader
		var cut *plant
		for _, b := range c.list {
			if b.name == old {
				cut = b
			}
		}
		c.wired(cut, false)
		c.await("another leader", func() bool {
			info := c.info("S")
			return info != nil && info.Cluster.Leader != old
		})
		got, _ := cut.ask("STREAM.INFO.S", "", 2) // it may say that it cannot tell
		if !slices.ContainsFunc(got, func(answer string) bool { return strings.Contains(answer, `"messages":0`) }) {
			t.Errorf("at a leader that was cut off: %q", got)
		}
		c.wired(cut, true)
		c.awaitPlaces("S", "n1 n2 n3")
	})
}
