package membership

import (
	"reflect"
	"testing"
)

// peers makes progress of replicas that have everything of a log of 1000 entries.
func peers(ids ...uint64) []Peer {
	var list []Peer
	for _, id := range ids {
		list = append(list, Peer{Replica: id, Match: 1000, Active: true})
	}
	return list
}

func TestNext(t *testing.T) {
	behind := func(ids ...uint64) []Peer {
		list := peers(ids...)
		for i := range list {
			list[i].Match = 1000 - Slack - 1
		}
		return list
	}
	silent := func(ids ...uint64) []Peer {
		list := peers(ids...)
		for i := range list {
			list[i].Active = false
		}
		return list
	}
	ids := func(ids ...uint64) []uint64 { return ids }
	alter := func(c Change) Action { return Action{Kind: Alter, Change: c} }
	for _, tc := range []struct {
		name   string
		state  State
		target []uint64
		want   Action
	}{
		{"as wanted", State{Self: 1, Voters: ids(3, 1, 2), Peers: peers(2, 3)}, ids(1, 2, 3), Action{Kind: Done}},
		{"as wanted, a member is dead", State{Self: 1, Voters: ids(1, 2, 3), Peers: silent(2, 3)}, ids(1, 2, 3), Action{Kind: Done}},
		{"change under way", State{Self: 1, Voters: ids(1, 2), Outgoing: ids(1, 3), Peers: peers(2, 3)}, ids(1, 2), wait(Changing)},
		{"hand-over under way", State{Self: 1, Voters: ids(1, 2), Transferring: 2, Peers: peers(2)}, ids(2), wait(Changing)},

		{"1 to 3: add", State{Self: 1, Voters: ids(1)}, ids(1, 2, 3), alter(Change{Learners: ids(2, 3)})},
		{"1 to 3: one is behind", State{Self: 1, Voters: ids(1), Learners: ids(2, 3), Peers: append(peers(2), behind(3)...)}, ids(1, 2, 3),
			wait(Behind)},
		{"1 to 3: one is dead", State{Self: 1, Voters: ids(1), Learners: ids(2, 3), Peers: append(peers(2), silent(3)...)}, ids(1, 2, 3),
			wait(Behind)},
		{"1 to 3: promote", State{Self: 1, Voters: ids(1), Learners: ids(3, 2), Peers: peers(2, 3)}, ids(1, 2, 3), alter(Change{Voters: ids(2, 3)})},

		{"3 to 1: drop", State{Self: 1, Voters: ids(1, 2, 3), Peers: peers(2, 3)}, ids(1), alter(Change{Remove: ids(2, 3)})},
		{"3 to 1: hand over", State{Self: 2, Voters: ids(1, 2, 3), Peers: peers(1, 3)}, ids(1), Action{Kind: Transfer, To: 1}},
		{"3 to 1: the one that stays is dead", State{Self: 2, Voters: ids(1, 2, 3), Peers: append(silent(1), peers(3)...)}, ids(1),
			wait(NoQuorum)},

		{"dead one replaced: add", State{Self: 1, Voters: ids(1, 2, 3), Peers: append(peers(2), silent(3)...)}, ids(1, 2, 4), alter(Change{Learners: ids(4)})},
		{"dead one replaced: swap", State{Self: 1, Voters: ids(1, 2, 3), Learners: ids(4), Peers: append(peers(2, 4), silent(3)...)}, ids(1, 2, 4),
			alter(Change{Voters: ids(4), Remove: ids(3)})},
		{"move of all: swap but the leader", State{Self: 1, Voters: ids(1, 2, 3), Learners: ids(4, 5, 6), Peers: peers(2, 3, 4, 5, 6)}, ids(4, 5, 6),
			alter(Change{Voters: ids(4, 5, 6), Remove: ids(2, 3)})},
		{"move of all: hand over", State{Self: 1, Voters: ids(1, 4, 5, 6), Peers: append(peers(4), append(behind(5), silent(6)...)...)}, ids(4, 5, 6),
			Action{Kind: Transfer, To: 4}},
		{"move of all: nobody can take over", State{Self: 1, Voters: ids(1, 4), Peers: behind(4)}, ids(4), wait(NoQuorum)},
		{"leader leaves: the new one first catches up", State{Self: 1, Voters: ids(1, 2, 3), Learners: ids(4), Peers: append(peers(2, 3), behind(4)...)}, ids(2, 3, 4),
			wait(Behind)},
		{"leader leaves: hands over before the change", State{Self: 1, Voters: ids(1, 2, 3), Learners: ids(4), Peers: []Peer{{2, 900, true}, {3, 1000, true}, {4, 1000, true}}},
			ids(2, 3, 4), Action{Kind: Transfer, To: 3}},
		{"other target: drop the learner", State{Self: 1, Voters: ids(1, 2, 3), Learners: ids(4), Peers: peers(2, 3, 4)}, ids(1, 2, 5),
			alter(Change{Learners: ids(5), Remove: ids(4)})},
		{"back to the old members", State{Self: 1, Voters: ids(1, 2, 3), Learners: ids(4), Peers: peers(2, 3, 4)}, ids(1, 2, 3), alter(Change{Remove: ids(4)})},
		{"leader is out already", State{Self: 9, Voters: ids(1, 2, 3), Peers: append(peers(3), behind(1, 2)...)}, ids(1, 2, 4), Action{Kind: Transfer, To: 3}},
		{"nothing wanted", State{Self: 1, Voters: ids(1)}, nil, wait(Nothing)},
	} {
		tc.state.Commit = 1000
		if got := Next(tc.state, tc.target); !reflect.DeepEqual(got, tc.want) {
			t.Errorf("%s: %+v, want %+v", tc.name, got, tc.want)
		}
	}
}

// TestNextAwaitsAnAnswer has a log so short that every replica is near its end.
func TestNextAwaitsAnAnswer(t *testing.T) {
	s := State{Self: 1, Commit: 5, Voters: []uint64{1}, Learners: []uint64{2}, Peers: []Peer{{Replica: 2, Active: true}}}
	if got := Next(s, []uint64{1, 2}); got.Kind != Wait {
		t.Errorf("%+v for a replica that never answered", got)
	}
	s.Peers[0].Match = 1
	if got := Next(s, []uint64{1, 2}); got.Kind != Alter {
		t.Errorf("%+v for a replica that answered", got)
	}
}

func TestHeir(t *testing.T) {
	s := State{Self: 1, Commit: 1000, Voters: []uint64{1, 2, 3, 4}, Learners: []uint64{5},
		Peers: []Peer{{2, 900, true}, {3, 1000, false}, {4, 950, true}, {5, 1000, true}}}
	for _, tc := range []struct {
		choose func(uint64) bool
		want   uint64
	}{
		{func(uint64) bool { return true }, 4},
		{func(id uint64) bool { return id < 4 }, 2},
		{func(id uint64) bool { return id == 3 || id == 5 || id == 1 }, 0},
	} {
		if got := Heir(s, tc.choose); got != tc.want {
			t.Errorf("heir %d, want %d", got, tc.want)
		}
	}
}

func TestNextEach(t *testing.T) {
	ids := func(ids ...uint64) []uint64 { return ids }
	dead := Peer{Replica: 4, Match: 0}
	for _, tc := range []struct {
		name   string
		state  State
		target []uint64
		want   Action
	}{
		{"a second one is added", State{Voters: ids(1, 2), Learners: ids(4), Peers: append(peers(2), dead)}, ids(1, 2, 4, 5),
			Action{Kind: Alter, Change: Change{Learners: ids(5)}}},
		{"and becomes a voter", State{Voters: ids(1, 2), Learners: ids(4, 5), Peers: append(peers(2, 5), dead)}, ids(1, 2, 4, 5),
			Action{Kind: Alter, Change: Change{Voters: ids(5)}}},
		{"the first is waited for", State{Voters: ids(1, 2, 5), Learners: ids(4), Peers: append(peers(2, 5), dead)}, ids(1, 2, 4, 5),
			wait(Behind)},
		{"another one is removed meanwhile", State{Voters: ids(1, 2, 5), Learners: ids(4), Peers: append(peers(2, 5), dead)}, ids(1, 2, 4),
			Action{Kind: Alter, Change: Change{Remove: ids(5)}}},
		{"it is not wanted any more", State{Voters: ids(1, 2, 5), Learners: ids(4), Peers: append(peers(2, 5), dead)}, ids(1, 2, 5),
			Action{Kind: Alter, Change: Change{Remove: ids(4)}}},
		{"all are in", State{Voters: ids(1, 2, 5), Peers: peers(2, 5)}, ids(1, 2, 5), Action{Kind: Done}},
	} {
		tc.state.Self, tc.state.Commit = 1, 1000
		if got := NextEach(tc.state, tc.target); !reflect.DeepEqual(got, tc.want) {
			t.Errorf("%s: %+v, want %+v", tc.name, got, tc.want)
		}
	}
}
