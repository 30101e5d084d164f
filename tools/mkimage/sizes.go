package main

import (
	"fmt"
	"io"
	"os"

	"github.com/klauspost/compress/zstd"

	"millrace/image"
)

// printSizes prints how large the results are, the image also as it travels: compressed.
func printSizes(w io.Writer, res image.Result) error {
	for _, f := range []string{res.Image, res.UKI, res.Kernel, res.Initramfs, res.Manifest} {
		st, err := os.Stat(f)
		if err != nil {
			return fmt.Errorf("stat result: %w", err)
		}
		fmt.Fprintf(w, "%8.1f MB  %s\n", float64(st.Size())/1e6, f)
	}
	n, err := compressedSize(res.Image)
	if err != nil {
		return err
	}
	fmt.Fprintf(w, "%8.1f MB  the image compressed with zstd\n", float64(n)/1e6)
	return nil
}

// compressedSize is the size of a file after zstd, in bytes.
func compressedSize(name string) (int64, error) {
	f, err := os.Open(name)
	if err != nil {
		return 0, fmt.Errorf("measure image: %w", err)
	}
	defer f.Close()
	var n counter
	z, err := zstd.NewWriter(&n, zstd.WithEncoderLevel(zstd.SpeedFastest))
	if err != nil {
		return 0, fmt.Errorf("measure image: %w", err)
	}
	if _, err := io.Copy(z, f); err != nil {
		return 0, fmt.Errorf("measure image: %w", err)
	}
	if err := z.Close(); err != nil {
		return 0, fmt.Errorf("measure image: %w", err)
	}
	return int64(n), nil
}

// counter counts what is written to it.
type counter int64

func (c *counter) Write(p []byte) (int, error) {
	*c += counter(len(p))
	return len(p), nil
}
