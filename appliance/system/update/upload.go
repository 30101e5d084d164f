package update

import (
	"crypto/sha256"
	"encoding/hex"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"os"
	"path/filepath"
	"sync"

	"millrace/image/layout"
)

// MaxImage bounds an image, in bytes.
const MaxImage = layout.MaxUKI

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
	have int64
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
	if have, err = f.Seek(0, io.SeekEnd); err == nil && have > size {
		have, err = 0, f.Truncate(0)
	}
	if err != nil {
		return 0, errors.Join(fmt.Errorf("begin upload: %w", err), f.Close())
	}
	u.f, u.sum, u.size, u.have = f, sum, size, have
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

// Write adds bytes at off, which must be where the upload is, and returns where it is then.
func (u *Uploads) Write(sum string, off int64, data []byte) (have int64, err error) {
	u.mu.Lock()
	defer u.mu.Unlock()
	switch {
	case u.f == nil || u.sum != sum:
		return 0, fmt.Errorf("no upload of the image %.16s… has begun", sum)
	case off != u.have:
		return u.have, fmt.Errorf("the upload is at byte %d, the chunk begins at %d", u.have, off)
	case off+int64(len(data)) > u.size:
		return u.have, fmt.Errorf("the image has %d bytes, the chunk ends at %d", u.size, off+int64(len(data)))
	}
	if _, err := u.f.WriteAt(data, off); err != nil {
		return u.have, fmt.Errorf("write upload: %w", err)
	}
	u.have += int64(len(data))
	return u.have, nil
}

// Take returns the whole image and ends its upload. One that is not what it should be is removed, so
// that it is not gone on with.
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
	got := sha256.Sum256(image)
	err := u.closeLocked()
	if e := os.Remove(filepath.Join(u.dir, sum+partSuffix)); e != nil && !errors.Is(e, fs.ErrNotExist) {
		err = errors.Join(err, e)
	}
	if have := hex.EncodeToString(got[:]); have != sum {
		return nil, errors.Join(fmt.Errorf("what has arrived has sha256 %s, not %s: upload it again", have, sum), err)
	}
	if err != nil {
		return nil, fmt.Errorf("end upload: %w", err)
	}
	return image, nil
}

func (u *Uploads) closeLocked() error {
	f := u.f
	if u.f = nil; f == nil {
		return nil
	}
	return f.Close()
}
