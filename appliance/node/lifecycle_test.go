package node

import (
	"encoding/json"
	"fmt"
	"runtime"
	"strings"
	"sync"
	"testing"
	"testing/synctest"
	"time"

	"millrace/appliance/server/jetstream"
	"millrace/appliance/server/jetstream/api"
)

// TestManyRequestsAtOnce makes more requests at once than there are workers: what their answers wait for, as leaders
// that get ready, is not behind them.
func TestManyRequestsAtOnce(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		const n = 120
		c := newBoxes(t, 3)
		burst := func(call, body string) {
			t.Helper()
			began := time.Now()
			var wg sync.WaitGroup
			for i := range n {
				name := fmt.Sprint("S", i)
				wg.Go(func() {
					var r api.Response
					answer := c.request("A", api.Prefix+fmt.Sprintf(call, name), fmt.Sprintf(body, name))
					if json.Unmarshal([]byte(answer), &r) != nil || r.Error != nil {
						t.Errorf("%s: %q", fmt.Sprintf(call, name), answer)
					}
				})
			}
			wg.Wait()
			if took := time.Since(began); took > 3*time.Second {
				t.Errorf("%s: %d took %v", call, n, took)
			}
		}
		burst("STREAM.CREATE.%s", `{"name":"%[1]s","subjects":["%[1]s.>"],"num_replicas":3}`)
		burst("CONSUMER.CREATE.%s.C", `{"stream_name":"%s","config":{"durable_name":"C","ack_policy":"explicit"}}`)
		burst("STREAM.UPDATE.%s", `{"name":"%[1]s","subjects":["%[1]s.>","%[1]s"],"num_replicas":3,"max_msgs":7}`)
		burst("STREAM.DELETE.%s", "%.0s")
		for _, b := range c.list { // others carry the last out a little later
			c.await(b.name+" has no stream and one log", func() bool { return b.engine.Streams() == 0 && len(b.groups.Logs()) == 1 })
		}
	})
}

// TestNodeThatStartsRefusesNothing restarts a node while requests are made: it does not know yet who leads the
// catalogue, and leaves the answer to those who do.
func TestNodeThatStartsRefusesNothing(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		c := newBoxes(t, 3)
		c.call("A", "STREAM.CREATE.S", `{"name":"S","subjects":["s.>"],"num_replicas":3}`, 0, nil)
		c.awaitPlaces("S", "n1 n2 n3")
		for _, b := range c.list {
			if b.meta().Leader == b.name || c.info("S").Cluster.Leader == b.name {
				continue
			}
			b.stop()
			b.start()
			for range 60 {
				if answer := c.request("A", api.Prefix+"STREAM.INFO.S", ""); !strings.Contains(answer, `"state"`) {
					t.Fatalf("%s has just started: %q", b.name, answer)
				}
				<-time.After(50 * time.Millisecond)
			}
			return
		}
		t.Fatal("all nodes lead something")
	})
}

// TestNodesEndWithoutAQuorum ends nodes that have no quorum, with requests under way that wait for one.
func TestNodesEndWithoutAQuorum(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		c := newBoxes(t, 3)
		c.call("A", "STREAM.CREATE.S", `{"name":"S","subjects":["s.>"],"num_replicas":3,"retention":"workqueue"}`, 0, nil)
		c.call("A", "CONSUMER.CREATE.S.C", `{"stream_name":"S","config":{"durable_name":"C","ack_policy":"explicit"}}`, 0, nil)
		c.publish("s.a", 3)
		leader := c.info("S").Cluster.Leader
		var wg sync.WaitGroup
		defer wg.Wait()
		ask := func(call, body string) {
			wg.Go(func() { c.request("A", api.Prefix+call, body) })
		}
		for _, b := range c.list {
			if b.name != leader {
				b.stop()
			}
		}
		ask("STREAM.PURGE.S", ``)
		ask("STREAM.MSG.DELETE.S", `{"seq":1}`)
		ask("STREAM.UPDATE.S", `{"name":"S","subjects":["s.>"],"num_replicas":3,"retention":"workqueue","max_msgs":7}`)
		ask("STREAM.CREATE.T", `{"name":"T","subjects":["t.>"],"num_replicas":1}`)
		ask("STREAM.DELETE.S", ``)
		ask("CONSUMER.CREATE.S.D", `{"stream_name":"S","config":{"durable_name":"D","ack_policy":"explicit","filter_subject":"s.b"}}`)
		ask("CONSUMER.PAUSE.S.C", `{"pause_until":"2100-01-01T00:00:00Z"}`)
		ask("CONSUMER.RESET.S.C", `{"seq":1}`)
		ask("CONSUMER.DELETE.S.C", ``)
		ask("STREAM.LEADER.STEPDOWN.S", ``)
		c.accounts["A"].Publish("s.a", "_INBOX.x", nil, []byte("x"))
		<-time.After(20 * time.Millisecond) // they are under way
		began := time.Now()
		for _, b := range c.list {
			b.stop()
		}
		if took := time.Since(began); took > 3*time.Second {
			t.Errorf("the last one took %v", took)
		}
		for _, b := range c.list {
			b.start()
		}
		c.await("the stream as it was, or as it was to be", func() bool {
			answer := c.request("A", api.Prefix+"STREAM.INFO.S", "")
			return strings.Contains(answer, `"state"`) || strings.Contains(answer, "stream not found")
		})
	})
}

// TestNothingIsKeptOfWhatIsDeleted creates and deletes streams with consumers, and counts what is left of them.
func TestNothingIsKeptOfWhatIsDeleted(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		c := newBoxes(t, 3)
		round := func(n int) {
			var wg sync.WaitGroup
			for i := range n {
				wg.Go(func() {
					name := fmt.Sprint("S", i)
					for _, q := range [][2]string{
						{"STREAM.CREATE." + name, fmt.Sprintf(`{"name":"%[1]s","subjects":["%[1]s.>"],"num_replicas":%[2]d}`, name, 1+2*(i%2))},
						{"CONSUMER.CREATE." + name + ".C", `{"stream_name":"` + name + `","config":{"durable_name":"C","ack_policy":"explicit"}}`},
						{"CONSUMER.DELETE." + name + ".C", ""},
						{"CONSUMER.CREATE." + name + ".D", `{"stream_name":"` + name + `","config":{"durable_name":"D","ack_policy":"explicit"}}`},
						{"STREAM.DELETE." + name, ""},
					} {
						if answer := c.request("A", api.Prefix+q[0], q[1]); strings.Contains(answer, `"error"`) || answer == "" {
							t.Errorf("%s: %q", q[0], answer)
						}
					}
				})
			}
			wg.Wait()
			<-time.After(time.Minute)
			synctest.Wait()
		}
		subs := func() (n int) {
			for _, bus := range c.accounts {
				bus.mu.Lock()
				n += len(bus.subs) + len(bus.watches)
				bus.mu.Unlock()
			}
			return n
		}
		round(20)
		goroutines, subscriptions := runtime.NumGoroutine(), subs()
		for range 3 {
			round(40)
		}
		if n := runtime.NumGoroutine(); n > goroutines+5 {
			t.Errorf("%d goroutines, %d before", n, goroutines)
		}
		if n := subs(); n != subscriptions {
			t.Errorf("%d subscriptions and watches, %d before", n, subscriptions)
		}
		for _, b := range c.list {
			if k := b.engine.Kept(); k != (jetstream.Kept{}) {
				t.Errorf("%s keeps %+v", b.name, k)
			}
			if logs := b.groups.Logs(); len(logs) != 1 || len(b.groups.machines) != 1 {
				t.Errorf("%s has logs %v and %d machines", b.name, logs, len(b.groups.machines))
			}
		}
	})
}
