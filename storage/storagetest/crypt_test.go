package storagetest

import (
	"bytes"
	"errors"
	"strings"
	"testing"

	"millrace/storage/journal"
	"millrace/storage/vfs"
)

// cryptLog is a log that is opened with one node key after the other.
type cryptLog struct {
	mem      *vfs.Mem
	manifest *Catalog
	model    *model
	work     *workload
	index    uint64 // of the last entry of waitGroup
}

func newCryptLog() *cryptLog {
	w := newWorkload(4)
	return &cryptLog{mem: vfs.NewMem(), manifest: NewCatalog(7), model: w.model, work: w}
}

func (c *cryptLog) config(key, prevKey []byte) journal.Config {
	cfg := Store{FS: c.mem, Dir: "/journal", Catalog: c.manifest}.config()
	cfg.Key, cfg.PrevKey, cfg.Keys = key, prevKey, c.manifest
	return cfg
}

// use opens the log, compares it with the model, appends and closes it. It returns in which file the
// last entry went.
func (c *cryptLog) use(t *testing.T, key, prevKey []byte) string {
	t.Helper()
	l, err := journal.Open(c.config(key, prevKey))
	if err != nil {
		t.Fatal(err)
	}
	check(t, l, c.model)
	for range 30 {
		c.work.op().call(l, nil)
	}
	c.index++
	l.Append(journal.Write{Group: waitGroup, Entries: []journal.Entry{{Index: c.index, Term: 1,
		Data: bytes.Repeat([]byte("plain text "), 20)}}})
	wait(t, l)
	check(t, l, c.model)
	name, _, _ := strings.Cut(l.Place(waitGroup, c.index), ":")
	closeLog(t, l)
	return name
}

func (c *cryptLog) readable(t *testing.T, name string) bool {
	t.Helper()
	return bytes.Contains(contents(t, c.mem)[name], []byte("plain text plain text"))
}

// refused checks that the log is not opened with a key, and that nothing is changed.
func (c *cryptLog) refused(t *testing.T, key, prevKey []byte, want error) {
	t.Helper()
	before := contents(t, c.mem)
	wrapped, _ := c.manifest.Key()
	l, err := journal.Open(c.config(key, prevKey))
	if err == nil {
		closeLog(t, l)
	}
	if !errors.Is(err, want) || !contains(err, "left as it is") {
		t.Errorf("Open returned %v, want %v", err, want)
	}
	after := contents(t, c.mem)
	for name, b := range before {
		if !bytes.Equal(b, after[name]) {
			t.Errorf("the refused Open changed %s", name)
		}
	}
	if now, _ := c.manifest.Key(); !bytes.Equal(now, wrapped) || len(after) != len(before) {
		t.Error("the refused Open changed the stored key or the directory")
	}
}

func TestLogIsEncrypted(t *testing.T) {
	c := newCryptLog()
	one, two := testKey(1), testKey(2)
	if name := c.use(t, one, nil); c.readable(t, name) {
		t.Errorf("%s is readable", name)
	}
	c.refused(t, two, nil, journal.ErrWrongKey)
	c.refused(t, nil, two, journal.ErrWrongKey)
	c.refused(t, nil, nil, journal.ErrNoKey)
	c.use(t, one, nil)
	// The key is changed: the former one is needed once.
	c.use(t, two, one)
	c.use(t, two, nil)
	c.use(t, two, one)
	c.refused(t, one, nil, journal.ErrWrongKey)
	// The stored key is damaged, or that of another node.
	wrapped, _ := c.manifest.Key()
	for i := range wrapped {
		damaged := &cryptLog{mem: c.mem, manifest: c.manifest.Clone()}
		bad := bytes.Clone(wrapped)
		bad[i] ^= 1
		if err := damaged.manifest.PutKey(bad); err != nil {
			t.Fatal(err)
		}
		if _, err := journal.Open(damaged.config(two, nil)); err == nil {
			t.Fatalf("byte %d of the stored key is changed, and the log was opened", i)
		}
	}
}

func TestLogGoesOnEncryptedAndBack(t *testing.T) {
	c := newCryptLog()
	key := testKey(1)
	plain := c.use(t, nil, nil)
	if !c.readable(t, plain) {
		t.Fatalf("%s is not readable", plain)
	}
	sealed := c.use(t, key, nil)
	if sealed == plain || c.readable(t, sealed) {
		t.Errorf("after %s, %s is readable", plain, sealed)
	}
	c.refused(t, nil, nil, journal.ErrNoKey)
	if back := c.use(t, nil, key); back == sealed || !c.readable(t, back) {
		t.Errorf("after %s, %s is not readable", sealed, back)
	}
	c.use(t, nil, key)
	c.use(t, key, nil)
}

// A key that cannot be stored must not encrypt anything.
func TestLogStoresKeyBeforeItIsUsed(t *testing.T) {
	c := newCryptLog()
	failure := errors.New("no")
	c.manifest.SetHook(func(op string) error {
		if op == "put key" {
			return failure
		}
		return nil
	})
	if _, err := journal.Open(c.config(testKey(1), nil)); !errors.Is(err, failure) {
		t.Errorf("Open returned %v", err)
	}
	if files := contents(t, c.mem); len(files) != 0 {
		t.Errorf("there are %d files", len(files))
	}
}
