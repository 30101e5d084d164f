package node

import (
	"context"
	"encoding/hex"
	"errors"
	"fmt"
	"path/filepath"
	"slices"

	"millrace/appliance/server/broker"
	"millrace/appliance/server/formation"
	"millrace/raft/transport"
	"millrace/storage/catalog"
)

// membership is a node's place in its cluster, once that is decided.
type membership struct {
	Node     uint64   // canonical id of this node
	Cluster  [16]byte // zero on a node without a cluster block that never was in a cluster
	Founders []uint64 // raw ids of the nodes that are the first voters of the meta group

	// Transport reaches the other storage nodes; its peers are kept up to date. It is not started yet:
	// who has a receiver for it does that. nil on a node without a cluster block. Node.Close closes it.
	Transport *transport.Transport
}

// openCatalog opens the catalog of the store, and in a cluster makes the node ready to find its place among
// the storage nodes: the broker's configuration says who it is.
func (n *Node) openCatalog(cfg *broker.Config) error {
	dir := n.settings.JetStream.StoreDir
	var err error
	if n.catalog, err = catalog.Open(filepath.Join(dir, "catalog.db")); err != nil {
		return fmt.Errorf("open store %s: %w", dir, err)
	}
	state, err := formation.DecodeState(n.catalog.Formation())
	if err != nil {
		return fmt.Errorf("open store %s: %w; the data was left as it is", dir, err)
	}
	if n.settings.Cluster != nil {
		n.peering, err = newPeering(n.settings.Cluster, cfg.Cluster, n.catalog, state, n.log, n.fail)
		if err != nil {
			return fmt.Errorf("open store %s: %w", dir, err)
		}
		return nil
	}
	if raw := n.catalog.NodeID(); state.Decided && !slices.Equal(state.Value.Founders, []uint64{raw}) {
		return fmt.Errorf("open store %s: it belongs to the cluster with the id %s, founded by %d nodes, and the configuration "+
			"has no cluster block; the data was left as it is", dir, hex.EncodeToString(state.Value.Cluster[:]), len(state.Value.Founders))
	}
	return nil
}

// formCluster returns this node's place in its cluster: at once if that is known, else when the storage
// nodes have decided, which takes a majority of them. It may be called again. It gives up when ctx or the
// node ends.
func (n *Node) formCluster(ctx context.Context) (*membership, error) {
	if p := n.peering; p != nil {
		return p.await(ctx)
	}
	if n.catalog == nil {
		return nil, errors.New("form cluster: this node has no streams")
	}
	state, err := formation.DecodeState(n.catalog.Formation())
	if err != nil {
		return nil, err
	}
	raw := n.catalog.NodeID()
	return &membership{Node: nodeOf(raw), Cluster: state.Value.Cluster, Founders: []uint64{raw}}, nil
}
