package state

import (
	"crypto/sha256"
	"encoding/hex"
)

const (
	configFile   = "millrace.conf"
	previousFile = "millrace.conf.previous"
	importedFile = "imported.sha256"
)

// Config returns the configuration; found is false when the box has none.
func (s *Store) Config() (text string, found bool, err error) {
	data, found, err := s.read(configFile)
	return string(data), found, err
}

// SetConfig replaces the configuration. The old one is kept beside it.
func (s *Store) SetConfig(text string) error {
	old, found, err := s.read(configFile)
	if err != nil {
		return err
	}
	if found {
		if err := s.write(previousFile, old); err != nil {
			return err
		}
	}
	return s.write(configFile, []byte(text))
}

// Import takes over the configuration that flashing put on the image, if it is not the one that was
// taken over last: at the first boot, and when the disk was flashed again with another. A
// configuration that was set since then stays as long as the image's is the same.
func (s *Store) Import(text string) (imported bool, err error) {
	sum := sha256.Sum256([]byte(text))
	want := hex.EncodeToString(sum[:])
	have, _, err := s.read(importedFile)
	if err != nil || string(have) == want {
		return false, err
	}
	// In this order: after a power cut between the two it is taken over once more.
	if err := s.SetConfig(text); err != nil {
		return false, err
	}
	return true, s.write(importedFile, []byte(want))
}
