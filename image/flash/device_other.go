//go:build !linux

package flash

import (
	"errors"
	"fmt"
	"io"
	"io/fs"
	"os"
)

// Inspect finds out what a path is. Disks are known on Linux only.
func Inspect(path string) (Target, error) {
	st, err := os.Stat(path)
	switch {
	case errors.Is(err, fs.ErrNotExist):
		return Target{Path: path}, nil
	case err != nil:
		return Target{}, fmt.Errorf("look at %s: %w", path, err)
	case !st.Mode().IsRegular():
		return Target{}, fmt.Errorf("%s is not a file; disks can be written on Linux only", path)
	}
	return Target{Path: path, Exists: true}, nil
}

func openDevice(path string) (*os.File, error) {
	return nil, fmt.Errorf("%s: disks can be written on Linux only", path)
}

func rereadFile(_ string, f *os.File) (io.ReaderAt, error) { return f, nil }

func alignedBuffer(n int) []byte { return make([]byte, n) }

func announce(*os.File) error { return nil }
