package formation

import "fmt"

// State is what a node must not forget. The zero State is that of a node that has said nothing yet.
//
// Invariants:
//  1. Promised never goes back, and Accepted is never after it.
//  2. Value is set if Accepted or Decided is, and no other value replaces a decided one.
//  3. Joins, once set, stays.
type State struct {
	Promised Ballot   // no attempt before this is helped
	Accepted Ballot   // in which Value was accepted; zero: nothing was
	Value    Value    // accepted or, with Decided, decided
	Decided  bool     // Value is the decision
	Joins    [16]byte // cluster that exists already, as far as this node heard; zero: none is known
}

// A stored state, version 1; numbers are little-endian. The catalog has a checksum over it.
//
//	off size
//	  0    1  version, 1
//	  1    1  flags: 1 decided
//	  2   16  promised: round, node
//	 18   16  accepted: round, node; 0: nothing
//	 34   16  cluster that this node joins; 0: none
//	 50   16  value: cluster id; 0: no value
//	 66    2  value: number of founders
//	 68  8*n  value: founders
const (
	stateVersion = 1
	flagDecided  = 1
)

// Encode returns the bytes of a state.
func (s *State) Encode() []byte {
	b := []byte{stateVersion, 0}
	if s.Decided {
		b[1] |= flagDecided
	}
	b = s.Promised.append(b)
	b = s.Accepted.append(b)
	b = append(b, s.Joins[:]...)
	return s.Value.append(b)
}

// DecodeState reads what Encode returned. No bytes are the zero State.
func DecodeState(b []byte) (State, error) {
	if len(b) == 0 {
		return State{}, nil
	}
	if b[0] != stateVersion {
		return State{}, fmt.Errorf("formation: state has version %d, this program reads %d", b[0], stateVersion)
	}
	d := decoder{b: b[1:]}
	flags := d.byte()
	s := State{Decided: flags&flagDecided != 0, Promised: d.ballot(), Accepted: d.ballot(), Joins: d.id(), Value: d.value()}
	err := d.end()
	if err == nil && flags&^flagDecided != 0 {
		err = fmt.Errorf("unknown flags %02x", flags)
	}
	if err == nil {
		err = s.check()
	}
	if err != nil {
		return State{}, fmt.Errorf("formation: decode state: %w", err)
	}
	return s, nil
}

// check reports which invariant does not hold.
func (s *State) check() error {
	if s.Promised.Less(s.Accepted) {
		return fmt.Errorf("accepted %v is after promised %v", s.Accepted, s.Promised)
	}
	if has := s.Decided || s.Accepted != (Ballot{}); !has {
		if !s.Value.none() {
			return fmt.Errorf("a value that was neither accepted nor decided")
		}
		return nil
	}
	return s.Value.check()
}
