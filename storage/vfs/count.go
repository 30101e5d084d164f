package vfs

import "sync/atomic"

// Stats counts what was done to the files of a file system.
type Stats struct {
	Writes int64 // calls that wrote
	Bytes  int64 // written, filling with zeros included
	Syncs  int64 // of files, not of directories
}

// Stats returns what was done since NewMem.
func (m *Mem) Stats() Stats {
	m.mu.Lock()
	defer m.mu.Unlock()
	return m.stats
}

// Counter is a file system that counts what goes through it to another one. All methods may be called
// concurrently.
type Counter struct {
	FS
	writes, bytes, syncs atomic.Int64
}

// NewCounter returns a Counter over fsys.
func NewCounter(fsys FS) *Counter { return &Counter{FS: fsys} }

// Stats returns what was done since NewCounter.
func (c *Counter) Stats() Stats {
	return Stats{Writes: c.writes.Load(), Bytes: c.bytes.Load(), Syncs: c.syncs.Load()}
}

// Create makes a new file.
func (c *Counter) Create(name string) (File, error) { return c.wrap(c.FS.Create(name)) }

// Open opens an existing file.
func (c *Counter) Open(name string) (File, error) { return c.wrap(c.FS.Open(name)) }

func (c *Counter) wrap(f File, err error) (File, error) {
	if err != nil {
		return nil, err
	}
	return countedFile{f, c}, nil
}

type countedFile struct {
	File
	counter *Counter
}

func (f countedFile) WriteAt(p []byte, off int64) (int, error) {
	n, err := f.File.WriteAt(p, off)
	f.counter.writes.Add(1)
	f.counter.bytes.Add(int64(n))
	return n, err
}

func (f countedFile) Sync() error {
	f.counter.syncs.Add(1)
	return f.File.Sync()
}

func (f countedFile) SyncData() error {
	f.counter.syncs.Add(1)
	return f.File.SyncData()
}
