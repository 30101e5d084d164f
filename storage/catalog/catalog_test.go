package catalog

import (
	"bytes"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"strings"
	"testing"

	"go.etcd.io/bbolt"
)

func TestCatalogKeepsIdentityAndSegments(t *testing.T) {
	path := filepath.Join(t.TempDir(), "new", "catalog.db")
	c := open(t, path)
	id := c.NodeID()
	if id == 0 {
		t.Error("a new catalog has no identity")
	}
	put := func(n uint32, v string) {
		t.Helper()
		if err := c.PutSegment(n, []byte(v)); err != nil {
			t.Fatal(err)
		}
	}
	put(1, "one")
	put(2, "two")
	put(1<<32-1, "last")
	put(2, "two again")
	if err := c.DeleteSegment(1); err != nil {
		t.Fatal(err)
	}
	if key, err := c.Key(); key != nil || err != nil {
		t.Errorf("a new catalog has the key %q, %v", key, err)
	}
	for _, key := range []string{"first key", "key"} {
		if err := c.PutKey([]byte(key)); err != nil {
			t.Fatal(err)
		}
	}
	if f, p := c.Formation(), c.Peers(); f != nil || p != nil {
		t.Errorf("a new catalog has the formation %q and the peers %q", f, p)
	}
	for _, v := range []string{"first", "formed"} {
		if err := errors.Join(c.PutFormation([]byte(v)), c.PutPeers([]byte("peers "+v))); err != nil {
			t.Fatal(err)
		}
	}
	check := func(c *Catalog) {
		t.Helper()
		if f, p := c.Formation(), c.Peers(); string(f) != "formed" || string(p) != "peers formed" {
			t.Errorf("formation %q, peers %q", f, p)
		}
		segments, err := c.Segments()
		if err != nil {
			t.Fatal(err)
		}
		if len(segments) != 2 || string(segments[2]) != "two again" || string(segments[1<<32-1]) != "last" {
			t.Errorf("segments are %v", segments)
		}
		if key, err := c.Key(); string(key) != "key" || err != nil {
			t.Errorf("the key is %q, %v", key, err)
		}
	}
	check(c)
	closeCatalog(t, c)
	c = open(t, path)
	defer closeCatalog(t, c)
	if c.NodeID() != id {
		t.Errorf("identity changed from %x to %x", id, c.NodeID())
	}
	check(c)
	other := open(t, filepath.Join(t.TempDir(), "catalog.db"))
	defer closeCatalog(t, other)
	if other.NodeID() == id {
		t.Errorf("two catalogs have the identity %x", id)
	}
}

func TestCatalogIsLocked(t *testing.T) {
	path := filepath.Join(t.TempDir(), "catalog.db")
	c := open(t, path)
	defer closeCatalog(t, c)
	if _, err := Open(path); !errors.Is(err, ErrInUse) || !strings.Contains(err.Error(), path) {
		t.Errorf("second Open returned %v, want ErrInUse naming the file", err)
	}
}

func TestCatalogReportsDamagedValue(t *testing.T) {
	for _, key := range []string{"segments/0000000007", "node/id", "padding", "keys/journal"} {
		path := filepath.Join(t.TempDir(), "catalog.db")
		c := open(t, path)
		if err := errors.Join(c.PutSegment(7, []byte("seven")), c.PutKey([]byte("key"))); err != nil {
			t.Fatal(err)
		}
		closeCatalog(t, c)
		db, err := bbolt.Open(path, 0o600, nil)
		if err != nil {
			t.Fatal(err)
		}
		err = db.Update(func(tx *bbolt.Tx) error {
			b := tx.Bucket([]byte(bucket))
			v := bytes.Clone(b.Get([]byte(key)))
			v[len(v)-1] ^= 4
			return b.Put([]byte(key), v)
		})
		if err := errors.Join(err, db.Close()); err != nil {
			t.Fatal(err)
		}
		before := read(t, path)
		_, err = Open(path)
		var damaged *DamagedError
		if !errors.As(err, &damaged) || damaged.File != path || !strings.Contains(err.Error(), "key "+key+":") {
			t.Errorf("Open returned %v, want a DamagedError naming %s", err, key)
		}
		if !bytes.Equal(before, read(t, path)) {
			t.Error("Open changed the damaged file")
		}
	}
}

// Many bytes of the file are changed in turn: Open must not panic, and what it accepts must be what
// was stored.
func TestCatalogSurvivesDamagedBytes(t *testing.T) {
	path := filepath.Join(t.TempDir(), "catalog.db")
	c := open(t, path)
	if err := c.PutSegment(7, []byte("seven")); err != nil {
		t.Fatal(err)
	}
	id := c.NodeID()
	closeCatalog(t, c)
	good := read(t, path)
	broken := filepath.Join(t.TempDir(), "broken.db")
	refused := 0
	try := func(what string, content []byte) {
		if err := os.WriteFile(broken, content, 0o600); err != nil {
			t.Fatal(err)
		}
		defer os.Remove(broken)
		c, err := Open(broken)
		if err != nil {
			refused++
			if !strings.Contains(err.Error(), broken) {
				t.Errorf("%s: error %v does not name the file", what, err)
			}
			return
		}
		defer closeCatalog(t, c)
		segments, err := c.Segments()
		if err != nil {
			t.Fatal(err)
		}
		// A damaged meta page makes bbolt fall back to the transaction before.
		if v, ok := segments[7]; ok && string(v) != "seven" || c.NodeID() != id && len(segments) > 0 {
			t.Errorf("%s: read identity %x and segments %v", what, c.NodeID(), segments)
		}
	}
	for off, c := range good {
		if c == 0 && off%397 != 0 || c != 0 && off%3 != 0 && off%4096 >= 256 {
			continue // most of the file is unused; the structure is at the start of a page
		}
		bad := bytes.Clone(good)
		bad[off] ^= 0x5a
		try(fmt.Sprintf("byte %d", off), bad)
	}
	for n := 0; n < len(good); n += 4096 {
		try("truncated", good[:n])
	}
	if refused == 0 {
		t.Error("no damage was noticed")
	}
}

func open(t *testing.T, path string) *Catalog {
	t.Helper()
	c, err := Open(path)
	if err != nil {
		t.Fatal(err)
	}
	return c
}

func closeCatalog(t *testing.T, c *Catalog) {
	t.Helper()
	if err := c.Close(); err != nil {
		t.Error(err)
	}
}

func read(t *testing.T, path string) []byte {
	t.Helper()
	b, err := os.ReadFile(path)
	if err != nil {
		t.Fatal(err)
	}
	return b
}
