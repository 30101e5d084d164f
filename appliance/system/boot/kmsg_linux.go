package boot

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"io"
	"log/slog"
	"os"
	"strconv"
	"strings"
	"time"

	"golang.org/x/sys/unix"
)

// copyKernelLog copies what the kernel says to w, until ctx ends.
func copyKernelLog(ctx context.Context, w io.Writer, logger *slog.Logger) {
	f, err := os.OpenFile("/dev/kmsg", os.O_RDONLY|unix.O_NONBLOCK, 0)
	if err != nil {
		logger.Warn("messages of the kernel are not in the log", "cause", err)
		return
	}
	stop := context.AfterFunc(ctx, func() { f.Close() })
	defer stop()
	b := make([]byte, 8192) // one record a read, at most so many bytes
	for {
		n, err := f.Read(b)
		switch {
		case errors.Is(err, unix.EPIPE): // records were overwritten; the next is the oldest there is
			fmt.Fprintln(w, "kernel: messages lost")
		case err != nil:
			return
		default:
			if text := kernelMessage(b[:n]); text != "" {
				fmt.Fprintf(w, "kernel: %s\n", text)
			}
		}
	}
}

// kernelMessage takes the text out of a record, "priority,sequence,time,flags;text\n" and lines that
// begin with a space (Linux Documentation/ABI/testing/dev-kmsg). What is not from the kernel itself
// (a facility other than 0) is empty: it is ours. Before the text stands when it was said, in seconds since the kernel
// started, as on a console: much of it is older than the log.
func kernelMessage(record []byte) string {
	head, text, ok := bytes.Cut(record, []byte{';'})
	if !ok {
		return ""
	}
	fields := strings.Split(string(head), ",")
	if len(fields) < 3 {
		return ""
	}
	if priority, err := strconv.Atoi(fields[0]); err != nil || priority>>3 != 0 {
		return ""
	}
	at, err := strconv.ParseInt(fields[2], 10, 64)
	if err != nil {
		return ""
	}
	text, _, _ = bytes.Cut(text, []byte{'\n'})
	return fmt.Sprintf("[%12.6f] %s", (time.Duration(at) * time.Microsecond).Seconds(), text)
}
