package storagetest

import (
	"bufio"
	"bytes"
	"errors"
	"fmt"
	"math/rand/v2"
	"os"
	"os/exec"
	"path/filepath"
	"sync"
	"testing"

	"millrace/storage/catalog"
	"millrace/storage/journal"
	"millrace/storage/vfs"
)

// killDir names the store for the child process of TestLogSurvivesKill; without it the child's test
// is skipped.
const killDir = "MILLRACE_STORAGETEST_DIR"

const killGroups = 4

// killData is what entry index of a group has to hold.
func killData(group, index uint64) []byte {
	rnd := rand.New(rand.NewPCG(group, index))
	b := make([]byte, rnd.IntN(4000))
	for i := range b {
		b[i] = byte(rnd.Uint32())
	}
	return b
}

func openKillStore(dir string) (*catalog.Catalog, *journal.Log, error) {
	c, err := catalog.Open(filepath.Join(dir, "catalog.db"))
	if err != nil {
		return nil, nil, err
	}
	l, err := journal.Open(journal.Config{
		FS: vfs.OS{}, Dir: filepath.Join(dir, "journal"), Catalog: c,
		SegmentBytes: 512 << 10, FirstSegmentBytes: 64 << 10,
	})
	if err != nil {
		return nil, nil, errors.Join(err, c.Close())
	}
	return c, l, nil
}

// TestLogKillChild is the process that TestLogSurvivesKill kills: it appends for ever and prints a
// line for each acknowledged entry.
func TestLogKillChild(t *testing.T) {
	dir := os.Getenv(killDir)
	if dir == "" {
		t.Skip("runs as the child of TestLogSurvivesKill only")
	}
	_, l, err := openKillStore(dir)
	if err != nil {
		fmt.Println(err)
		os.Exit(1)
	}
	var wg sync.WaitGroup
	for group := uint64(1); group <= killGroups; group++ {
		wg.Go(func() {
			done := make(chan struct{}, 1)
			_, last := l.Bounds(group)
			for index := last + 1; ; index++ {
				l.Append(journal.Write{
					Group:   group,
					Entries: []journal.Entry{{Index: index, Term: 1, Data: killData(group, index)}},
					State:   &journal.HardState{Term: 1, Commit: index - 1},
					Done:    func() { done <- struct{}{} },
				})
				<-done
				fmt.Printf("ack %d %d\n", group, index)
				if index > 100 && index%16 == 0 {
					l.Release(group, index-100)
				}
			}
		})
	}
	wg.Wait()
}

// A process that appends is killed at random moments, again and again on the same files.
func TestLogSurvivesKill(t *testing.T) {
	t.Parallel()
	exe, err := os.Executable()
	if err != nil {
		t.Fatal(err)
	}
	dir := t.TempDir()
	acked := make([]uint64, killGroups+1)
	total := 0
	for round := range 12 {
		cmd := exec.Command(exe, "-test.run=^TestLogKillChild$")
		cmd.Env = append(os.Environ(), killDir+"="+dir)
		out, err := cmd.StdoutPipe()
		if err != nil {
			t.Fatal(err)
		}
		if err := cmd.Start(); err != nil {
			t.Fatal(err)
		}
		lines := bufio.NewScanner(out)
		stopAfter := 1 + rand.IntN(600)
		for n := 0; lines.Scan(); n++ {
			var group, index uint64
			if _, err := fmt.Sscanf(lines.Text(), "ack %d %d", &group, &index); err != nil {
				break // the line was cut by the kill, or is an error that the check below shows
			}
			acked[group] = index
			total++
			if n == stopAfter {
				if err := cmd.Process.Kill(); err != nil {
					t.Fatal(err)
				}
			}
		}
		if err := cmd.Wait(); err == nil {
			t.Fatal("the child ended by itself")
		}
		checkKilled(t, dir, round, acked)
	}
	if total < 500 {
		t.Errorf("only %d entries were acknowledged", total)
	}
}

// checkKilled opens the store that a killed process left.
func checkKilled(t *testing.T, dir string, round int, acked []uint64) {
	t.Helper()
	c, l, err := openKillStore(dir)
	if err != nil {
		t.Fatalf("round %d: open: %v", round, err)
	}
	for group := uint64(1); group <= killGroups; group++ {
		first, last := l.Bounds(group)
		state, _ := l.State(group)
		if last < acked[group] || first > 1 && first+100 > last+16 || state.Commit+1 != last {
			t.Fatalf("round %d: group %d has entries %d to %d and commit %d, acknowledged were %d", round, group, first,
				last, state.Commit, acked[group])
		}
		for index := first; index <= last; index++ {
			e, err := l.Entries(group, index, index+1, 1)
			if err != nil || !bytes.Equal(e[0].Data, killData(group, index)) {
				t.Fatalf("round %d: group %d entry %d is not what was appended: %v", round, group, index, err)
			}
		}
	}
	closeLog(t, l)
	if err := c.Close(); err != nil {
		t.Fatal(err)
	}
}
