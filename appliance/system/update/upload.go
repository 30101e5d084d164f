package update

import (
	"crypto/sha256"
	"encoding/hex"
	"errors"
	"fmt"
	"hash"
	"io"
	"io/fs"
	"os"
	"path/filepath"
	"sync"

	"millrace/image/layout"
)

// MaxImage bounds an image, in bytes.
const MaxImage = layout.MaxUKI

// Window is how far a chunk of an upload may begin behind what is there, in bytes: chunks that are on their way at the same
// time arrive in any order. What came early is kept in memory, so this bounds that.
const Window = 2 << 20

// partSuffix ends the names of uploads.
const partSuffix = ".part"

// Uploads are images on their way to the box: files in a folder of the state partition, named for the
// SHA-256 they are to have. There is one at a time: another begins anew.
type Uploads struct {
	dir string

	mu   sync.Mutex
	f    *os.File // nil: none is open
	sum  string
	size int64
	have int64            // bytes in the file, without a hole
	hash hash.Hash        // of those
	late map[int64][]byte // behind have, by where they begin; there are at most Window bytes of them
}

// OpenUploads returns the uploads in a folder that exists.
func OpenUploads(dir string) *Uploads { return &Uploads{dir: dir} }

// Begin begins the upload of an image of so many bytes with that SHA-256 (hexadecimal), or goes on with
// one that was cut short, and returns how many bytes are there.
func (u *Uploads) Begin(sum string, size int64) (have int64, err error) {
	if b, err := hex.DecodeString(sum); err != nil || len(b) != sha256.Size {
		return 0, fmt.Errorf("sha256 %q is not one", sum)
	}
	if size <= 0 || size > MaxImage {
		return 0, fmt.Errorf("image of %d bytes, want 1 to %d", size, MaxImage)
	}
	u.mu.Lock()
	defer u.mu.Unlock()
	if err := u.closeLocked(); err != nil {
		return 0, err
	}
	if err := u.removeOthers(sum); err != nil {
		return 0, err
	}
	f, err := os.OpenFile(filepath.Join(u.dir, sum+partSuffix), os.O_CREATE|os.O_RDWR, 0o600)
	if err != nil {
		return 0, fmt.Errorf("begin upload: %w", err)
	}
	// Hashed as it comes, so that the end of an upload does not wait for that on a slow box.
	h := sha256.New()
	if have, err = io.Copy(h, f); err == nil && have > size {
		h.Reset()
		have, err = 0, f.Truncate(0)
	}
	if err != nil {
		return 0, errors.Join(fmt.Errorf("begin upload: %w", err), f.Close())
	}
	u.f, u.sum, u.size, u.have, u.hash, u.late = f, sum, size, have, h, make(map[int64][]byte)
	return have, nil
}

// removeOthers removes uploads of other images.
func (u *Uploads) removeOthers(sum string) error {
	old, err := filepath.Glob(filepath.Join(u.dir, "*"+partSuffix))
	if err != nil {
		return fmt.Errorf("look for old uploads: %w", err)
	}
	for _, path := range old {
		if filepath.Base(path) == sum+partSuffix {
			continue
		}
		if err := os.Remove(path); err != nil && !errors.Is(err, fs.ErrNotExist) {
			return fmt.Errorf("remove old upload: %w", err)
		}
	}
	return nil
}

// Write adds the bytes at off, which may begin up to Window behind what is there, and returns how many bytes are there
// without a hole. data is the callee's. What is there already is not written again: a chunk may come twice.
func (u *Uploads) Write(sum string, off int64, data []byte) (have int64, err error) {
	u.mu.Lock()
	defer u.mu.Unlock()
	end := off + int64(len(data))
	switch {
	case u.f == nil || u.sum != sum:
		return 0, fmt.Errorf("no upload of the image %.16s… has begun", sum)
	case off < 0 || end > u.size:
		return u.have, fmt.Errorf("the image has %d bytes, the chunk goes from %d to %d", u.size, off, end)
	case end <= u.have:
		return u.have, nil
	case off < u.have || end > u.have+Window:
		return u.have, fmt.Errorf("the upload is at byte %d, the chunk goes from %d to %d", u.have, off, end)
	}
	if delete(u.late, off); off > u.have && u.lateLocked()+int64(len(data)) > Window {
		return u.have, fmt.Errorf("the upload is at byte %d, and %d bytes behind it wait already", u.have, u.lateLocked())
	}
	u.late[off] = data
	for next, ok := u.late[u.have]; ok; next, ok = u.late[u.have] {
		delete(u.late, u.have) // also when it cannot be written: then it is sent again
		if _, err := u.f.WriteAt(next, u.have); err != nil {
			return u.have, fmt.Errorf("write upload: %w", err)
		}
		u.hash.Write(next)
		u.have += int64(len(next))
	}
	return u.have, nil
}

// lateLocked returns how many bytes wait for those before them.
func (u *Uploads) lateLocked() (n int64) {
	for _, b := range u.late {
		n += int64(len(b))
	}
	return n
}

// Take returns the whole image and ends its upload. One that is not what it should be is removed, so that it is not gone on
// with. That is judged by what arrived; what the disk has made of it since is for who checks the image's signature.
func (u *Uploads) Take(sum string) ([]byte, error) {
	u.mu.Lock()
	defer u.mu.Unlock()
	switch {
	case u.f == nil || u.sum != sum:
		return nil, fmt.Errorf("no upload of the image %.16s… has begun", sum)
	case u.have != u.size:
		return nil, fmt.Errorf("the upload is at byte %d of %d", u.have, u.size)
	}
	image := make([]byte, u.size)
	if _, err := io.ReadFull(io.NewSectionReader(u.f, 0, u.size), image); err != nil {
		return nil, fmt.Errorf("read upload: %w", err)
	}
	have := hex.EncodeToString(u.hash.Sum(nil))
	err := u.closeLocked()
	if e := os.Remove(filepath.Join(u.dir, sum+partSuffix)); e != nil && !errors.Is(e, fs.ErrNotExist) {
		err = errors.Join(err, e)
	}
	if have != sum {
		return nil, errors.Join(fmt.Errorf("what has arrived has sha256 %s, not %s: upload it again", have, sum), err)
	}
	if err != nil {
		return nil, fmt.Errorf("end upload: %w", err)
	}
	return image, nil
}

func (u *Uploads) closeLocked() error {
	f := u.f
	if u.f, u.late = nil, nil; f == nil {
		return nil
	}
	return f.Close()
}
