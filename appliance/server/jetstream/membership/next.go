package membership

import (
	"cmp"
	"slices"
)

// Slack is how many entries a replica may be behind the commit index and still count as caught up. It is
// what a busy group has in flight, not a replica that is being filled.
const Slack = 256

// State is what the leader of a group knows of its members.
type State struct {
	Self         uint64 // the replica that leads
	Commit       uint64 // index
	Voters       []uint64
	Learners     []uint64
	Outgoing     []uint64 // voters that a change under way leaves
	Transferring uint64   // replica that leadership is being handed to; 0: none
	Peers        []Peer   // all other members
}

// Peer is what a leader knows of another replica.
type Peer struct {
	Replica uint64
	Match   uint64 // highest entry that it has on disk
	Active  bool   // it was heard of lately
}

// Kind is what is to be done.
type Kind uint8

// Kinds of actions.
const (
	Wait     Kind = iota // something is under way, or somebody has to catch up or to come back
	Alter                // change the members as Action.Change says
	Transfer             // hand leadership to Action.To
	Done                 // the members are those that are wanted
)

// String returns the name of the kind.
func (k Kind) String() string {
	return [...]string{"wait", "alter", "transfer", "done"}[k]
}

// Reason is why a leader waits.
type Reason uint8

// Reasons of Wait.
const (
	Nothing  Reason = iota // no members are wanted
	Changing               // a change or a hand-over is under way
	Behind                 // a new replica has not caught up
	NoQuorum               // too few of those who stay live and have caught up, or nobody can take over
)

// String says it for people.
func (r Reason) String() string {
	return [...]string{"no members are wanted", "a change of members is under way", "new replicas have to catch up",
		"replicas that stay have to come back or catch up"}[r]
}

// Change is one change of members: replicas that become voters, become learners, or leave.
type Change struct{ Voters, Learners, Remove []uint64 }

// Action is the next step of a group's leader.
type Action struct {
	Kind   Kind
	Change Change // of Alter
	To     uint64 // of Transfer
	Why    Reason // of Wait
}

// Next returns what the leader has to do so that the group's voters become target, and it has no
// learners. Its rules, in this order:
//
//  1. One thing at a time: while a change or a hand-over is under way, it waits. A leader that is no voter
//     any more hands over before it does anything else.
//  2. Who is new is added as a learner, which costs no quorum. Learners that are not wanted go.
//  3. Nobody leaves, and no learner becomes a voter, before all who are new have caught up.
//  4. A leader that is to leave hands over to a voter of target that has caught up, if there is one.
//  5. All new ones become voters and all who are to leave go in one change, but for a leader that still
//     has to hand over. It is made only if a majority of those who stay can commit at once.
//
// So a group never has fewer voters that can commit than it had, unless some of them died.
func Next(s State, target []uint64) Action {
	switch {
	case len(target) == 0:
		return wait(Nothing)
	case len(s.Outgoing) > 0:
		return wait(Changing)
	case s.Transferring != 0:
		return wait(Changing)
	}
	if !slices.Contains(s.Voters, s.Self) {
		// Elected while it was leaving.
		if to := s.heir(s.Voters); to != 0 {
			return Action{Kind: Transfer, To: to}
		}
		return wait(NoQuorum)
	}
	wanted := func(id uint64) bool { return slices.Contains(target, id) }
	member := func(id uint64) bool { return slices.Contains(s.Voters, id) || slices.Contains(s.Learners, id) }
	missing, stale := without(target, member), without(s.Learners, wanted)
	if len(missing)+len(stale) > 0 {
		return Action{Kind: Alter, Change: Change{Learners: missing, Remove: stale}}
	}
	// From here on the learners are those of target that are no voters.
	if i := slices.IndexFunc(s.Learners, func(id uint64) bool { return !s.ready(id) }); i >= 0 {
		return wait(Behind)
	}
	leaving := without(s.Voters, wanted)
	if len(leaving)+len(s.Learners) == 0 {
		return Action{Kind: Done}
	}
	if !wanted(s.Self) {
		if to := s.heir(target); to != 0 {
			return Action{Kind: Transfer, To: to}
		}
		leaving = without(leaving, func(id uint64) bool { return id == s.Self })
		if len(leaving)+len(s.Learners) == 0 {
			return wait(NoQuorum)
		}
	}
	if !s.commits(append(without(s.Voters, func(id uint64) bool { return slices.Contains(leaving, id) }), s.Learners...)) {
		return wait(NoQuorum)
	}
	return Action{Kind: Alter, Change: Change{Voters: slices.Sorted(slices.Values(s.Learners)), Remove: leaving}}
}

func wait(why Reason) Action { return Action{Kind: Wait, Why: why} }

// without returns the ids, sorted, for which drop is false.
func without(ids []uint64, drop func(uint64) bool) []uint64 {
	var list []uint64
	for _, id := range ids {
		if !drop(id) {
			list = append(list, id)
		}
	}
	slices.Sort(list)
	return list
}

// ready reports whether a replica has caught up with the leader, and lives. One that has not answered this
// leader yet (Match is 0) counts as neither, however short the log is.
func (s *State) ready(id uint64) bool {
	if id == s.Self {
		return true
	}
	i := slices.IndexFunc(s.Peers, func(p Peer) bool { return p.Replica == id })
	return i >= 0 && s.Peers[i].Active && s.Peers[i].Match > 0 && s.Peers[i].Match+Slack >= s.Commit
}

// heir returns the voter of target that is furthest, 0 if none is ready.
func (s *State) heir(target []uint64) uint64 {
	var best Peer
	for _, p := range s.Peers {
		if !slices.Contains(s.Voters, p.Replica) || !slices.Contains(target, p.Replica) || !s.ready(p.Replica) {
			continue
		}
		if best.Replica == 0 || cmp.Or(cmp.Compare(p.Match, best.Match), cmp.Compare(best.Replica, p.Replica)) > 0 {
			best = p
		}
	}
	return best.Replica
}

// commits reports whether a majority of voters is ready.
func (s *State) commits(voters []uint64) bool {
	n := 0
	for _, id := range voters {
		if s.ready(id) {
			n++
		}
	}
	return n > len(voters)/2
}

// Heir returns the voter that a leader without other wishes hands over to: the one that is furthest among
// those that choose accepts. 0: none is ready.
func Heir(s State, choose func(replica uint64) bool) uint64 {
	return s.heir(without(s.Voters, func(id uint64) bool { return !choose(id) }))
}

// NextEach is Next for a group that everybody joins by himself: who has not caught up, or does not answer,
// stays a learner and is waited for by nobody.
func NextEach(s State, target []uint64) Action {
	learners := len(s.Learners)
	idle := without(s.Learners, func(id uint64) bool { return !slices.Contains(target, id) || s.ready(id) })
	isIdle := func(id uint64) bool { return slices.Contains(idle, id) }
	s.Learners, target = without(s.Learners, isIdle), without(target, isIdle)
	a := Next(s, target)
	if a.Kind == Done && len(s.Learners) < learners {
		return wait(Behind)
	}
	return a
}
