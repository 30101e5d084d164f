package plugins

import (
	"crypto/sha256"
	"fmt"
	"os"
	"path/filepath"

	"millrace/plugins/meter"
)

// meteredCache keeps modules that were validated and metered: files named by the digest of the
// original, under a directory named by the version of the pass. A file is the sha256 of the content,
// then the content; one that does not match, such as after a crash in the middle of writing, is
// written again.
type meteredCache struct {
	dir string // empty: nothing is kept
}

func (c meteredCache) path(digest string) string {
	return filepath.Join(c.dir, fmt.Sprintf("metered-%d", meter.Version), digest)
}

func (c meteredCache) get(digest string) ([]byte, bool) {
	if c.dir == "" {
		return nil, false
	}
	b, err := os.ReadFile(c.path(digest))
	if err != nil || len(b) < sha256.Size {
		return nil, false
	}
	content := b[sha256.Size:]
	return content, [sha256.Size]byte(b) == sha256.Sum256(content)
}

func (c meteredCache) put(digest string, content []byte) error {
	if c.dir == "" {
		return nil
	}
	path := c.path(digest)
	if err := os.MkdirAll(filepath.Dir(path), 0o700); err != nil {
		return fmt.Errorf("create plugin cache: %w", err)
	}
	temp, err := os.CreateTemp(filepath.Dir(path), digest+".*")
	if err != nil {
		return fmt.Errorf("write plugin cache: %w", err)
	}
	sum := sha256.Sum256(content)
	_, err = temp.Write(append(sum[:], content...))
	if cerr := temp.Close(); err == nil {
		err = cerr
	}
	if err == nil {
		err = os.Rename(temp.Name(), path)
	}
	if err != nil {
		os.Remove(temp.Name()) // best effort: the write's error is the one to report
		return fmt.Errorf("write plugin cache: %w", err)
	}
	return nil
}
