package state

import (
	"encoding/json"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"

	"millrace/storage/vfs"
)

// maxFile bounds what is read, in bytes; a configuration is the largest.
const maxFile = 4 << 20

// Store is the folder of a box's state.
type Store struct {
	dir string
}

// Open returns the store in dir, which must exist: the mounted state partition, or a folder in memory
// for a box that has none.
func Open(dir string) (*Store, error) {
	if fi, err := os.Stat(dir); err != nil {
		return nil, fmt.Errorf("open state: %w", err)
	} else if !fi.IsDir() {
		return nil, fmt.Errorf("open state: %s is not a folder", dir)
	}
	return &Store{dir: dir}, nil
}

// Dir returns the path of a folder in the store, which is made if it is missing.
func (s *Store) Dir(name string) (string, error) {
	dir := filepath.Join(s.dir, name)
	if err := os.MkdirAll(dir, 0o700); err != nil {
		return "", fmt.Errorf("make folder in state: %w", err)
	}
	return dir, syncDir(s.dir)
}

// RemoveDir removes a folder of the store with all that is in it, if it is there.
func (s *Store) RemoveDir(name string) error {
	if err := os.RemoveAll(filepath.Join(s.dir, name)); err != nil {
		return fmt.Errorf("remove folder of state: %w", err)
	}
	return syncDir(s.dir)
}

// read returns a file; found is false when there is none.
func (s *Store) read(name string) (data []byte, found bool, err error) {
	path := filepath.Join(s.dir, name)
	fi, err := os.Stat(path)
	if errors.Is(err, fs.ErrNotExist) {
		return nil, false, nil
	}
	if err != nil {
		return nil, false, fmt.Errorf("read state: %w", err)
	}
	if fi.Size() > maxFile {
		return nil, false, fmt.Errorf("read state: %s has %d bytes, more than %d", path, fi.Size(), maxFile)
	}
	if data, err = os.ReadFile(path); err != nil {
		return nil, false, fmt.Errorf("read state: %w", err)
	}
	return data, true, nil
}

// write replaces a file: the new one is on the disk under another name before it takes the place of
// the old, and the change of names is on the disk when write returns.
func (s *Store) write(name string, data []byte) error {
	if err := vfs.Replace(vfs.OS{}, filepath.Join(s.dir, name), data); err != nil {
		return fmt.Errorf("write state: %w", err)
	}
	return nil
}

// remove removes a file, if there is one.
func (s *Store) remove(name string) error {
	path := filepath.Join(s.dir, name)
	if err := os.Remove(path); err != nil && !errors.Is(err, fs.ErrNotExist) {
		return fmt.Errorf("remove state: %w", err)
	}
	return syncDir(filepath.Dir(path))
}

// Load reads a file into v; found is false when there is none.
func (s *Store) Load(name string, v any) (found bool, err error) {
	data, found, err := s.read(name)
	if err != nil || !found {
		return found, err
	}
	if err := json.Unmarshal(data, v); err != nil {
		return true, fmt.Errorf("read state: %s is damaged: %w", filepath.Join(s.dir, name), err)
	}
	return true, nil
}

// Save replaces a file with v in JSON.
func (s *Store) Save(name string, v any) error {
	data, err := json.MarshalIndent(v, "", "  ")
	if err != nil {
		return fmt.Errorf("write state: %s: %w", name, err)
	}
	return s.write(name, append(data, '\n'))
}

// syncDir makes changes of names in a folder durable.
func syncDir(dir string) error {
	if err := (vfs.OS{}).SyncDir(dir); err != nil {
		return fmt.Errorf("write state: %w", err)
	}
	return nil
}
