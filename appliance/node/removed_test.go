package node

import (
	"slices"
	"strings"
	"testing"
	"testing/synctest"
	"time"

	"millrace/appliance/server/jetstream/api"
)

// named returns the node of that name.
func (c *boxes) named(name string) *plant {
	for _, b := range c.list {
		if b.name == name {
			return b
		}
	}
	c.t.Fatalf("no node %q", name)
	return nil
}

// TestRemovedNodeTakesNothing removes a node that lives and has the only replica of a stream: what it acknowledged
// from then on would be lost. The stream is without a leader until it is deleted, and says so.
func TestRemovedNodeTakesNothing(t *testing.T) {
	for _, cut := range []bool{false, true} {
		synctest.Test(t, func(t *testing.T) {
			c := newBoxes(t, 3)
			var out *plant
			for out == nil { // one that does not lead the meta group
				c.call("A", "STREAM.CREATE.S", `{"name":"S","subjects":["s.>"],"num_replicas":1}`, 0, nil)
				if out = c.named(c.info("S").Cluster.Leader); out.name == out.meta().Leader {
					out = nil
					c.call("A", "STREAM.CREATE.T", `{"name":"T","subjects":["t.>"],"num_replicas":1}`, 0, nil)
					c.call("A", "STREAM.DELETE.S", ``, 0, nil)
				}
			}
			c.call("A", "STREAM.CREATE.R", `{"name":"R","subjects":["r.>"],"num_replicas":3}`, 0, nil)
			c.publish("s.a", 3)
			c.publish("r.a", 3)
			if cut { // it does not see its removal
				c.wired(out, false)
				c.await("it is gone", func() bool { return !c.named(c.other(out)).online(nodeOf(out.raw)) })
			}
			c.call("$SYS", "SERVER.REMOVE", `{"peer":"`+out.name+`"}`, 0, nil)
			if cut {
				<-time.After(10 * time.Second)
				c.wired(out, true)
			}
			c.await("it says that it is out", func() bool { return out.health() == 503 })
			<-time.After(15 * time.Second)
			if answer := c.request("A", "s.a", "x"); strings.Contains(answer, `"seq":`) {
				t.Errorf("cut %t: a node that is out acknowledges: %s", cut, answer)
			}
			for range 20 {
				if answer := c.request("A", api.Prefix+"STREAM.INFO.R", ""); !strings.Contains(answer, `"state"`) {
					t.Fatalf("cut %t: another stream: %q", cut, answer)
				}
			}
			c.publish("r.a", 3)
			if answer := c.request("A", api.Prefix+"STREAM.INFO.S", ""); !strings.Contains(answer, `were removed`) {
				t.Errorf("cut %t: info of a stream that is lost: %s", cut, answer)
			}
			for _, body := range []string{
				`{"name":"S","subjects":["s.>"],"num_replicas":2}`,
			} {
				if answer := c.request("A", api.Prefix+"STREAM.UPDATE.S", body); !strings.Contains(answer, `no replica is left`) {
					t.Errorf("cut %t: update of a stream that is lost: %s", cut, answer)
				}
			}
			c.call("A", "STREAM.DELETE.S", "", 0, nil)
			c.call("A", "STREAM.CREATE.S", `{"name":"S","subjects":["s.>"],"num_replicas":1}`, 0, nil)
			c.publish("s.a", 3)
			if msgs := c.info("S").State.Msgs; msgs != 3 {
				t.Errorf("cut %t: %d messages, want 3", cut, msgs)
			}
		})
	}
}

// other returns the name of another node.
func (c *boxes) other(b *plant) string {
	for _, o := range c.list {
		if o != b {
			return o.name
		}
	}
	return ""
}

// TestLeadersOfTheCatalogueAreRemoved removes who leads the meta group, again and again, while all live: somebody else
// leads at once, the data is kept as long as a node is left, and the last one stays.
func TestLeadersOfTheCatalogueAreRemoved(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		c := newBoxes(t, 5)
		c.call("A", "STREAM.CREATE.S", `{"name":"S","subjects":["s.>"],"num_replicas":3}`, 0, nil)
		c.publish("s.a", 10)
		left := slices.Clone(c.list)
		for len(left) > 1 {
			lead := ""
			c.await("a leader of the catalogue", func() bool {
				lead = left[0].meta().Leader
				return slices.ContainsFunc(left, func(b *plant) bool { return b.name == lead })
			})
			c.call("$SYS", "SERVER.REMOVE", `{"peer":"`+lead+`"}`, 0, nil)
			left = slices.DeleteFunc(left, func(b *plant) bool { return b.name == lead })
			if len(left) == 4 {
				continue // two in a row
			}
			began := time.Now()
			c.await("the API", func() bool {
				return strings.Contains(c.request("A", api.Prefix+"STREAM.NAMES", ""), `"S"`)
			})
			if took := time.Since(began); took > 10*time.Second {
				t.Errorf("nobody answered for %v with %d nodes left", took, len(left))
			}
			if len(left) > 2 {
				c.await("the stream on nodes that are left", func() bool {
					info := c.info("S")
					if info == nil || info.Cluster.Desired != nil {
						return false
					}
					for _, name := range strings.Fields(places(info.Cluster)) {
						if !slices.ContainsFunc(left, func(b *plant) bool { return b.name == name }) {
							return false
						}
					}
					return true
				})
			}
			c.publish("s.a", 1)
		}
		<-time.After(10 * time.Second)
		c.call("$SYS", "SERVER.REMOVE", `{"peer":"`+left[0].name+`"}`, api.ErrClusterNoPeersF("").ErrCode, nil)
		c.publish("s.a", 1)
		c.await("all messages", func() bool {
			info := c.info("S")
			return info != nil && info.State.Msgs >= 14
		})
		for _, b := range c.list {
			if b != left[0] {
				c.await(b.name+" knows that it is out", func() bool { return b.health() == 503 })
			}
		}
	})
}
