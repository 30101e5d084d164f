package node

import (
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"testing/synctest"
	"time"

	"millrace/appliance/server/jetstream/api"
)

// TestMovesByRequest moves a stream by its placement, by MOVE of the system account, and by EVACUATE of a server, and
// a consumer by PEER.REMOVE.
func TestMovesByRequest(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		c := newBoxes(t, 3)
		for i, name := range []string{"b1", "b2", "b3"} {
			c.add(i+4, name, "dc:b").start()
		}
		c.awaitMeta(6)
		<-time.After(time.Second) // the nodes have heard of each other
		b := `{"name":"S","subjects":["s.>"],"num_replicas":2,"placement":{"tags":["dc:b"]}}`
		c.call("A", "STREAM.CREATE.S", b, 0, nil)
		c.call("A", "CONSUMER.CREATE.S.C", `{"stream_name":"S","config":{"durable_name":"C","ack_policy":"explicit","num_replicas":1}}`, 0, nil)
		c.publish("s.a", 20)
		fits := func() bool {
			info := c.info("S")
			return info != nil && info.Cluster.Desired == nil && strings.Count(places(info.Cluster), "b") == 2 && !strings.Contains(places(info.Cluster), "*")
		}
		c.await("S on nodes with the tag", fits)

		// A consumer moves to the stream's other node, and not elsewhere.
		on := ""
		c.await("C has a place", func() bool { on = c.consumerPlaces("S", "C"); return on != "" })
		c.call("A", "CONSUMER.PEER.REMOVE.S.C", `{"peer":"`+on+`"}`, 0, nil)
		c.await("the consumer has left "+on, func() bool { p := c.consumerPlaces("S", "C"); return p != "" && p != on })
		c.call("A", "CONSUMER.PEER.REMOVE.S.C", `{"peer":"`+on+`"}`, api.ErrClusterPeerNotMember.ErrCode, nil)
		c.call("A", "CONSUMER.PEER.REMOVE.S.C", ``, api.ErrBadRequest.ErrCode, nil)
		c.call("A", "CONSUMER.PEER.REMOVE.S.X", `{"peer":"b1"}`, api.ErrConsumerNotFound.ErrCode, nil)
		c.call("A", "CONSUMER.PEER.REMOVE.X.C", `{"peer":"b1"}`, api.ErrStreamNotFound.ErrCode, nil)
		c.call("A", "CONSUMER.CREATE.S.D", `{"stream_name":"S","config":{"durable_name":"D","ack_policy":"explicit"}}`, 0, nil)
		c.call("A", "CONSUMER.PEER.EVACUATE.S.D", `{"peer":"`+on+`"}`, api.ErrPeerRemap.ErrCode, nil)

		// Nodes that do not have the tags are left, and it is not scaled by the way.
		a := strings.Replace(b, `"dc:b"`, `"!dc:b"`, 1)
		c.call("A", "STREAM.UPDATE.S", strings.Replace(a, `s":2`, `s":3`, 1), api.ErrStreamMoveAndScale.ErrCode, nil)
		c.call("A", "STREAM.UPDATE.S", strings.Replace(a, "!dc:b", "dc:c", 1), api.ErrClusterNoPeersF("").ErrCode, nil)
		c.call("A", "STREAM.UPDATE.S", a, 0, nil)
		c.await("S on nodes without the tag", func() bool {
			info := c.info("S")
			return info != nil && info.Cluster.Desired == nil && strings.Count(places(info.Cluster), "n") == 2
		})
		c.await("the consumer, too", func() bool { return strings.HasPrefix(c.consumerPlaces("S", "C"), "n") })
		c.publish("s.a", 1)

		// One replica of a stream, by the system account; while it moves it is not moved again.
		from := c.info("S").Cluster.Leader
		c.call("$SYS", "ACCOUNT.STREAM.MOVE.A.S", `{"server":"b1"}`, api.ErrClusterPeerNotMember.ErrCode, nil)
		c.call("$SYS", "ACCOUNT.STREAM.MOVE.A.X", `{"server":"b1"}`, api.ErrStreamNotFound.ErrCode, nil)
		c.call("$SYS", "ACCOUNT.STREAM.MOVE.A.S", `{"server":"`+from+`"}`, 0, nil)
		c.await("S has left "+from, func() bool {
			info := c.info("S")
			return info != nil && info.Cluster.Desired == nil && !strings.Contains(places(info.Cluster), from)
		})
		c.call("$SYS", "ACCOUNT.STREAM.CANCEL_MOVE.A.S", ``, api.ErrStreamReconfigureNotInProgress.ErrCode, nil)
		c.call("$SYS", "SERVER.EVACUATE", `{"peer":"`+c.info("S").Cluster.Leader+`"}`, 0, nil)
		c.await("S is back on "+from, func() bool {
			info := c.info("S")
			return info != nil && info.Cluster.Desired == nil && strings.Contains(places(info.Cluster), from)
		})
		if msgs := c.info("S").State.Msgs; msgs != 21 {
			t.Errorf("%d messages, want 21", msgs)
		}
		<-time.After(time.Second)
		for _, n := range c.list { // who was left has dropped its logs
			has := strings.Contains(places(c.info("S").Cluster), n.name)
			if got := n.engine.Streams(); (got == 1) != has {
				t.Errorf("%s has %d streams", n.name, got)
			}
			if got := len(n.groups.Logs()); !has && got != 1 {
				t.Errorf("%s has %d logs", n.name, got)
			}
		}
	})
}

// TestNodesEndDuringAMove ends the leader of a stream, a node that it comes to, or one that it leaves, while it moves to
// other nodes under load: what was acknowledged is there afterwards, and the move is done.
func TestNodesEndDuringAMove(t *testing.T) {
	for seed, who := range []string{"leader", "joins", "leaves", "leader"} {
		synctest.Test(t, func(t *testing.T) {
			c := newBoxes(t, 3)
			for i, name := range []string{"b1", "b2", "b3"} {
				c.add(i+4, name, "dc:b").start()
			}
			c.awaitMeta(6)
			config := `{"name":"S","subjects":["s.>"],"num_replicas":3,"placement":{"tags":["!dc:b"]}}`
			c.call("A", "STREAM.CREATE.S", config, 0, nil)
			c.call("A", "CONSUMER.CREATE.S.C", `{"stream_name":"S","config":{"durable_name":"C","ack_policy":"explicit"}}`, 0, nil)
			c.publish("s.a", 300) // more than membership.Slack
			c.awaitPlaces("S", "n1 n2 n3")
			<-time.After(time.Second) // the nodes have heard of each other
			var acked atomic.Int64
			acked.Store(300)
			done := make(chan struct{})
			var wg sync.WaitGroup
			for range 4 {
				wg.Go(func() {
					for {
						select {
						case <-done:
							return
						default:
						}
						if strings.Contains(c.request("A", "s.a", "x"), `"seq":`) {
							acked.Add(1)
						}
						<-time.After(50 * time.Millisecond)
					}
				})
			}
			leader := c.info("S").Cluster.Leader
			end := map[string]string{"leader": leader, "joins": "b2", "leaves": map[bool]string{true: "n2", false: "n1"}[leader == "n1"]}[who]
			c.call("A", "STREAM.UPDATE.S", strings.Replace(config, "!dc:b", "dc:b", 1), 0, nil)
			<-time.After(time.Duration(seed) * 150 * time.Millisecond)
			c.named(end).stop()
			<-time.After(8 * time.Second)
			c.named(end).start()
			c.awaitPlaces("S", "b1 b2 b3")
			close(done)
			wg.Wait()
			c.await("the consumer, too", func() bool { return c.consumerPlaces("S", "C") == "b1 b2 b3" })
			if info := c.awaitPlaces("S", "b1 b2 b3"); int64(info.State.Msgs) < acked.Load() {
				t.Errorf("the %s ended: %d messages, %d were acknowledged", who, info.State.Msgs, acked.Load())
			}
			c.await("logs are dropped where it was", func() bool {
				for _, b := range c.list[:3] {
					if len(b.groups.Logs()) != 1 {
						return false
					}
				}
				return true
			})
		})
	}
}
