package cluster

import (
	"bytes"
	"fmt"
	"os"
	"path/filepath"
)

// Damage inverts a bit behind the start of each place where a text stands in the segments of the node's journal, as a
// disk that forgets would. The node may run; it does not notice. The text is short: it is found where it lies in one
// sector.
func (n *Node) Damage(text string) error {
	names, err := filepath.Glob(filepath.Join(n.Store(), "journal", "*.seg"))
	if err != nil {
		return err
	}
	found := 0
	for _, name := range names {
		hits, err := damage(name, []byte(text))
		if err != nil {
			return fmt.Errorf("damage %s: %w", name, err)
		}
		found += hits
	}
	if found == 0 {
		return fmt.Errorf("%q is in none of %d segments of %s", text, len(names), n.Name)
	}
	return nil
}

func damage(name string, text []byte) (hits int, err error) {
	data, err := os.ReadFile(name)
	if err != nil {
		return 0, err
	}
	f, err := os.OpenFile(name, os.O_WRONLY, 0)
	if err != nil {
		return 0, err
	}
	defer f.Close()
	for at := 0; ; {
		i := bytes.Index(data[at:], text)
		if i < 0 {
			return hits, nil
		}
		at += i + 1
		if _, err := f.WriteAt([]byte{data[at] ^ 0x04}, int64(at)); err != nil {
			return hits, err
		}
		hits++
	}
}
