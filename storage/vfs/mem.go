package vfs

import (
	"fmt"
	"io"
	"io/fs"
	"path/filepath"
	"slices"
	"sync"
	"syscall"
)

// OpKind names an operation of Mem that changes or syncs something.
type OpKind string

// The operations a hook sees.
const (
	OpCreate   OpKind = "create"
	OpRemove   OpKind = "remove"
	OpRename   OpKind = "rename"
	OpSyncDir  OpKind = "syncdir"
	OpWrite    OpKind = "write"
	OpAllocate OpKind = "allocate"
	OpSync     OpKind = "sync"
)

// Op is one operation about to happen on a Mem.
type Op struct {
	Kind OpKind
	Name string
	Off  int64
	Len  int64
}

func (o Op) String() string {
	return fmt.Sprintf("%s %s off=%d len=%d", o.Kind, filepath.Base(o.Name), o.Off, o.Len)
}

// Mem is a file system in memory that knows which sectors and directory entries are durable, so
// that Crash can give the disk as a power loss leaves it. Tests only.
//
//  1. What was synced survives every crash.
//  2. An unsynced sector is, after a crash, as last synced or as any later write left it.
//  3. A failed sync leaves its sectors readable, not durable and clean: a later sync does not write
//     them, as on Linux.
type Mem struct {
	mu       sync.Mutex
	names    map[string]*inode
	durable  map[string]*inode // directory entries as of the last SyncDir
	dirs     map[string]bool
	capacity int64 // 0: no limit
	hook     func(Op) error
	lose     func(name string, sector int64) bool
	history  bool
	stats    Stats
}

type inode struct {
	data   []byte // what a read sees
	synced []byte // what is on the disk for sure
	// dirty holds, for each unsynced sector, the contents each write since the last sync left in
	// it.
	dirty map[int64][][]byte
	// before holds, for each sector, what each write or damage replaced, the latest last; nil without
	// KeepHistory.
	before map[int64][][]byte
}

// NewMem returns an empty file system.
func NewMem() *Mem {
	return &Mem{
		names:   make(map[string]*inode),
		durable: make(map[string]*inode),
		dirs:    make(map[string]bool),
	}
}

// SetHook makes fn be called before each operation, without locks held: it may call Crash. When it
// returns an error the operation fails with it; a failing write leaves its first half behind.
func (m *Mem) SetHook(fn func(Op) error) {
	m.mu.Lock()
	m.hook = fn
	m.mu.Unlock()
}

// SetCapacity limits the sum of the file sizes; what would exceed it fails with ENOSPC. 0: no
// limit.
func (m *Mem) SetCapacity(bytes int64) {
	m.mu.Lock()
	m.capacity = bytes
	m.mu.Unlock()
}

// Truncate cuts a file durably, behind the back of whoever has it open.
func (m *Mem) Truncate(name string, size int64) error {
	return m.edit("truncate", name, func(n *inode) error {
		n.data = n.data[:min(size, int64(len(n.data)))]
		n.synced = n.synced[:min(size, int64(len(n.synced)))]
		return nil
	})
}

// before runs the hook of an operation.
func (m *Mem) before(kind OpKind, name string, off, n int64) error {
	m.mu.Lock()
	hook := m.hook
	m.mu.Unlock()
	if hook == nil {
		return nil
	}
	if err := hook(Op{Kind: kind, Name: name, Off: off, Len: n}); err != nil {
		return &fs.PathError{Op: string(kind), Path: name, Err: err}
	}
	return nil
}

// Create makes a new file.
func (m *Mem) Create(name string) (File, error) {
	name = filepath.Clean(name)
	if err := m.before(OpCreate, name, 0, 0); err != nil {
		return nil, err
	}
	m.mu.Lock()
	defer m.mu.Unlock()
	if !m.dirs[filepath.Dir(name)] {
		return nil, &fs.PathError{Op: "create", Path: name, Err: fs.ErrNotExist}
	}
	if _, ok := m.names[name]; ok {
		return nil, &fs.PathError{Op: "create", Path: name, Err: fs.ErrExist}
	}
	n := &inode{dirty: make(map[int64][][]byte)}
	m.names[name] = n
	return &memFile{fs: m, node: n, name: name}, nil
}

// Open opens an existing file.
func (m *Mem) Open(name string) (File, error) {
	name = filepath.Clean(name)
	m.mu.Lock()
	defer m.mu.Unlock()
	n, ok := m.names[name]
	if !ok {
		return nil, &fs.PathError{Op: "open", Path: name, Err: fs.ErrNotExist}
	}
	return &memFile{fs: m, node: n, name: name}, nil
}

// Remove unlinks a file.
func (m *Mem) Remove(name string) error {
	name = filepath.Clean(name)
	if err := m.before(OpRemove, name, 0, 0); err != nil {
		return err
	}
	m.mu.Lock()
	defer m.mu.Unlock()
	if _, ok := m.names[name]; !ok {
		return &fs.PathError{Op: "remove", Path: name, Err: fs.ErrNotExist}
	}
	delete(m.names, name)
	return nil
}

// Rename renames a file.
func (m *Mem) Rename(oldName, newName string) error {
	oldName, newName = filepath.Clean(oldName), filepath.Clean(newName)
	if err := m.before(OpRename, oldName, 0, 0); err != nil {
		return err
	}
	m.mu.Lock()
	defer m.mu.Unlock()
	n, ok := m.names[oldName]
	if !ok {
		return &fs.PathError{Op: "rename", Path: oldName, Err: fs.ErrNotExist}
	}
	delete(m.names, oldName)
	m.names[newName] = n
	return nil
}

// List returns the sorted names in dir.
func (m *Mem) List(dir string) ([]string, error) {
	dir = filepath.Clean(dir)
	m.mu.Lock()
	defer m.mu.Unlock()
	if !m.dirs[dir] {
		return nil, &fs.PathError{Op: "list", Path: dir, Err: fs.ErrNotExist}
	}
	var names []string
	for name := range m.names {
		if filepath.Dir(name) == dir {
			names = append(names, filepath.Base(name))
		}
	}
	slices.Sort(names)
	return names, nil
}

// MkdirAll makes dir and its parents, durably.
func (m *Mem) MkdirAll(dir string) error {
	m.mu.Lock()
	defer m.mu.Unlock()
	for d := filepath.Clean(dir); !m.dirs[d]; d = filepath.Dir(d) {
		m.dirs[d] = true
	}
	return nil
}

// SyncDir makes the entries of dir durable.
func (m *Mem) SyncDir(dir string) error {
	dir = filepath.Clean(dir)
	if err := m.before(OpSyncDir, dir, 0, 0); err != nil {
		return err
	}
	m.mu.Lock()
	defer m.mu.Unlock()
	for name := range m.durable {
		if filepath.Dir(name) == dir && m.names[name] == nil {
			delete(m.durable, name)
		}
	}
	for name, n := range m.names {
		if filepath.Dir(name) == dir {
			m.durable[name] = n
		}
	}
	return nil
}

// growLocked extends a file to size bytes when the capacity allows it.
func (m *Mem) growLocked(n *inode, size int64) error {
	grow := size - int64(len(n.data))
	if grow <= 0 {
		return nil
	}
	if m.capacity > 0 {
		var used int64
		for _, other := range m.names {
			used += int64(len(other.data))
		}
		if used+grow > m.capacity {
			return syscall.ENOSPC
		}
	}
	n.data = append(n.data, make([]byte, grow)...)
	return nil
}

type memFile struct {
	fs   *Mem
	node *inode
	name string

	mu     sync.Mutex
	closed bool
}

func (f *memFile) Name() string { return f.name }

// check is called by every method: a closed file is an error, as with the real one.
func (f *memFile) check(op string) error {
	f.mu.Lock()
	defer f.mu.Unlock()
	if f.closed {
		return &fs.PathError{Op: op, Path: f.name, Err: fs.ErrClosed}
	}
	return nil
}

func (f *memFile) Close() error {
	if err := f.check("close"); err != nil {
		return err
	}
	f.mu.Lock()
	f.closed = true
	f.mu.Unlock()
	return nil
}

func (f *memFile) Size() (int64, error) {
	if err := f.check("size"); err != nil {
		return 0, err
	}
	f.fs.mu.Lock()
	defer f.fs.mu.Unlock()
	return int64(len(f.node.data)), nil
}

func (f *memFile) ReadAt(p []byte, off int64) (int, error) {
	if err := f.check("read"); err != nil {
		return 0, err
	}
	f.fs.mu.Lock()
	defer f.fs.mu.Unlock()
	if off >= int64(len(f.node.data)) {
		return 0, io.EOF
	}
	n := copy(p, f.node.data[off:])
	if n < len(p) {
		return n, io.EOF
	}
	return n, nil
}

func (f *memFile) WriteAt(p []byte, off int64) (int, error) {
	if err := f.check("write"); err != nil {
		return 0, err
	}
	if err := f.fs.before(OpWrite, f.name, off, int64(len(p))); err != nil {
		half := p[:len(p)/2/SectorBytes*SectorBytes]
		if werr := f.store(half, off); werr != nil {
			return 0, werr
		}
		return len(half), err
	}
	if err := f.store(p, off); err != nil {
		return 0, err
	}
	return len(p), nil
}

func (f *memFile) store(p []byte, off int64) error {
	if len(p) == 0 {
		return nil
	}
	f.fs.mu.Lock()
	defer f.fs.mu.Unlock()
	end := off + int64(len(p))
	if err := f.fs.growLocked(f.node, end); err != nil {
		return &fs.PathError{Op: "write", Path: f.name, Err: err}
	}
	m, n := f.fs, f.node
	m.stats.Writes++
	m.stats.Bytes += int64(len(p))
	for s := off / SectorBytes; s*SectorBytes < end; s++ {
		if m.lose != nil && m.lose(f.name, s) {
			continue
		}
		m.rememberLocked(n, s)
		from, to := max(off, s*SectorBytes), min(end, (s+1)*SectorBytes)
		copy(n.data[from:to], p[from-off:])
		n.dirty[s] = append(n.dirty[s], slices.Clone(n.sector(s)))
	}
	return nil
}

// sector returns the part of the file's present contents in sector s.
func (n *inode) sector(s int64) []byte {
	return n.data[s*SectorBytes : min((s+1)*SectorBytes, int64(len(n.data)))]
}

func (f *memFile) Allocate(size int64) error {
	if err := f.check("allocate"); err != nil {
		return err
	}
	if err := f.fs.before(OpAllocate, f.name, 0, size); err != nil {
		return err
	}
	f.fs.mu.Lock()
	defer f.fs.mu.Unlock()
	if err := f.fs.growLocked(f.node, size); err != nil {
		return &fs.PathError{Op: "allocate", Path: f.name, Err: err}
	}
	return nil
}

// StartWrite does nothing: what is not synced may be on the disk after a crash or not, either way.
func (f *memFile) StartWrite(int64, int64) error { return f.check("start to write") }

// Cold is false: reads do not wait.
func (f *memFile) Cold(int64) bool { return false }

// ReadDirect is ReadAt: there is no page cache.
func (f *memFile) ReadDirect(p []byte, off int64) (int, error) { return f.ReadAt(p, off) }

// WontRead does nothing: memory is all there is.
func (f *memFile) WontRead(int64, int64) {}

func (f *memFile) Sync() error { return f.SyncData() }

func (f *memFile) SyncData() error {
	if err := f.check("sync"); err != nil {
		return err
	}
	err := f.fs.before(OpSync, f.name, 0, 0)
	f.fs.mu.Lock()
	defer f.fs.mu.Unlock()
	n := f.node
	if err != nil {
		clear(n.dirty)
		return err
	}
	f.fs.stats.Syncs++
	n.synced = resize(n.synced, len(n.data))
	for s := range n.dirty {
		copy(n.synced[s*SectorBytes:], n.sector(s))
	}
	clear(n.dirty)
	return nil
}

// resize returns b cut or extended with zeros to n bytes.
func resize(b []byte, n int) []byte {
	if n <= len(b) {
		return b[:n]
	}
	return append(b, make([]byte, n-len(b))...)
}
