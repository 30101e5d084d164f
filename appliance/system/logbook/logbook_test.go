package logbook

import (
	"context"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"testing/synctest"
	"time"
)

func clock() time.Time { return time.Date(2026, 11, 28, 3, 0, 0, 0, time.UTC) }

func texts(lines []Line) string {
	var s []string
	for _, l := range lines {
		s = append(s, l.Text)
	}
	return strings.Join(s, "|")
}

func TestBookTail(t *testing.T) {
	b := New(clock)
	for _, s := range []string{"on", "e\ntwo\n", "three\nfo", "ur\n", "unended"} {
		if n, err := b.Write([]byte(s)); n != len(s) || err != nil {
			t.Fatal(n, err)
		}
	}
	if got := texts(b.Tail(3)); got != "two|three|four" {
		t.Errorf("tail %q", got)
	}
	if l := b.Tail(1)[0]; l.Seq != 4 || !l.Time.Equal(clock()) {
		t.Errorf("last line %+v", l)
	}
}

// Memory is bounded by lines and by bytes, and a line by its length.
func TestBookBounds(t *testing.T) {
	b := New(clock)
	for i := range 3 * memoryLines {
		fmt.Fprintf(b, "line %d\n", i)
	}
	if n := len(b.Tail(1 << 30)); n != memoryLines {
		t.Errorf("%d lines kept, want %d", n, memoryLines)
	}
	long := strings.Repeat("x", 3*maxLine) + "\n"
	for range 2 * memoryBytes / maxLine {
		fmt.Fprint(b, long)
	}
	lines := b.Tail(1 << 30)
	total := 0
	for _, l := range lines {
		total += len(l.Text)
	}
	if total > memoryBytes || total != b.bytes || len(lines[len(lines)-1].Text) != maxLine {
		t.Errorf("%d bytes kept, counted as %d, want at most %d; last line has %d", total, b.bytes, memoryBytes, len(lines[len(lines)-1].Text))
	}
}

func TestBookAfterWaits(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		b := New(clock)
		got := make(chan string, 1)
		go func() {
			lines, err := b.After(t.Context(), 0)
			got <- fmt.Sprint(texts(lines), err)
		}()
		synctest.Wait()
		fmt.Fprint(b, "one\ntwo\n")
		if g := <-got; g != "one|two<nil>" {
			t.Errorf("got %q", g)
		}
		ctx, cancel := context.WithCancel(t.Context())
		cancel()
		if _, err := b.After(ctx, 2); !errors.Is(err, context.Canceled) {
			t.Errorf("got %v", err)
		}
	})
}

// Lines of earlier boots are found before those of this one, and nothing is lost or doubled at the
// seam; a line that a power cut tore is left out.
func TestBookAttach(t *testing.T) {
	dir := t.TempDir()
	fail := func(err error) { t.Error(err) }
	for boot := 1; boot <= 3; boot++ {
		b := New(clock)
		fmt.Fprintf(b, "boot %d begins\n", boot)
		if err := b.Attach(dir, 1<<20, fail); err != nil {
			t.Fatal(err)
		}
		fmt.Fprintf(b, "boot %d goes on\n", boot)
		want := ""
		for i := 1; i <= boot; i++ {
			want += fmt.Sprintf("|boot %d begins|boot %d goes on", i, i)
		}
		if got := texts(b.Tail(100)); got != want[1:] {
			t.Errorf("boot %d: %q, want %q", boot, got, want[1:])
		}
		if got := texts(b.Tail(3)); boot > 1 && got != fmt.Sprintf("boot %d goes on|boot %d begins|boot %d goes on", boot-1, boot, boot) {
			t.Errorf("boot %d: the last three are %q", boot, got)
		}
		b.Close()
	}
	b := New(clock)
	f, err := os.OpenFile(filepath.Join(dir, "00000003.log"), os.O_APPEND|os.O_WRONLY, 0)
	if err != nil {
		t.Fatal(err)
	}
	fmt.Fprint(f, "2026-11-2\x00\x00\x00")
	f.Close()
	if err := b.Attach(dir, 1<<20, fail); err != nil {
		t.Fatal(err)
	}
	defer b.Close()
	if got := texts(b.Tail(1)); got != "boot 3 goes on" {
		t.Errorf("after a torn line: %q", got)
	}
}

// The files stay within the bound, and others in the folder are left alone.
func TestBookDiskBound(t *testing.T) {
	dir := t.TempDir()
	if err := os.WriteFile(filepath.Join(dir, "notes.txt"), []byte("mine"), 0o600); err != nil {
		t.Fatal(err)
	}
	const bound = 64 << 10
	b := New(clock)
	if err := b.Attach(dir, bound, func(err error) { t.Error(err) }); err != nil {
		t.Fatal(err)
	}
	for i := range 4000 {
		fmt.Fprintf(b, "line %d of many that together are more than the bound\n", i)
	}
	b.Close()
	entries, err := os.ReadDir(dir)
	if err != nil {
		t.Fatal(err)
	}
	var total int64
	for _, e := range entries {
		fi, err := e.Info()
		if err != nil {
			t.Fatal(err)
		}
		total += fi.Size()
	}
	if total > bound || total < bound/2 {
		t.Errorf("%d bytes on disk, bound %d", total, bound)
	}
	if _, err := os.Stat(filepath.Join(dir, "notes.txt")); err != nil {
		t.Error(err)
	}
	lines := readFile(filepath.Join(dir, entries[len(entries)-2].Name()))
	if n := len(lines); n == 0 || lines[n-1].Text != "line 3999 of many that together are more than the bound" {
		t.Errorf("the newest file does not end with the last line")
	}
}

// A disk that fails ends the writing, not the log.
func TestBookDiskFailure(t *testing.T) {
	dir := filepath.Join(t.TempDir(), "log")
	if err := os.Mkdir(dir, 0o700); err != nil {
		t.Fatal(err)
	}
	b := New(clock)
	failed := make(chan error, 1)
	if err := b.Attach(dir, maxLine, func(err error) { failed <- err }); err != nil {
		t.Fatal(err)
	}
	if err := os.RemoveAll(dir); err != nil {
		t.Fatal(err)
	}
	for range 1000 {
		fmt.Fprintln(b, "a line that needs a new file soon")
	}
	if err := <-failed; !errors.Is(err, os.ErrNotExist) {
		t.Errorf("got %v", err)
	}
	fmt.Fprintln(b, "after")
	if got := texts(b.Tail(1)); got != "after" {
		t.Errorf("last line %q", got)
	}
	b.Close()
}
