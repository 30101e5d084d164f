package e2e

import (
	"fmt"
	"strings"
	"testing"

	"millrace/tools/cluster"
)

// TestClusterSurvivesZones has five nodes in three zones, 2+2+1, and streams with a replica in each: they
// go on without any one zone.
func TestClusterSurvivesZones(t *testing.T) {
	long(t)
	zones := []string{"a", "a", "b", "b", "c"}
	c := newCluster(t, 5, func(o *cluster.Options) {
		o.JetStream = append(o.JetStream, `unique_tag: "zone:"`)
		o.Lines = func(i int) []string { return []string{fmt.Sprintf("server_tags: [%q]", "zone:"+zones[i])} }
	})
	c.must(c.Start())
	c.must(c.WaitFormed(c.context(healthLimit), 3))
	l := c.startLoad(3)
	l.progress("at the start")
	nc, err := c.ConnectAny(c.Nodes[0])
	c.must(err)
	for _, stream := range []string{ordersStream, queueStream, "KV_" + bucketName} {
		var at []string
		for _, n := range c.replicas(nc, stream) {
			at = append(at, zones[n.Number])
		}
		for _, zone := range "abc" {
			if strings.Count(strings.Join(at, ""), string(zone)) != 1 {
				t.Errorf("replicas of %s are in zones %q", stream, at)
				break
			}
		}
	}
	for _, zone := range []string{"a", "b", "c"} {
		var nodes []*cluster.Node
		for _, n := range c.Nodes {
			if zones[n.Number] == zone {
				nodes = append(nodes, n)
			}
		}
		for _, n := range nodes {
			c.must(n.Kill())
		}
		l.progress("without zone " + zone)
		for _, n := range nodes {
			c.must(n.Start())
		}
		c.healthy()
	}
	l.finish()
}
