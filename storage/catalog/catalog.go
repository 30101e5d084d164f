// Package catalog is the small transactional file (bbolt) of facts that are not in the journal: the node's
// identity and the manifest of segment files. Entries, hard states and indexes do not belong here.
package catalog

import (
	"crypto/rand"
	"encoding/binary"
	"errors"
	"fmt"
	"hash/crc32"
	"path/filepath"
	"runtime/debug"
	"sync"
	"time"

	"go.etcd.io/bbolt"
	bolterrors "go.etcd.io/bbolt/errors"

	"millrace/storage/vfs"
)

// The file, version 1: a bucket "node" with the keys "version" and "id", and a bucket "segments" whose keys are
// segment numbers, 4 bytes big-endian. Each value is
//
//	0  4  CRC-32C of bucket name, key and value
//	4  -  value
//
// The value of "version" is the byte 1; that of "id" has 8 bytes, big-endian, not all zero.
const (
	version       = 1
	bucketNode    = "node"
	bucketSegment = "segments"
	keyVersion    = "version"
	keyID         = "id"
)

// lockTimeout is how long Open waits for another process to let go of the file.
const lockTimeout = 2 * time.Second

// ErrInUse is returned by Open when another process has the catalog open.
var ErrInUse = errors.New("catalog: in use by another process")

// DamagedError is returned when the file is not what was written. Nothing is deleted or repaired then.
type DamagedError struct {
	File   string
	Key    string // "bucket/key"; empty when the structure of the file is damaged
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
}

// Open opens the catalog in file path, or makes it with a new random node identity. Every value is read and
// checked. Errors: ErrInUse, *DamagedError, or that of the file system.
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

// guard turns what bbolt does on a damaged file, a panic or a memory fault behind the end of the file, into a
// DamagedError.
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

// load reads and checks all values, after writing the identity into a new file. It does not use bbolt's Check,
// which runs on a goroutine of its own, where a fault ends the process.
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
		node, err := tx.CreateBucket([]byte(bucketNode))
		if err != nil {
			return err
		}
		if _, err := tx.CreateBucket([]byte(bucketSegment)); err != nil {
			return err
		}
		if err := node.Put([]byte(keyVersion), seal(bucketNode, []byte(keyVersion), []byte{version})); err != nil {
			return err
		}
		return node.Put([]byte(keyID), seal(bucketNode, []byte(keyID), id[:]))
	})
}

// read loads and checks all values.
func (c *Catalog) read(tx *bbolt.Tx) error {
	node, segments := tx.Bucket([]byte(bucketNode)), tx.Bucket([]byte(bucketSegment))
	if node == nil || segments == nil {
		return &DamagedError{File: c.path, Reason: "a bucket is missing"}
	}
	v, err := c.get(node, bucketNode, []byte(keyVersion))
	if err != nil {
		return err
	}
	if len(v) != 1 || v[0] != version {
		return fmt.Errorf("catalog: file %s has format version %d, this program reads %d", c.path, v, version)
	}
	id, err := c.get(node, bucketNode, []byte(keyID))
	if err != nil {
		return err
	}
	if len(id) != 8 || binary.BigEndian.Uint64(id) == 0 {
		return c.damaged(bucketNode, []byte(keyID), "the identity is not a number")
	}
	c.node = binary.BigEndian.Uint64(id)
	c.segments = make(map[uint32][]byte)
	return segments.ForEach(func(key, _ []byte) error {
		v, err := c.get(segments, bucketSegment, key)
		if err != nil {
			return err
		}
		if len(key) != 4 {
			return c.damaged(bucketSegment, key, "the key is not a segment number")
		}
		c.segments[binary.BigEndian.Uint32(key)] = v
		return nil
	})
}

// get returns a copy of a value after checking it.
func (c *Catalog) get(b *bbolt.Bucket, bucket string, key []byte) ([]byte, error) {
	sealed := b.Get(key)
	if sealed == nil {
		return nil, c.damaged(bucket, key, "the value is missing")
	}
	if len(sealed) < 4 {
		return nil, c.damaged(bucket, key, "the value is cut short")
	}
	value := append([]byte(nil), sealed[4:]...)
	if binary.LittleEndian.Uint32(sealed) != checksum(bucket, key, value) {
		return nil, c.damaged(bucket, key, "the value has a wrong checksum")
	}
	return value, nil
}

func (c *Catalog) damaged(bucket string, key []byte, reason string) error {
	name := string(key)
	if bucket == bucketSegment {
		name = fmt.Sprintf("%x", key)
		if len(key) == 4 {
			name = fmt.Sprint(binary.BigEndian.Uint32(key))
		}
	}
	return &DamagedError{File: c.path, Key: bucket + "/" + name, Reason: reason}
}

func seal(bucket string, key, value []byte) []byte {
	out := binary.LittleEndian.AppendUint32(nil, checksum(bucket, key, value))
	return append(out, value...)
}

func checksum(bucket string, key, value []byte) uint32 {
	table := crc32.MakeTable(crc32.Castagnoli)
	sum := crc32.Checksum([]byte(bucket), table)
	sum = crc32.Update(sum, table, key)
	return crc32.Update(sum, table, value)
}

// NodeID returns the node's identity, made at random with the file.
func (c *Catalog) NodeID() uint64 { return c.node }

// Segments returns a copy of the manifest: a value for each segment number.
func (c *Catalog) Segments() (map[uint32][]byte, error) {
	c.mu.Lock()
	defer c.mu.Unlock()
	out := make(map[uint32][]byte, len(c.segments))
	for id, v := range c.segments {
		out[id] = append([]byte(nil), v...)
	}
	return out, nil
}

// PutSegment stores the value of a segment, durably.
func (c *Catalog) PutSegment(id uint32, value []byte) error {
	value = append([]byte(nil), value...)
	key := binary.BigEndian.AppendUint32(nil, id)
	err := c.update(func(b *bbolt.Bucket) error { return b.Put(key, seal(bucketSegment, key, value)) })
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
	key := binary.BigEndian.AppendUint32(nil, id)
	err := c.update(func(b *bbolt.Bucket) error { return b.Delete(key) })
	if err != nil {
		return fmt.Errorf("catalog: delete segment %d from %q: %w", id, c.path, err)
	}
	c.mu.Lock()
	delete(c.segments, id)
	c.mu.Unlock()
	return nil
}

func (c *Catalog) update(fn func(*bbolt.Bucket) error) error {
	return c.guard(func() error {
		return c.db.Update(func(tx *bbolt.Tx) error { return fn(tx.Bucket([]byte(bucketSegment))) })
	})
}

// Close closes the file.
func (c *Catalog) Close() error { return c.db.Close() }
