package vfs

import (
	"fmt"
	"io/fs"
	"math/rand/v2"
	"path/filepath"
	"slices"
)

// Corrupt inverts the mask bits of one byte of a file, durably, as bit rot does.
func (m *Mem) Corrupt(name string, off int64, mask byte) error {
	return m.edit("corrupt", name, func(n *inode) error {
		if off < 0 || off >= int64(len(n.data)) {
			return fmt.Errorf("offset %d is outside the %d bytes of the file", off, len(n.data))
		}
		m.rememberLocked(n, off/SectorBytes)
		n.data[off] ^= mask
		if off < int64(len(n.synced)) {
			n.synced[off] ^= mask
		}
		return nil
	})
}

// ZeroSector makes a sector of a file zero, durably: it is lost.
func (m *Mem) ZeroSector(name string, sector int64) error {
	return m.damage("zero", name, sector, func(*inode) ([]byte, error) { return make([]byte, SectorBytes), nil })
}

// ScrambleSector fills a sector with random bytes, durably. Equal seeds make equal bytes.
func (m *Mem) ScrambleSector(name string, sector int64, seed uint64) error {
	return m.damage("scramble", name, sector, func(*inode) ([]byte, error) {
		rnd := rand.New(rand.NewPCG(seed, uint64(sector)))
		b := make([]byte, SectorBytes)
		for i := range b {
			b[i] = byte(rnd.Uint32())
		}
		return b, nil
	})
}

// CopySector puts what sector from of a file holds into sector to, durably, as a misdirected write
// does.
func (m *Mem) CopySector(name string, from, to int64) error {
	return m.damage("copy sector", name, to, func(n *inode) ([]byte, error) {
		if from < 0 || from*SectorBytes >= int64(len(n.data)) {
			return nil, fmt.Errorf("sector %d is outside the %d bytes of the file", from, len(n.data))
		}
		return slices.Clone(n.sector(from)), nil
	})
}

// KeepHistory makes the file system remember what each write and each damage replaced. It costs as
// much memory again as is written.
func (m *Mem) KeepHistory() {
	m.mu.Lock()
	m.history = true
	m.mu.Unlock()
}

// RevertSector gives a sector back, durably, what it held before it was last written, as when the disk
// lost that write although it had reported it done. Needs KeepHistory.
func (m *Mem) RevertSector(name string, sector int64) error {
	return m.damage("revert", name, sector, func(n *inode) ([]byte, error) {
		versions := n.before[sector]
		if len(versions) == 0 {
			return nil, fmt.Errorf("no history of sector %d is kept", sector)
		}
		return slices.Clone(versions[len(versions)-1]), nil
	})
}

// RestoreSector undoes the last damage of a sector, durably. Needs KeepHistory.
func (m *Mem) RestoreSector(name string, sector int64) error {
	err := m.RevertSector(name, sector)
	if err != nil {
		return err
	}
	return m.edit("restore", name, func(n *inode) error {
		versions := n.before[sector]
		n.before[sector] = versions[:len(versions)-2] // the damage, and undoing it
		return nil
	})
}

// LoseWrites makes fn decide for each sector that is written whether the disk loses the write: it is
// reported done, and synced, and the sector keeps what it held. fn is called with a lock held and must
// not use the file system; sectors are asked in order. nil: none is lost.
func (m *Mem) LoseWrites(fn func(name string, sector int64) bool) {
	m.mu.Lock()
	m.lose = fn
	m.mu.Unlock()
}

// rememberLocked keeps what a sector holds before it changes.
func (m *Mem) rememberLocked(n *inode, sector int64) {
	if !m.history {
		return
	}
	if n.before == nil {
		n.before = make(map[int64][][]byte)
	}
	b := make([]byte, SectorBytes)
	copy(b, n.sector(sector))
	n.before[sector] = append(n.before[sector], b)
}

// damage replaces a sector of a file by what fn returns, seen by readers and durably.
func (m *Mem) damage(op, name string, sector int64, fn func(*inode) ([]byte, error)) error {
	return m.edit(op, name, func(n *inode) error {
		if sector < 0 || sector*SectorBytes >= int64(len(n.data)) {
			return fmt.Errorf("sector %d is outside the %d bytes of the file", sector, len(n.data))
		}
		b, err := fn(n)
		if err != nil {
			return err
		}
		m.rememberLocked(n, sector)
		copy(n.sector(sector), b)
		if at := sector * SectorBytes; at < int64(len(n.synced)) {
			copy(n.synced[at:min(at+SectorBytes, int64(len(n.synced)))], b)
		}
		return nil
	})
}

// edit changes a file behind the back of whoever has it open.
func (m *Mem) edit(op, name string, fn func(*inode) error) error {
	m.mu.Lock()
	defer m.mu.Unlock()
	n, ok := m.names[filepath.Clean(name)]
	if !ok {
		return &fs.PathError{Op: op, Path: name, Err: fs.ErrNotExist}
	}
	if err := fn(n); err != nil {
		return &fs.PathError{Op: op, Path: name, Err: err}
	}
	return nil
}
