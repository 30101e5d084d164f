package cluster

import (
	"bytes"
	"io"
	"strings"
	"sync"
)

// logLimit is how much of its output a Log keeps at most. Then it forgets the older half.
const logLimit = 32 << 20

// Log collects the output of a process.
type Log struct {
	// To gets what is written too; nil: nobody. It is set before the first write.
	To io.Writer

	mu  sync.Mutex
	buf bytes.Buffer
}

// Write keeps p.
func (l *Log) Write(p []byte) (int, error) {
	l.mu.Lock()
	defer l.mu.Unlock()
	if l.To != nil {
		l.To.Write(p)
	}
	if l.buf.Len() > logLimit {
		l.buf.Next(logLimit / 2)
	}
	return l.buf.Write(p)
}

// Tail returns the last n lines, all for a negative n.
func (l *Log) Tail(n int) string {
	l.mu.Lock()
	defer l.mu.Unlock()
	lines := strings.SplitAfter(l.buf.String(), "\n")
	if n < 0 {
		n = len(lines)
	}
	return strings.Join(lines[max(0, len(lines)-n):], "")
}
