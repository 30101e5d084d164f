package storagetest

import (
	"path/filepath"
	"testing"

	"millrace/storage/catalog"
	"millrace/storage/vfs"
)

func TestLogInMemory(t *testing.T) {
	Suite(t, func(*testing.T) Store {
		return Store{FS: vfs.NewMem(), Dir: "/journal", Catalog: NewCatalog(1)}
	})
}

func TestLogOnDisk(t *testing.T) {
	Suite(t, func(t *testing.T) Store {
		dir := t.TempDir()
		c, err := catalog.Open(filepath.Join(dir, "catalog.db"))
		if err != nil {
			t.Fatal(err)
		}
		t.Cleanup(func() {
			if err := c.Close(); err != nil {
				t.Error(err)
			}
		})
		return Store{FS: vfs.OS{}, Dir: filepath.Join(dir, "journal"), Catalog: c}
	})
}
