package jetstream

import (
	"testing"
	"testing/synctest"
	"time"

	"millrace/appliance/server/jetstream/api"
	"millrace/appliance/server/jetstream/meta"
)

// Who asks for a stream when the cluster has just begun is not told that it has no nodes: the first one is about to enter
// itself.
func TestPlacementWaitsForTheFirstNode(t *testing.T) {
	for _, comes := range []bool{true, false} {
		inRing(t, api.LimitsPolicy, func(r *ring) {
			e := r.nodes[0].engine
			placed, begun := make(chan *api.Error, 1), time.Now()
			e.wg.Go(func() {
				_, err := e.accounts["A"].place(&api.StreamConfig{Name: "NEW", Replicas: 1})
				placed <- err
			})
			<-time.After(100 * time.Millisecond)
			if synctest.Wait(); len(placed) != 0 {
				r.Fatalf("placed without a node: %v", <-placed)
			}
			if comes {
				n := e.self()
				n.ID = meta.NodeOf(n.ID)
				entry, err := (&meta.Entry{Op: meta.OpPutNode, Node: &n}).Encode()
				if err != nil {
					r.Fatal(err)
				}
				e.catalog.mu.Lock()
				_, err = e.catalog.machine.Apply(entry)
				e.catalog.mu.Unlock()
				if err != nil {
					r.Fatal(err)
				}
			}
			err := <-placed
			if took := time.Since(begun); comes != (err == nil) || comes != (took < electionWait) {
				r.Errorf("a node comes: %t; placed after %v: %v", comes, took, err)
			}
		})
	}
}
