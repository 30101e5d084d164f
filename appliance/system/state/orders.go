package state

const ordersFile = "orders.json"

// Orders is what the next boot is to do before anything else. They are given while the box runs and
// its disks are in use.
type Orders struct {
	// Reset forgets identity, configuration and binding: the box comes up as if just flashed, with the
	// configuration that flashing put on the image.
	Reset bool `json:"reset,omitempty"`

	// EraseData formats the bound data disk anew; with Reset it stays bound to nothing.
	EraseData bool `json:"erase_data,omitempty"`

	// TakeDisk is the serial number, or without one the kernel name, of a disk that becomes the data
	// disk and is erased for it. The former one is left as it is.
	TakeDisk string `json:"take_disk,omitempty"`
}

// Orders returns the standing orders.
func (s *Store) Orders() (o Orders, err error) {
	_, err = s.Load(ordersFile, &o)
	return o, err
}

// Give replaces the standing orders.
func (s *Store) Give(o Orders) error {
	if o == (Orders{}) {
		return s.remove(ordersFile)
	}
	return s.Save(ordersFile, o)
}

// Forget removes what makes the box this box. It may be called again after a power cut: the orders go
// last, by the caller's Give.
func (s *Store) Forget() error {
	for _, name := range []string{configFile, previousFile, importedFile, bindingFile, identityFile} {
		if err := s.remove(name); err != nil {
			return err
		}
	}
	return nil
}
