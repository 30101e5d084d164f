package node

import (
	"crypto/rand"
	"encoding/json"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"slices"

	"millrace/storage/vfs"
)

const (
	// folderMark is a file in each further folder of a store. It says whose the folder is, and is not there when the
	// folder's disk is not mounted.
	folderMark = "millrace-store.json"

	// foldersFile is a file in the store's first folder that says which further ones there are.
	foldersFile = "extra_dirs.json"
)

// mark is the content of folderMark.
type mark struct {
	Store  string `json:"store"`  // identity of the node
	Folder string `json:"folder"` // random
}

// knownFolder is an element of the list in foldersFile.
type knownFolder struct {
	Folder string `json:"folder"`
	Path   string `json:"path"` // where it was last, for people
}

// checkExtraDirs looks that all folders over which the log of a store is spread are given, wherever they are mounted, and
// makes those a part of the store that are given for the first time. In a folder where a disk should have been mounted the
// log would go on on another disk, and be torn in two when the disk is back.
//
//  1. A folder is used only when its mark is durable and names this store.
//  2. foldersFile names a folder only after it has its mark, and then it must be given.
func checkExtraDirs(dir string, extra []string, store string) error {
	var known []knownFolder
	if err := readJSON(filepath.Join(dir, foldersFile), &known); err != nil {
		return err
	}
	var now []knownFolder
	for _, path := range extra {
		var m mark
		err := readJSON(filepath.Join(path, folderMark), &m)
		switch {
		case err != nil:
			return err
		case m == (mark{}):
			now = append(now, knownFolder{Path: path})
		case m.Store != store:
			return fmt.Errorf("extra_dirs: %s belongs to another store, of node %s, and this is %s: to use it here all the same, empty it", path, m.Store, store)
		case slices.ContainsFunc(now, func(k knownFolder) bool { return k.Folder == m.Folder }):
			return fmt.Errorf("extra_dirs: %s is a copy of another one, or the same", path)
		default:
			now = append(now, knownFolder{m.Folder, path})
		}
	}
	for _, k := range known {
		if !slices.ContainsFunc(now, func(n knownFolder) bool { return n.Folder == k.Folder }) {
			return fmt.Errorf("extra_dirs: the folder that was %s is not among them, or empty: is its disk mounted?", k.Path)
		}
	}
	for i, n := range now {
		if n.Folder != "" {
			continue
		}
		now[i].Folder = rand.Text()
		if err := writeJSON(filepath.Join(n.Path, folderMark), mark{store, now[i].Folder}); err != nil {
			return err
		}
	}
	if slices.Equal(now, known) {
		return nil
	}
	return writeJSON(filepath.Join(dir, foldersFile), now)
}

// readJSON reads a file; one that is not there changes nothing.
func readJSON(name string, to any) error {
	b, err := os.ReadFile(name)
	if errors.Is(err, fs.ErrNotExist) {
		return nil
	}
	if err == nil {
		err = json.Unmarshal(b, to)
	}
	if err != nil {
		return fmt.Errorf("read %s: %w", name, err)
	}
	return nil
}

// writeJSON replaces a file as a whole, durably.
func writeJSON(name string, from any) error {
	b, err := json.Marshal(from)
	if err != nil {
		return fmt.Errorf("write %s: %w", name, err)
	}
	if err := vfs.Replace(vfs.OS{}, name, append(b, '\n')); err != nil {
		return fmt.Errorf("write %s: %w", name, err)
	}
	return nil
}
