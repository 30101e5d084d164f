package state

import "time"

const bindingFile = "data-disk.json"

// Binding is the disk, or the disks, that a box keeps its data on.
type Binding struct {
	UUID    string    `json:"uuid"`  // of the file system on it
	Disk    string    `json:"disk"`  // for people: name, serial number and size when it was bound
	Ready   bool      `json:"ready"` // false: formatting has begun, and nobody knows whether it ended
	BoundAt time.Time `json:"bound_at"`

	// More are the disks over which the store is spread beside that one, by number.
	More []MoreDisk `json:"more,omitempty"`
}

// MoreDisk is a further data disk. Its file system's UUID follows from that of the first disk and the number.
type MoreDisk struct {
	Number int    `json:"number"` // from 2
	Disk   string `json:"disk"`   // for people, as in Binding
	Ready  bool   `json:"ready"`  // as in Binding
}

// Binding returns the data disk of this box; bound is false when it has none yet.
func (s *Store) Binding() (b Binding, bound bool, err error) {
	bound, err = s.Load(bindingFile, &b)
	return b, bound, err
}

// Bind notes the data disk of this box. It is called with Ready false before the disk is formatted,
// with Ready true before its first use.
func (s *Store) Bind(b Binding) error {
	return s.Save(bindingFile, b)
}
