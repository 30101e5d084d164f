package logbook

import (
	"bufio"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"slices"
	"strconv"
	"strings"
	"sync"
	"time"
)

// parts is how many files the bound is divided into: the oldest of them is what is removed at once.
const parts = 8

const (
	extension  = ".log"
	timeFormat = "2006-01-02T15:04:05.000Z"
)

// files are the lines on the disk: numbered text files, each line with its time. Only keep writes them.
type files struct {
	dir     string
	maxPart int64 // bytes of one file

	mu     sync.Mutex // held while a file begins, ends or is read
	first  int        // number of the first file of this boot
	number int        // of the file that is written
	f      *os.File
	size   int64
}

// openFiles begins a new file after those that are there: what a power cut left of the last one is
// never continued.
func openFiles(dir string, maxBytes int64) (*files, error) {
	l := &files{dir: dir, maxPart: max(maxBytes/parts, maxLine)}
	numbers, err := l.list()
	if err != nil {
		return nil, fmt.Errorf("open log: %w", err)
	}
	if len(numbers) > 0 {
		l.number = numbers[len(numbers)-1]
	}
	l.first = l.number + 1
	return l, l.next()
}

// list returns the numbers of the files, in order. Other files are not ours and left alone.
func (l *files) list() ([]int, error) {
	entries, err := os.ReadDir(l.dir)
	if err != nil {
		return nil, err
	}
	var numbers []int
	for _, e := range entries {
		name, ok := strings.CutSuffix(e.Name(), extension)
		if n, err := strconv.Atoi(name); ok && err == nil && n > 0 {
			numbers = append(numbers, n)
		}
	}
	slices.Sort(numbers)
	return numbers, nil
}

func (l *files) path(number int) string {
	return filepath.Join(l.dir, fmt.Sprintf("%08d%s", number, extension))
}

// next begins a file and removes the oldest ones beyond the bound.
func (l *files) next() error {
	l.mu.Lock()
	defer l.mu.Unlock()
	if l.f != nil {
		if err := l.f.Close(); err != nil {
			return fmt.Errorf("write log: %w", err)
		}
	}
	l.number++
	l.size = 0
	var err error
	if l.f, err = os.OpenFile(l.path(l.number), os.O_CREATE|os.O_EXCL|os.O_WRONLY, 0o600); err != nil {
		return fmt.Errorf("write log: %w", err)
	}
	numbers, err := l.list()
	if err != nil {
		return fmt.Errorf("write log: %w", err)
	}
	for _, n := range numbers[:max(0, len(numbers)-parts)] {
		if err := os.Remove(l.path(n)); err != nil && !errors.Is(err, fs.ErrNotExist) {
			return fmt.Errorf("remove old log: %w", err)
		}
	}
	return nil
}

// append writes lines.
func (l *files) append(lines []Line) error {
	for _, line := range lines {
		if err := l.write(line.Time, line.Text); err != nil {
			return err
		}
	}
	return nil
}

// dropped notes lines that came faster than they could be written.
func (l *files) dropped(at time.Time, lost uint64) error {
	return l.write(at, fmt.Sprintf("millrace: %d log lines are not kept on disk: they came too fast", lost))
}

func (l *files) write(at time.Time, text string) error {
	record := at.Format(timeFormat) + " " + text + "\n"
	if l.size > 0 && l.size+int64(len(record)) > l.maxPart {
		if err := l.next(); err != nil {
			return err
		}
	}
	n, err := l.f.WriteString(record)
	l.size += int64(n)
	if err != nil {
		return fmt.Errorf("write log: %w", err)
	}
	return nil
}

// finish writes the last lines and syncs.
func (l *files) finish(lines []Line) error {
	err := l.append(lines)
	if err == nil {
		err = l.f.Sync()
	}
	return errors.Join(err, l.f.Close())
}

// earlier returns the last n lines of earlier boots.
func (l *files) earlier(n int) []Line {
	l.mu.Lock()
	defer l.mu.Unlock()
	numbers, err := l.list()
	if err != nil {
		return nil
	}
	var out []Line
	for _, number := range slices.Backward(numbers) {
		if number >= l.first {
			continue
		}
		out = append(readFile(l.path(number)), out...)
		if len(out) >= n {
			return out[len(out)-n:]
		}
	}
	return out
}

// readFile returns the lines of a file. Those that a power cut damaged are left out.
func readFile(path string) []Line {
	f, err := os.Open(path)
	if err != nil {
		return nil
	}
	defer f.Close()
	var out []Line
	s := bufio.NewScanner(f)
	s.Buffer(nil, 2*maxLine)
	for s.Scan() {
		stamp, text, ok := strings.Cut(s.Text(), " ")
		if at, err := time.Parse(timeFormat, stamp); ok && err == nil {
			out = append(out, Line{Time: at, Text: text})
		}
	}
	return out
}
