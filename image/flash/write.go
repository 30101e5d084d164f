package flash

import (
	"bytes"
	"context"
	"encoding/binary"
	"errors"
	"fmt"
	"io"
	"os"
	"path/filepath"
	"unicode/utf16"

	"millrace/image/layout"
)

const (
	// chunkBytes is how much is written and read at once; the start of the disk, which makes it one that
	// boots, is the first of them.
	chunkBytes = layout.AlignBytes

	// clearBytes is what is cleared behind the image on a larger disk: there the box makes its state
	// partition, which must not begin with what was on the disk before.
	clearBytes = 4 << 20
)

// incomplete stands at the start of a disk while an image is written to it.
const incomplete = "MILLRACE FLASHING WAS CUT SHORT\n"

// Disk is what Write writes to.
type Disk interface {
	io.ReaderAt
	io.WriterAt
	Sync() error // all that was written is on the medium
}

// Progress is told how far Write has come. step is "writing" or "verifying".
type Progress func(step string, done, total int64)

// Write writes an image of size bytes to a disk of diskBytes, and reads it back by reread, which must
// return a disk that reads from the medium and not from memory.
//
// The start of the disk goes last: a disk on which writing was cut short does not boot, and nothing
// continues it. cutShort tells that it was so before.
func Write(ctx context.Context, image io.ReaderAt, size int64, d Disk, diskBytes int64, reread func() (io.ReaderAt, error), p Progress) (cutShort bool, err error) {
	if size < 2*chunkBytes || size%chunkBytes != 0 || diskBytes < size {
		return false, fmt.Errorf("flash an image of %d bytes to a disk of %d: want whole MiB that fit", size, diskBytes)
	}
	head := make([]byte, len(incomplete))
	if _, err := d.ReadAt(head, 0); err == nil {
		cutShort = string(head) == incomplete
	}
	mark := make([]byte, chunkBytes)
	copy(mark, incomplete)
	if err := writeAt(d, mark, 0); err != nil {
		return cutShort, err
	}
	if err := d.Sync(); err != nil {
		return cutShort, fmt.Errorf("write disk: %w", err)
	}
	zeros := make([]byte, chunkBytes)
	for _, at := range cleared(size, diskBytes) {
		if err := writeAt(d, zeros[:min(chunkBytes, diskBytes-at)], at); err != nil {
			return cutShort, err
		}
	}
	b := make([]byte, chunkBytes)
	for at := int64(chunkBytes); at <= size; at += chunkBytes {
		if err := ctx.Err(); err != nil {
			return cutShort, fmt.Errorf("write disk: %w; it does not boot now", err)
		}
		from := at
		if at == size { // the start, after all else is on the medium
			if err := d.Sync(); err != nil {
				return cutShort, fmt.Errorf("write disk: %w", err)
			}
			from = 0
		}
		if _, err := image.ReadAt(b, from); err != nil {
			return cutShort, fmt.Errorf("read image: %w", err)
		}
		if err := writeAt(d, b, from); err != nil {
			return cutShort, err
		}
		p("writing", at, size)
	}
	if err := d.Sync(); err != nil {
		return cutShort, fmt.Errorf("write disk: %w", err)
	}
	return cutShort, verify(ctx, image, size, diskBytes, reread, p)
}

// cleared lists the chunks that are cleared: behind the image, and the last one of the disk, where an older
// partition table has its copy.
func cleared(size, diskBytes int64) []int64 {
	var list []int64
	for at := size; at < min(size+clearBytes, diskBytes); at += chunkBytes {
		list = append(list, at)
	}
	if last := (diskBytes - 1) / chunkBytes * chunkBytes; last >= size+clearBytes {
		if last-chunkBytes >= size+clearBytes { // the copy may begin in the chunk before
			list = append(list, last-chunkBytes)
		}
		list = append(list, last)
	}
	return list
}

// writeAt writes one chunk.
func writeAt(d Disk, b []byte, at int64) error {
	if _, err := d.WriteAt(b, at); err != nil {
		return fmt.Errorf("write disk at byte %d: %w", at, err)
	}
	return nil
}

// verify compares the disk with what was to be written.
func verify(ctx context.Context, image io.ReaderAt, size, diskBytes int64, reread func() (io.ReaderAt, error), p Progress) error {
	r, err := reread()
	if err != nil {
		return fmt.Errorf("read disk back: %w", err)
	}
	want, got := make([]byte, chunkBytes), alignedBuffer(chunkBytes)
	for at := int64(0); at < size; at += chunkBytes {
		if err := ctx.Err(); err != nil {
			return fmt.Errorf("read disk back: %w", err)
		}
		if _, err := image.ReadAt(want, at); err != nil {
			return fmt.Errorf("read image: %w", err)
		}
		if err := compare(r, got, want, at); err != nil {
			return err
		}
		p("verifying", at+chunkBytes, size)
	}
	clear(want)
	for _, at := range cleared(size, diskBytes) {
		n := min(chunkBytes, diskBytes-at)
		if err := compare(r, got[:n], want[:n], at); err != nil {
			return err
		}
	}
	return nil
}

// compare reads one chunk back.
func compare(r io.ReaderAt, got, want []byte, at int64) error {
	if _, err := r.ReadAt(got, at); err != nil && !errors.Is(err, io.EOF) {
		return fmt.Errorf("read disk back at byte %d: %w", at, err)
	}
	if bytes.Equal(got, want) {
		return nil
	}
	for i := range got {
		if got[i] != want[i] {
			at += int64(i)
			break
		}
	}
	return fmt.Errorf("%w: byte %d reads back other; the disk is faulty or smaller than it says", ErrDiffers, at)
}

// Run checks a target, writes an image to it and reads it back. Of what is seen of the target say is told
// before anything is written.
func Run(ctx context.Context, image *os.File, path, forced string, say func(text string), p Progress) error {
	st, err := image.Stat()
	if err != nil {
		return fmt.Errorf("read image: %w", err)
	}
	t, err := Inspect(path)
	if err != nil {
		return err
	}
	if err := t.Check(st.Size(), forced); err != nil {
		return err
	}
	say(fmt.Sprintf("writing %s to %s", formatBytes(st.Size()), t))
	if !t.Device {
		return writeFile(ctx, image, st.Size(), path, p)
	}
	d, err := openDevice(path)
	if err != nil {
		return err
	}
	if holdsState(d) {
		say("this disk holds the state of a box, which is lost now: its name, key and configuration (millrace node update keeps them)")
	}
	cutShort, err := Write(ctx, image, st.Size(), d, t.Bytes, func() (io.ReaderAt, error) { return rereadFile(path, d) }, p)
	if cutShort {
		say("an earlier flashing of this disk was cut short; this one began anew")
	}
	if err == nil {
		err = announce(d)
	}
	return errors.Join(err, d.Close())
}

// holdsState reports whether a disk has the partition that a box makes for its state.
func holdsState(d io.ReaderAt) bool {
	table := make([]byte, 34*sectorBytes) // UEFI 5.3: header and at least 128 entries; names are UTF-16
	if _, err := d.ReadAt(table, 0); err != nil {
		return false
	}
	var name []byte
	for _, c := range utf16.Encode([]rune(layout.StateName)) {
		name = binary.LittleEndian.AppendUint16(name, c)
	}
	return bytes.Contains(table, name)
}

// writeFile writes an image to a file, which gets its name when it is whole.
func writeFile(ctx context.Context, image io.ReaderAt, size int64, path string, p Progress) error {
	f, err := os.CreateTemp(filepath.Dir(path), filepath.Base(path)+".*")
	if err != nil {
		return fmt.Errorf("write image file: %w", err)
	}
	err = f.Chmod(0o644)
	if err == nil {
		err = f.Truncate(size)
	}
	if err == nil {
		_, err = Write(ctx, image, size, sparse{f}, size, func() (io.ReaderAt, error) { return rereadFile(f.Name(), f) }, p)
	}
	if err = errors.Join(err, f.Close()); err == nil {
		err = os.Rename(f.Name(), path)
	}
	if err != nil {
		return errors.Join(fmt.Errorf("write image file %s: %w", path, err), os.Remove(f.Name()))
	}
	return nil
}

// sparse is a new file, all zeros, in which zeros need not be written.
type sparse struct{ *os.File }

// WriteAt implements io.WriterAt.
func (s sparse) WriteAt(b []byte, at int64) (int, error) {
	if at > 0 && len(bytes.Trim(b, "\x00")) == 0 {
		return len(b), nil
	}
	return s.File.WriteAt(b, at)
}
