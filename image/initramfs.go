package image

import (
	"fmt"
	"log/slog"
	"maps"
	"os"
	"path/filepath"
	"slices"
	"strings"

	"github.com/klauspost/compress/zstd"
	"github.com/u-root/mkuimage/cpio"
	"github.com/u-root/mkuimage/uimage"
	"github.com/u-root/uio/llog"
)

// initramfsWindow is the zstd window in bytes. The kernel allocates as much to unpack, and refuses
// more than 128 MiB.
const initramfsWindow = 8 << 20

// baseRecords are what must be there before init has mounted anything: without /dev/console the
// kernel starts init with no standard output.
func baseRecords() []cpio.Record {
	return []cpio.Record{
		cpio.Directory("boot", 0o755),
		cpio.Directory("data", 0o755),
		cpio.Directory("dev", 0o755),
		cpio.Directory("etc", 0o755),
		cpio.Directory("proc", 0o755),
		cpio.Directory("run", 0o755),
		cpio.Directory("sys", 0o755),
		cpio.Directory("tmp", 0o1777),
		cpio.CharDev("dev/console", 0o600, 5, 1),
		cpio.CharDev("dev/null", 0o666, 1, 3),
	}
}

// initramfs returns the compressed initramfs: the unpacked files, and programs (path in the
// archive to path on this machine).
func initramfs(files tree, programs map[string]string, logger *slog.Logger) ([]byte, error) {
	tmp, err := os.MkdirTemp("", "millrace-initramfs-")
	if err != nil {
		return nil, fmt.Errorf("build initramfs: %w", err)
	}
	defer os.RemoveAll(tmp)

	records := baseRecords()
	for _, name := range slices.Sorted(maps.Keys(files)) {
		if link := files[name].target; link != "" {
			records = append(records, cpio.Symlink(name, link))
			continue
		}
		perm := uint64(0o644)
		if strings.HasPrefix(name, "sbin/") || strings.HasPrefix(name, "bin/") || strings.Contains(name, ".so") {
			perm = 0o755
		}
		records = append(records, cpio.StaticRecord(files[name].data, cpio.Info{Name: name, Mode: cpio.S_IFREG | perm}))
	}
	base, err := cpio.ArchiveFromRecords(records)
	if err != nil {
		return nil, fmt.Errorf("build initramfs: %w", err)
	}
	out := filepath.Join(tmp, "initramfs.cpio")
	mods := []uimage.Modifier{
		uimage.WithBaseArchive(base), uimage.WithCPIOOutput(out), uimage.WithTempDir(tmp),
		uimage.WithSkipLDD(), // libraries come from the pinned packages, not from this machine
	}
	for _, dst := range slices.Sorted(maps.Keys(programs)) {
		mods = append(mods, uimage.WithFiles(programs[dst]+":"+dst))
	}
	l := llog.New(slog.LevelWarn, func(format string, v ...any) { logger.Warn(fmt.Sprintf(format, v...)) })
	if err := uimage.Create(l, mods...); err != nil {
		return nil, fmt.Errorf("build initramfs: %w", err)
	}
	raw, err := os.ReadFile(out)
	if err != nil {
		return nil, fmt.Errorf("build initramfs: %w", err)
	}
	return compress(raw)
}

// compress packs the initramfs with zstd. One encoder thread and fixed settings: equal input gives
// equal output.
func compress(raw []byte) ([]byte, error) {
	enc, err := zstd.NewWriter(nil, zstd.WithEncoderLevel(zstd.SpeedBetterCompression),
		zstd.WithWindowSize(initramfsWindow), zstd.WithEncoderConcurrency(1))
	if err != nil {
		return nil, fmt.Errorf("compress initramfs: %w", err)
	}
	out := enc.EncodeAll(raw, nil)
	return out, enc.Close()
}
