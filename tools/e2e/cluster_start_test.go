package e2e

import (
	"fmt"
	"strings"
	"testing"

	"github.com/nats-io/nats.go"
	"github.com/nats-io/nats.go/jetstream"

	"millrace/tools/cluster"
)

// TestClusterStartsInAnyOrder starts the nodes one after the other; two are enough to use streams, and
// the third finds what there is.
func TestClusterStartsInAnyOrder(t *testing.T) {
	for i, order := range [][]int{{2, 0, 1}, {1, 2, 0}} {
		t.Run(fmt.Sprint(order), func(t *testing.T) {
			if i > 0 {
				long(t)
			}
			c := newCluster(t, 3)
			c.must(c.Nodes[order[0]].Start())
			// One of three is no cluster.
			_, js := c.client(c.Nodes[order[0]])
			if _, err := js.CreateStream(c.context(clusterTimeout/10), jetstream.StreamConfig{Name: "ALONE"}); err == nil {
				t.Error("one node of three made a stream")
			}
			c.must(c.Nodes[order[1]].Start())
			c.formed()
			l := c.startLoad(2, c.Nodes[order[0]], c.Nodes[order[1]])
			l.progress("with two of three")
			c.must(c.Nodes[order[2]].Start())
			c.formed()
			l.progress("with three")
			l.finish()
		})
	}
}

// threeMachines is the file of three machines, as users have it; only host names and the folder, which
// are three here on one machine, change.
const threeMachines = `server_name=n1-c1
listen=4222
accounts {
  $SYS { users = [ { user: "admin", pass: "$2a$11$DRh4C0KNbNnD8K/hb/buWe1zPxEHrLEiDmuq1Mi0rRJiH/W25Qidm" } ] }
}
jetstream { store_dir=/nats/storage }
cluster {
  name: C1
  listen: 0.0.0.0:6222
  routes: [
    nats://host_b:6222
    nats://host_c:6222
  ]
}
`

// TestClusterOfThreeMachines uses that file on three hosts, and kills one.
func TestClusterOfThreeMachines(t *testing.T) {
	c := newCluster(t, 3, inNetwork(t, 3))
	for i, n := range c.Nodes {
		b, d := c.Nodes[(i+1)%3], c.Nodes[(i+2)%3]
		c.must(n.WriteConf(strings.NewReplacer("n1-c1", n.Name, "/nats/storage", n.Store(), "host_b", b.IP(), "host_c", d.IP()).Replace(threeMachines)))
	}
	c.must(c.Start())
	c.formed()
	l := c.startLoad(3)
	l.progress("three machines")
	// Comparing the hash takes long on a busy machine.
	admin, err := c.Connect(c.Nodes[1], nats.UserInfo("admin", "a very long s3cr3t! password"), nats.Timeout(cluster.StartTimeout))
	c.must(err)
	inbox, err := admin.SubscribeSync(admin.NewInbox())
	c.must(err)
	c.must(admin.PublishRequest("$SYS.REQ.SERVER.PING", inbox.Subject, nil))
	for i := range c.Nodes {
		if _, err := inbox.NextMsg(clusterTimeout); err != nil {
			t.Fatalf("answer %d of three servers: %v", i+1, err)
		}
	}
	c.must(c.Nodes[0].Kill())
	l.progress("two of three machines")
	c.must(c.Nodes[0].Start())
	l.finish()
}
