package vfs

import (
	"fmt"
	"io/fs"
	"path/filepath"
	"slices"
	"sync"
)

// Spread shows the files of several directories, on as many disks, as those of the first one, so that
// what they may hold adds up. A file lies in one directory whole: which one is found out by looking, and a
// new file goes where most room is free.
//
//  1. A name is in one directory at most. Two directories that both have it are an error, not a choice.
//  2. A file never leaves its directory: renaming stays on the disk, and is as atomic as there.
//  3. SyncDir makes durable what was changed in any of the directories before it was called.
//
// Nobody else may create, rename or remove files there meanwhile. Open files tell by their Name which directory they
// are in, and those names are accepted as well.
type Spread struct {
	fsys FS
	free func(dir string) (int64, error)
	dirs []string

	mu      sync.Mutex
	places  map[string]int // index into dirs by the file's name
	changed []uint64       // how often the entries of each directory were changed
	synced  []uint64       // what of that is durable
}

// NewSpread makes the directories that are missing and looks what is in them. free returns the bytes that
// may still be written in a directory.
func NewSpread(fsys FS, free func(dir string) (int64, error), dirs ...string) (*Spread, error) {
	s := &Spread{fsys: fsys, free: free, places: make(map[string]int)}
	for _, dir := range dirs {
		dir = filepath.Clean(dir)
		if slices.Contains(s.dirs, dir) {
			return nil, fmt.Errorf("spread files over directories: %q is given twice", dir)
		}
		s.dirs = append(s.dirs, dir)
	}
	if len(s.dirs) == 0 {
		return nil, fmt.Errorf("spread files over directories: none is given")
	}
	s.changed, s.synced = make([]uint64, len(dirs)), make([]uint64, len(dirs))
	if err := s.MkdirAll(s.dirs[0]); err != nil {
		return nil, err
	}
	found, err := s.look()
	if err != nil {
		return nil, err
	}
	s.places = found
	for i := range s.changed {
		s.changed[i] = 1 // what a crash left may not be durable yet
	}
	return s, nil
}

// look finds out in which directory each file is.
func (s *Spread) look() (map[string]int, error) {
	found := make(map[string]int)
	for i, dir := range s.dirs {
		names, err := s.fsys.List(dir)
		if err != nil {
			return nil, err
		}
		for _, name := range names {
			if other, ok := found[name]; ok {
				return nil, fmt.Errorf("file %q is in two directories, %q and %q: one of them is a copy, which of them is not known",
					name, s.dirs[other], dir)
			}
			found[name] = i
		}
	}
	return found, nil
}

// split returns the name of a file in its directory. place is which of the directories the path
// names; the first one stands for all.
func (s *Spread) split(op, path string) (name string, place int, err error) {
	dir, name := filepath.Split(path)
	if place = slices.Index(s.dirs, filepath.Clean(dir)); place < 0 || name == "" {
		return "", 0, &fs.PathError{Op: op, Path: path, Err: fmt.Errorf("%w: not in one of %q", fs.ErrInvalid, s.dirs)}
	}
	return name, place, nil
}

// find returns the directory and the name of a file that is there.
func (s *Spread) find(op, path string) (place int, name string, err error) {
	name, asked, err := s.split(op, path)
	if err != nil {
		return 0, "", err
	}
	s.mu.Lock()
	defer s.mu.Unlock()
	place, ok := s.places[name]
	if !ok || place < 0 || asked > 0 && asked != place {
		return 0, "", &fs.PathError{Op: op, Path: path, Err: fs.ErrNotExist}
	}
	return place, name, nil
}

// making is the place of a file that Create has not made yet.
const making = -1

// Create makes a new file in the directory with the most room. One that cannot tell how much it has is an
// error: its disk has failed.
func (s *Spread) Create(path string) (File, error) {
	name, _, err := s.split("create", path)
	if err != nil {
		return nil, err
	}
	s.mu.Lock()
	_, taken := s.places[name]
	if !taken {
		s.places[name] = making
	}
	s.mu.Unlock()
	if taken {
		return nil, &fs.PathError{Op: "create", Path: path, Err: fs.ErrExist}
	}
	place, err := s.roomiest()
	var f File
	if err == nil {
		f, err = s.fsys.Create(filepath.Join(s.dirs[place], name))
	}
	s.mu.Lock()
	defer s.mu.Unlock()
	if err != nil {
		delete(s.places, name)
		return nil, err
	}
	s.places[name] = place
	s.changed[place]++
	return f, nil
}

// roomiest returns the directory with the most room, the first one of several.
func (s *Spread) roomiest() (int, error) {
	best, most := 0, int64(-1)
	for i, dir := range s.dirs {
		n, err := s.free(dir)
		if err != nil {
			return 0, fmt.Errorf("find room for a file in %q: %w", dir, err)
		}
		if n > most {
			best, most = i, n
		}
	}
	return best, nil
}

// Open opens an existing file.
func (s *Spread) Open(path string) (File, error) {
	place, name, err := s.find("open", path)
	if err != nil {
		return nil, err
	}
	return s.fsys.Open(filepath.Join(s.dirs[place], name))
}

// Remove unlinks a file.
func (s *Spread) Remove(path string) error {
	place, name, err := s.find("remove", path)
	if err != nil {
		return err
	}
	if err := s.fsys.Remove(filepath.Join(s.dirs[place], name)); err != nil {
		return err
	}
	s.mu.Lock()
	defer s.mu.Unlock()
	delete(s.places, name)
	s.changed[place]++
	return nil
}

// Rename gives a file a new name in its directory. A name that another directory has is refused: replacing a
// file there cannot be one step.
func (s *Spread) Rename(oldPath, newPath string) error {
	place, oldName, err := s.find("rename", oldPath)
	if err != nil {
		return err
	}
	newName, _, err := s.split("rename", newPath)
	if err != nil {
		return err
	}
	s.mu.Lock()
	other, taken := s.places[newName]
	s.mu.Unlock()
	if taken && other != place {
		return &fs.PathError{Op: "rename", Path: newPath, Err: fs.ErrExist}
	}
	dir := s.dirs[place]
	if err := s.fsys.Rename(filepath.Join(dir, oldName), filepath.Join(dir, newName)); err != nil {
		return err
	}
	s.mu.Lock()
	defer s.mu.Unlock()
	delete(s.places, oldName)
	s.places[newName] = place
	s.changed[place]++
	return nil
}

// List returns the names in all directories, sorted.
func (s *Spread) List(dir string) ([]string, error) {
	if !slices.Contains(s.dirs, filepath.Clean(dir)) {
		return nil, &fs.PathError{Op: "list", Path: dir, Err: fs.ErrInvalid}
	}
	found, err := s.look()
	if err != nil {
		return nil, err
	}
	names := make([]string, 0, len(found))
	for name := range found {
		names = append(names, name)
	}
	slices.Sort(names)
	return names, nil
}

// MkdirAll makes all directories.
func (s *Spread) MkdirAll(dir string) error {
	if !slices.Contains(s.dirs, filepath.Clean(dir)) {
		return &fs.PathError{Op: "mkdir", Path: dir, Err: fs.ErrInvalid}
	}
	for _, d := range s.dirs {
		if err := s.fsys.MkdirAll(d); err != nil {
			return err
		}
	}
	return nil
}

// SyncDir makes the entries of all directories durable, as far as they were changed.
func (s *Spread) SyncDir(dir string) error {
	if !slices.Contains(s.dirs, filepath.Clean(dir)) {
		return &fs.PathError{Op: "sync", Path: dir, Err: fs.ErrInvalid}
	}
	for i, d := range s.dirs {
		s.mu.Lock()
		changed, synced := s.changed[i], s.synced[i]
		s.mu.Unlock()
		if synced >= changed {
			continue
		}
		if err := s.fsys.SyncDir(d); err != nil {
			return err
		}
		s.mu.Lock()
		s.synced[i] = max(s.synced[i], changed)
		s.mu.Unlock()
	}
	return nil
}
