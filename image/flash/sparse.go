package flash

import (
	"bytes"
	"io"
	"os"
)

// CopySparse copies to a new file and leaves out what is zero. It returns how many bytes the file has.
func CopySparse(w *os.File, r io.Reader) (size int64, err error) {
	b := make([]byte, 64<<10)
	for {
		// Not io.ReadFull: to it a reader that was cut short looks like one that has ended.
		n := 0
		for n < len(b) && err == nil {
			var m int
			m, err = r.Read(b[n:])
			n += m
		}
		if n > 0 && len(bytes.Trim(b[:n], "\x00")) > 0 {
			if _, err := w.WriteAt(b[:n], size); err != nil {
				return size, err
			}
		}
		size += int64(n)
		if err == io.EOF {
			return size, w.Truncate(size)
		}
		if err != nil {
			return size, err
		}
	}
}
