// Package catalog is the small transactional file (bbolt) of facts that are not in the journal: the
// node's identity and the manifest of segment files. Entries, hard states and indexes do not belong
// here.
package catalog

import (
	"bytes"
	"crypto/rand"
	"encoding/binary"
	"errors"
	"fmt"
	"hash/crc32"
	"path/filepath"
	"runtime/debug"
	"strconv"
	"strings"
	"sync"
	"time"

	"go.etcd.io/bbolt"
	bolterrors "go.etcd.io/bbolt/errors"

	"millrace/storage/vfs"
)

// The file, version 1: one bucket "catalog" with the keys
//
//	node/version          the byte 1
//	node/id               8 bytes, big-endian, not 0
//	padding               1024 zeros
//	keys/journal          the journal's wrapped data key, if it has one
//	cluster/formation     what this node must not forget of how its cluster is founded, if it is in one
//	cluster/peers         where the other storage nodes were last, if any were seen
//	segments/0000000007   the journal's value of segment 7
//
// Each value is preceded by 4 bytes, little-endian: the CRC-32C of its key and itself. The padding
// makes bbolt keep the bucket in pages of its own. It would copy a small bucket to the heap, and
// read behind that copy when the bucket is damaged; behind a page there is another one, or a fault
// that guard turns into an error.
const (
	version       = 1
	bucket        = "catalog"
	keyVersion    = "node/version"
	keyID         = "node/id"
	keyPadding    = "padding"
	keyJournal    = "keys/journal"
	keyFormation  = "cluster/formation"
	keyPeers      = "cluster/peers"
	prefixSegment = "segments/"
	paddingBytes  = 1024
)

func segmentKey(id uint32) string { return fmt.Sprintf("%s%010d", prefixSegment, id) }

// lockTimeout is how long Open waits for another process to let go of the file.
const lockTimeout = 2 * time.Second

// ErrInUse is returned by Open when another process has the catalog open.
var ErrInUse = errors.New("catalog: in use by another process")

// DamagedError is returned when the file is not what was written. Nothing is deleted or repaired
// then.
type DamagedError struct {
	File   string
	Key    string // empty when the structure of the file is damaged
	Reason string
}

func (e *DamagedError) Error() string {
	if e.Key == "" {
		return fmt.Sprintf("catalog: damaged file %s: %s; the data was left as it is", e.File, e.Reason)
	}
	return fmt.Sprintf("catalog: damaged file %s: key %s: %s; the data was left as it is", e.File, e.Key, e.Reason)
}

// Catalog is an open catalog. All methods may be called concurrently.
type Catalog struct {
	db   *bbolt.DB
	path string
	node uint64

	mu       sync.Mutex
	segments map[uint32][]byte
	key      []byte
	cluster  map[string][]byte // keyFormation and keyPeers
}

// Open opens the catalog in file path, or makes it with a new random node identity. Every value is
// read and checked. Errors: ErrInUse, *DamagedError, or that of the file system.
func Open(path string) (*Catalog, error) {
	fsys := vfs.OS{}
	dir := filepath.Dir(path)
	if err := fsys.MkdirAll(dir); err != nil {
		return nil, fmt.Errorf("catalog: make directory: %w", err)
	}
	c := &Catalog{path: path}
	err := c.guard(func() (err error) {
		c.db, err = bbolt.Open(path, 0o600, &bbolt.Options{Timeout: lockTimeout, FreelistType: bbolt.FreelistMapType})
		return err
	})
	switch {
	case errors.Is(err, bolterrors.ErrTimeout):
		return nil, fmt.Errorf("open %q: %w", path, ErrInUse)
	case errors.Is(err, bolterrors.ErrInvalid), errors.Is(err, bolterrors.ErrChecksum),
		errors.Is(err, bolterrors.ErrVersionMismatch):
		return nil, &DamagedError{File: path, Reason: err.Error()}
	case err != nil:
		return nil, fmt.Errorf("catalog: open %q: %w", path, err)
	}
	err = fsys.SyncDir(dir)
	if err == nil {
		err = c.guard(c.load)
	}
	if err != nil {
		return nil, errors.Join(err, c.db.Close())
	}
	return c, nil
}

// guard turns what bbolt does on a damaged file, a panic or a memory fault behind the end of the
// file, into a DamagedError.
func (c *Catalog) guard(fn func() error) (err error) {
	old := debug.SetPanicOnFault(true)
	defer func() {
		debug.SetPanicOnFault(old)
		if p := recover(); p != nil {
			err = &DamagedError{File: c.path, Reason: fmt.Sprint(p)}
		}
	}()
	return fn()
}

// load reads and checks all values, after writing the identity into a new file. It does not use
// bbolt's Check, which runs on a goroutine of its own, where a fault ends the process.
func (c *Catalog) load() error {
	size, err := fileSize(c.path)
	if err != nil {
		return fmt.Errorf("catalog: %w", err)
	}
	fresh := false
	err = c.db.View(func(tx *bbolt.Tx) error {
		if tx.Size() > size {
			return &DamagedError{File: c.path, Reason: fmt.Sprintf("the file has %d bytes instead of %d", size, tx.Size())}
		}
		name, _ := tx.Cursor().First()
		fresh = name == nil
		return nil
	})
	if err != nil {
		return err
	}
	if fresh {
		if err := c.initialize(); err != nil {
			return fmt.Errorf("catalog: initialize %q: %w", c.path, err)
		}
	}
	return c.db.View(c.read)
}

func fileSize(path string) (int64, error) {
	f, err := vfs.OS{}.Open(path)
	if err != nil {
		return 0, err
	}
	size, err := f.Size()
	return size, errors.Join(err, f.Close())
}

func (c *Catalog) initialize() error {
	var id [8]byte
	for binary.BigEndian.Uint64(id[:]) == 0 {
		if _, err := rand.Read(id[:]); err != nil {
			return err
		}
	}
	return c.db.Update(func(tx *bbolt.Tx) error {
		b, err := tx.CreateBucket([]byte(bucket))
		if err != nil {
			return err
		}
		return errors.Join(
			put(b, keyVersion, []byte{version}),
			put(b, keyID, id[:]),
			put(b, keyPadding, make([]byte, paddingBytes)),
		)
	})
}

// read loads and checks all values.
func (c *Catalog) read(tx *bbolt.Tx) error {
	b := tx.Bucket([]byte(bucket))
	if b == nil {
		return &DamagedError{File: c.path, Reason: "the bucket is missing"}
	}
	values := make(map[string][]byte)
	err := b.ForEach(func(key, sealed []byte) error {
		k := string(key)
		if len(sealed) < 4 {
			return &DamagedError{File: c.path, Key: k, Reason: "the value is cut short"}
		}
		value := bytes.Clone(sealed[4:])
		if binary.LittleEndian.Uint32(sealed) != checksum(k, value) {
			return &DamagedError{File: c.path, Key: k, Reason: "the value has a wrong checksum"}
		}
		values[k] = value
		return nil
	})
	if err != nil {
		return err
	}
	for _, key := range []string{keyVersion, keyID, keyPadding} {
		if values[key] == nil {
			return &DamagedError{File: c.path, Key: key, Reason: "the value is missing"}
		}
	}
	if v := values[keyVersion]; len(v) != 1 || v[0] != version {
		return fmt.Errorf("catalog: file %s has format version %d, this program reads %d", c.path, v, version)
	}
	id := values[keyID]
	if len(id) != 8 || binary.BigEndian.Uint64(id) == 0 {
		return &DamagedError{File: c.path, Key: keyID, Reason: "the identity is not a number"}
	}
	c.node = binary.BigEndian.Uint64(id)
	c.key = values[keyJournal]
	c.cluster = map[string][]byte{keyFormation: values[keyFormation], keyPeers: values[keyPeers]}
	c.segments = make(map[uint32][]byte)
	for key, value := range values {
		number, ok := strings.CutPrefix(key, prefixSegment)
		if !ok {
			continue
		}
		n, err := strconv.ParseUint(number, 10, 32)
		if err != nil {
			return &DamagedError{File: c.path, Key: key, Reason: "the key is not a segment number"}
		}
		c.segments[uint32(n)] = value
	}
	return nil
}

func put(b *bbolt.Bucket, key string, value []byte) error {
	sealed := binary.LittleEndian.AppendUint32(nil, checksum(key, value))
	return b.Put([]byte(key), append(sealed, value...))
}

func checksum(key string, value []byte) uint32 {
	table := crc32.MakeTable(crc32.Castagnoli)
	return crc32.Update(crc32.Checksum([]byte(key), table), table, value)
}

// NodeID returns the node's identity, made at random with the file.
func (c *Catalog) NodeID() uint64 { return c.node }

// Segments returns a copy of the manifest: a value for each segment number.
func (c *Catalog) Segments() (map[uint32][]byte, error) {
	c.mu.Lock()
	defer c.mu.Unlock()
	out := make(map[uint32][]byte, len(c.segments))
	for id, v := range c.segments {
		out[id] = bytes.Clone(v)
	}
	return out, nil
}

// PutSegment stores the value of a segment, durably.
func (c *Catalog) PutSegment(id uint32, value []byte) error {
	value = bytes.Clone(value)
	err := c.update(func(b *bbolt.Bucket) error { return put(b, segmentKey(id), value) })
	if err != nil {
		return fmt.Errorf("catalog: put segment %d in %q: %w", id, c.path, err)
	}
	c.mu.Lock()
	c.segments[id] = value
	c.mu.Unlock()
	return nil
}

// DeleteSegment removes the value of a segment, durably.
func (c *Catalog) DeleteSegment(id uint32) error {
	err := c.update(func(b *bbolt.Bucket) error { return b.Delete([]byte(segmentKey(id))) })
	if err != nil {
		return fmt.Errorf("catalog: delete segment %d from %q: %w", id, c.path, err)
	}
	c.mu.Lock()
	delete(c.segments, id)
	c.mu.Unlock()
	return nil
}

// Key returns a copy of the journal's wrapped data key, nil when none was stored.
func (c *Catalog) Key() ([]byte, error) {
	c.mu.Lock()
	defer c.mu.Unlock()
	return bytes.Clone(c.key), nil
}

// PutKey stores the journal's wrapped data key, durably.
func (c *Catalog) PutKey(value []byte) error {
	value = bytes.Clone(value)
	err := c.update(func(b *bbolt.Bucket) error { return put(b, keyJournal, value) })
	if err != nil {
		return fmt.Errorf("catalog: put key in %q: %w", c.path, err)
	}
	c.mu.Lock()
	c.key = value
	c.mu.Unlock()
	return nil
}

// Formation returns a copy of what PutFormation stored, nil when that was nothing.
func (c *Catalog) Formation() []byte { return c.clusterValue(keyFormation) }

// PutFormation stores the state of this node in the founding of its cluster, durably. After an error it is
// not known which state is stored.
func (c *Catalog) PutFormation(value []byte) error { return c.putClusterValue(keyFormation, value) }

// Peers returns a copy of what PutPeers stored, nil when that was nothing.
func (c *Catalog) Peers() []byte { return c.clusterValue(keyPeers) }

// PutPeers stores where the other storage nodes are, durably.
func (c *Catalog) PutPeers(value []byte) error { return c.putClusterValue(keyPeers, value) }

func (c *Catalog) clusterValue(key string) []byte {
	c.mu.Lock()
	defer c.mu.Unlock()
	return bytes.Clone(c.cluster[key])
}

func (c *Catalog) putClusterValue(key string, value []byte) error {
	value = bytes.Clone(value)
	if err := c.update(func(b *bbolt.Bucket) error { return put(b, key, value) }); err != nil {
		return fmt.Errorf("catalog: put %s in %q: %w", key, c.path, err)
	}
	c.mu.Lock()
	c.cluster[key] = value
	c.mu.Unlock()
	return nil
}

func (c *Catalog) update(fn func(*bbolt.Bucket) error) error {
	return c.guard(func() error {
		return c.db.Update(func(tx *bbolt.Tx) error { return fn(tx.Bucket([]byte(bucket))) })
	})
}

// Close closes the file.
func (c *Catalog) Close() error { return c.db.Close() }
