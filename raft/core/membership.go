package core

import (
	"errors"
	"fmt"
	"slices"
)

// check returns an error unless a membership can be in effect.
func (m *Membership) check() error {
	for _, set := range []struct {
		name string
		ids  []uint64
	}{
		{"voters", m.Voters}, {"learners", m.Learners},
		{"outgoing voters", m.Outgoing}, {"next learners", m.LearnersNext},
	} {
		for i, id := range set.ids {
			switch {
			case !validReplica(id):
				return fmt.Errorf("replica id %d among the %s is not valid", id, set.name)
			case i > 0 && set.ids[i-1] >= id:
				return fmt.Errorf("%s %v are not sorted", set.name, set.ids)
			}
		}
	}
	if len(m.Voters) == 0 {
		return errors.New("no voters")
	}
	if len(m.Outgoing) == 0 && (len(m.LearnersNext) > 0 || m.AutoLeave) {
		return errors.New("not in a joint change, but with parts of one")
	}
	for _, id := range m.Learners {
		if slices.Contains(m.Voters, id) || slices.Contains(m.Outgoing, id) {
			return fmt.Errorf("replica %d is both a voter and a learner", id)
		}
	}
	for _, id := range m.LearnersNext {
		if !slices.Contains(m.Outgoing, id) || slices.Contains(m.Voters, id) {
			return fmt.Errorf("replica %d is to become a learner, but is not a voter that leaves", id)
		}
	}
	return nil
}

// votes reports whether a replica is a voter, before or after the end of a joint change.
func (m *Membership) votes(replica uint64) bool {
	return slices.Contains(m.Voters, replica) || slices.Contains(m.Outgoing, replica)
}

func (m *Membership) clone() Membership {
	return Membership{
		Voters: slices.Clone(m.Voters), Learners: slices.Clone(m.Learners),
		Outgoing: slices.Clone(m.Outgoing), LearnersNext: slices.Clone(m.LearnersNext),
		AutoLeave: m.AutoLeave,
	}
}

// check returns an error unless a change makes sense for a membership that is not joint.
func (c *Change) check(m *Membership) error {
	named := make(map[uint64]bool)
	for _, id := range slices.Concat(c.Voters, c.Learners, c.Remove) {
		switch {
		case !validReplica(id):
			return fmt.Errorf("replica id %d is not valid", id)
		case named[id]:
			return fmt.Errorf("replica %d is named twice", id)
		}
		named[id] = true
	}
	if len(named) == 0 {
		return errors.New("nothing changes")
	}
	voters := len(m.Voters)
	for _, id := range c.Voters {
		if slices.Contains(m.Voters, id) {
			return fmt.Errorf("replica %d is a voter already", id)
		}
		voters++
	}
	for _, id := range c.Learners {
		switch {
		case slices.Contains(m.Learners, id):
			return fmt.Errorf("replica %d is a learner already", id)
		case slices.Contains(m.Voters, id):
			voters--
		}
	}
	for _, id := range c.Remove {
		switch {
		case slices.Contains(m.Voters, id):
			voters--
		case !slices.Contains(m.Learners, id):
			return fmt.Errorf("replica %d is not a member", id)
		}
	}
	if voters == 0 {
		return errors.New("no voter would be left")
	}
	return nil
}

// validReplica reports whether an id can be that of a replica. The two highest ones name the parts of
// a replica's own storage in etcd's raft.
func validReplica(id uint64) bool { return id != 0 && id < nobody }

// nobody is the id in messages that a core makes up for its own library.
const nobody = 1<<64 - 3
