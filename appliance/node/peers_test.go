package node

import (
	"reflect"
	"slices"
	"testing"

	"millrace/appliance/server/broker"
)

func TestKnownPeersLearn(t *testing.T) {
	ours, other := [16]byte{1}, [16]byte{2}
	var k knownPeers
	for _, step := range []struct {
		mesh []broker.StoragePeer
		want knownPeers
	}{
		{nil, nil},
		{[]broker.StoragePeer{
			{Node: 2, ServerName: "b", Cluster: ours, Addresses: []string{"b:1", "10.0.0.2:1"}},
			{Node: 3, ServerName: "c", Addresses: []string{"c:1"}}, {Node: 4, ServerName: "d", Cluster: other, Addresses: []string{"d:1"}},
		}, knownPeers{{"0000000000000002", "b", []string{"b:1", "10.0.0.2:1"}}}},
		// Who is away is remembered.
		{[]broker.StoragePeer{{Node: 3, ServerName: "c", Cluster: ours, Addresses: []string{"c:1"}}},
			knownPeers{{"0000000000000002", "b", []string{"b:1", "10.0.0.2:1"}}, {"0000000000000003", "c", []string{"c:1"}}}},
		// Another node at the place of one: that is not there any more.
		{[]broker.StoragePeer{{Node: 9, ServerName: "b", Cluster: ours, Addresses: []string{"b:1"}}},
			knownPeers{{"0000000000000002", "b", []string{"10.0.0.2:1"}}, {"0000000000000003", "c", []string{"c:1"}}, {"0000000000000009", "b", []string{"b:1"}}}},
		{[]broker.StoragePeer{{Node: 9, ServerName: "b", Cluster: ours, Addresses: []string{"b:1", "10.0.0.2:1"}}},
			knownPeers{{"0000000000000003", "c", []string{"c:1"}}, {"0000000000000009", "b", []string{"b:1", "10.0.0.2:1"}}}},
	} {
		before := slices.Clone(k)
		next := k.learn(broker.StorageMesh{Peers: step.mesh}, ours)
		if !reflect.DeepEqual(next, step.want) || !reflect.DeepEqual(k, before) {
			t.Errorf("learned %v of %v, want %v", next, k, step.want)
		}
		read, err := decodePeers(next.encode())
		if err != nil || len(read) != len(next) || len(next) > 0 && !reflect.DeepEqual(read, next) {
			t.Errorf("stored %v, read %v, %v", next, read, err)
		}
		k = next
	}
	for _, bad := range []string{"{", `{"version":2}`, `{"version":1,"peers":[{"node":"0"}]}`, `{"version":1,"peers":[{"node":"x"}]}`} {
		if _, err := decodePeers([]byte(bad)); err == nil {
			t.Errorf("%s is taken", bad)
		}
	}
}
