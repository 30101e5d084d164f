package boot

import (
	"bufio"
	"errors"
	"fmt"
	"io"
	"time"
)

// Bounds of what millraced may print on the console: a serial line takes some 10 kB a second, and
// whoever writes more to it waits.
const (
	maxLine     = 1024 // bytes; the rest of a line is cut off
	linesSecond = 50   // lines a second in the long run
	linesBurst  = 400  // lines at once, enough for the trace of a crash
)

// limiter allows a number of lines, and so many more each second.
type limiter struct {
	rate, burst int

	tokens  float64
	last    time.Time
	dropped int
}

// allow reports whether a line may be printed now, and how many were dropped since the last that
// was.
func (l *limiter) allow(now time.Time) (ok bool, dropped int) {
	if l.last.IsZero() {
		l.tokens = float64(l.burst)
	} else {
		l.tokens = min(float64(l.burst), l.tokens+now.Sub(l.last).Seconds()*float64(l.rate))
	}
	l.last = now
	if l.tokens < 1 {
		l.dropped++
		return false, 0
	}
	l.tokens--
	dropped, l.dropped = l.dropped, 0
	return true, dropped
}

// copyLines copies lines from r to w and to log until r ends. What exceeds the limit is dropped and
// counted on w; r is always drained, so that the program never waits for the console.
func copyLines(w, log io.Writer, r io.Reader, l *limiter, now func() time.Time) error {
	br := bufio.NewReaderSize(r, maxLine)
	for {
		line, err := br.ReadSlice('\n')
		if len(line) > 0 {
			if line[len(line)-1] != '\n' {
				line = append(line[:len(line):len(line)], '\n')
			}
			_, _ = log.Write(line) // a book in memory, which never fails
			if ok, dropped := l.allow(now()); ok {
				if dropped > 0 {
					fmt.Fprintf(w, "millrace: %d lines of millraced's output dropped\n", dropped)
				}
				// The console is the only place to tell of errors: nothing to do about one.
				_, _ = w.Write(line)
			}
		}
		for errors.Is(err, bufio.ErrBufferFull) {
			_, err = br.ReadSlice('\n')
		}
		if errors.Is(err, io.EOF) {
			return nil
		}
		if err != nil {
			return err
		}
	}
}
