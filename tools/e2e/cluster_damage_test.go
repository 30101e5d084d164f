package e2e

import (
	"encoding/json"
	"fmt"
	"strings"
	"testing"
	"time"

	"github.com/nats-io/nats.go"
	"github.com/nats-io/nats.go/jetstream"

	"millrace/tools/cluster"
	"millrace/tools/cluster/workload"
)

const damagedStream = "DAMAGED"

// damagedText is message i of a stream: long, and with its mark at the end, behind what the journal has before it.
func damagedText(i int) string {
	return strings.Repeat(fmt.Sprintf("%06d.", i), 100) + mark(i)
}

func mark(i int) string { return fmt.Sprintf("<mark %06d>", i) }

// metaLeader is the node that leads the meta group.
func (c *testCluster) metaLeader() *cluster.Node {
	c.t.Helper()
	admin, err := c.ConnectAdmin(c.Storage()[0])
	c.must(err)
	defer admin.Close()
	var leader *cluster.Node
	waitFor(c.t, healthLimit, "leader of the meta group", func() bool {
		var answer struct {
			Data struct {
				Meta struct {
					Leader string `json:"leader"`
				} `json:"meta_cluster"`
			} `json:"data"`
		}
		m, err := admin.Request("$SYS.REQ.SERVER.PING.JSZ", nil, time.Second)
		if err == nil && json.Unmarshal(m.Data, &answer) == nil {
			leader = c.Named(answer.Data.Meta.Leader)
		}
		return leader != nil
	})
	return leader
}

// leads makes a node the leader of a stream.
func (c *testCluster) leads(nc *nats.Conn, stream string, n *cluster.Node) {
	c.t.Helper()
	waitFor(c.t, healthLimit, n.Name+" as the leader of "+stream, func() bool {
		info, err := workload.Info(c.t.Context(), nc, stream)
		if err != nil || info.Cluster == nil {
			return false
		}
		if info.Cluster.Leader == n.Name {
			return true
		}
		leader, err := workload.StepDown(c.t.Context(), nc, stream, n.Name)
		return err == nil && leader == n.Name
	})
}

// readAll reads messages 1 to last of a stream, as it is served where it is led, and compares them.
func (c *testCluster) readAll(js jetstream.JetStream, stream string, last int) {
	c.t.Helper()
	ctx := c.context(healthLimit)
	cons, err := js.OrderedConsumer(ctx, stream, jetstream.OrderedConsumerConfig{})
	c.must(err)
	messages, err := cons.Messages()
	c.must(err)
	defer messages.Stop()
	for i := 1; i <= last; i++ {
		m, err := messages.Next(jetstream.NextMaxWait(healthLimit / 2))
		if err != nil {
			c.t.Fatalf("message %d of %s: %v", i, stream, err)
		}
		if meta, err := m.Metadata(); err != nil || meta.Sequence.Stream != uint64(i) || string(m.Data()) != damagedText(i) {
			c.t.Fatalf("message %d of %s: %v, %v, %q", i, stream, meta, err, m.Data())
		}
	}
}

// startOurs starts three nodes for a test that looks at our files, and a client.
func startOurs(t *testing.T) (*testCluster, *nats.Conn, jetstream.JetStream) {
	c := startNodes(t, 3)
	if c.stock {
		t.Skip("it is about our files")
	}
	nc, err := c.ConnectAny(c.Nodes[0])
	c.must(err)
	js, err := jetstream.New(nc)
	c.must(err)
	return c, nc, js
}

// TestClusterRepairsDamage damages what one of three nodes has stored, while it runs and while it does not: everything
// is read from it as it was, and it says what it has repaired.
func TestClusterRepairsDamage(t *testing.T) {
	c, nc, js := startOurs(t)
	ctx := c.context(healthLimit)
	for name, replicas := range map[string]int{damagedStream: 3, "ALONE": 1} {
		_, err := js.CreateStream(ctx, jetstream.StreamConfig{Name: name, Subjects: []string{name + ".>"}, Replicas: replicas, AllowDirect: true})
		c.must(err)
	}
	publish := func(stream string, from, to int) {
		t.Helper()
		for i := from; i <= to; i++ {
			_, err := js.Publish(ctx, stream+".a", []byte(damagedText(i)))
			c.must(err)
		}
	}
	publish(damagedStream, 1, 150)
	publish("ALONE", 1, 3)
	hurt := c.leader(damagedStream)

	for _, i := range []int{7, 8, 60, 149} {
		c.must(hurt.Damage(mark(i)))
	}
	s, err := js.Stream(ctx, damagedStream)
	c.must(err)
	if m, err := s.GetMsg(ctx, 60); err != nil || string(m.Data) != damagedText(60) {
		t.Errorf("a damaged message: %v, %v", m, err)
	}
	if leader := c.leader(damagedStream); leader != hurt {
		t.Logf("%s leads after the first read", leader.Name)
	}
	c.leads(nc, damagedStream, hurt)
	c.readAll(js, damagedStream, 150)
	waitFor(t, healthLimit, "word of damage and repair", func() bool {
		log := hurt.Log.Tail(-1)
		return strings.Contains(log, "stored data is damaged") && strings.Contains(log, "repaired from another node")
	})

	c.must(hurt.Kill())
	for _, i := range []int{20, 90, 91, 130} {
		c.must(hurt.Damage(mark(i)))
	}
	publish(damagedStream, 151, 180)
	c.must(hurt.Start())
	c.healthy()
	c.leads(nc, damagedStream, hurt)
	c.readAll(js, damagedStream, 180)
	if log := hurt.Log.Tail(-1); !strings.Contains(log, "a batch of the journal is damaged") {
		t.Error("the log says nothing of the damage that the start has met")
	}

	alone := c.leader("ALONE")
	c.must(alone.Damage(mark(2)))
	s, err = js.Stream(ctx, "ALONE")
	c.must(err)
	for i := 1; i <= 3; i++ {
		m, err := s.GetMsg(ctx, uint64(i))
		if i == 2 && err == nil || i != 2 && (err != nil || string(m.Data) != damagedText(i)) {
			t.Errorf("message %d of a stream without replicas: %v, %v", i, m, err)
		}
	}
	waitFor(t, healthLimit, "word of which message of which stream cannot be read, and where it lies", func() bool {
		log := alone.Log.Tail(-1)
		return strings.Contains(log, "stored message cannot be read") && strings.Contains(log, `stream \"ALONE\"`) && strings.Contains(log, ".seg")
	})
	// Nobody can say what stood there: after a restart that stream is not served, and everything else is.
	c.must(alone.Kill())
	c.must(alone.Start())
	c.leads(nc, damagedStream, alone)
	c.readAll(js, damagedStream, 180)
	waitFor(t, healthLimit, "word of a stream that is not served", func() bool {
		return strings.Contains(alone.Log.Tail(-1), "cannot be served; its data is left alone")
	})
}
