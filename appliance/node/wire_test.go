package node

import (
	"bytes"
	"context"
	"errors"
	"log/slog"
	"os"
	"path/filepath"
	"strings"
	"syscall"
	"testing"
	"testing/synctest"
	"time"

	"millrace/appliance/node/logstore"
	"millrace/appliance/server/jetstream"
	"millrace/raft"
	"millrace/storage/journal"
	"millrace/storage/storagetest"
	"millrace/storage/vfs"
)

// openGroups opens groups over a journal on a simulated disk.
func openGroups(t *testing.T, mem *vfs.Mem) *groups {
	t.Helper()
	log, err := journal.Open(journal.Config{
		FS: mem, Dir: "/journal", Catalog: storagetest.NewCatalog(1),
		SegmentBytes: 1 << 20, FirstSegmentBytes: 1 << 20, OnFatal: func(error) {},
	})
	if err != nil {
		t.Fatal(err)
	}
	host, err := raft.Open(raft.Config{Node: 1, Log: logstore.Store{Log: log}, LogFailed: log.Failed()})
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		if err := errors.Join(host.Close(), log.Close()); err != nil && log.Err() == nil && !errors.Is(err, journal.ErrFull) {
			t.Errorf("close: %v", err)
		}
	})
	return &groups{host: host, journal: log, machines: map[raft.GroupID]jetstream.Machine{}}
}

// ignorant is a machine that does nothing but notice that it leads.
type ignorant struct{ led chan struct{} }

func (ignorant) Apply(uint64, []byte) {}

func (m ignorant) Lead(uint64, bool) { close(m.led) }

func (ignorant) Failed(error) {}

// lead starts a group and waits until it leads.
func lead(g *groups, id uint64) error {
	m := ignorant{make(chan struct{})}
	started, err := g.Start(jetstream.GroupSpec{ID: id, Log: id, Replica: 1, Began: []uint64{1}}, m)
	if err != nil {
		return err
	}
	if err := g.Await(m.led); err != nil {
		started.Stop()
		return err
	}
	return nil
}

func TestGroupsEndWhenTheJournalFails(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		mem := vfs.NewMem()
		g := openGroups(t, mem)
		if err := lead(g, 1); err != nil {
			t.Fatal(err)
		}
		hold := make(chan struct{})
		mem.SetHook(func(o vfs.Op) error {
			if o.Kind != vfs.OpSync {
				return nil
			}
			<-hold
			return syscall.EIO
		})
		ended := make(chan error, 1)
		go func() { ended <- lead(g, 2) }()
		synctest.Wait()
		if err := g.Remove(jetstream.GroupSpec{ID: 1, Log: 1}); err != nil { // it does not wait for the disk
			t.Errorf("Remove: %v", err)
		}
		if len(ended) > 0 {
			t.Fatalf("ended before its write did: %v", <-ended)
		}
		close(hold)
		if err := <-ended; !errors.Is(err, syscall.EIO) {
			t.Errorf("Start returned %v after the journal failed", err)
		}
		if err := lead(g, 3); !errors.Is(err, syscall.EIO) {
			t.Errorf("Start returned %v on a failed journal", err)
		}
	})
}

func TestGroupsStartOnFullDisk(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		mem := vfs.NewMem()
		g := openGroups(t, mem)
		mem.SetCapacity(1<<20 + 1000)
		for index := uint64(1); g.journal.AdmitControl(5000) == nil; index++ {
			done := make(chan struct{})
			g.journal.Append(journal.Write{Group: 1000, Done: func() { close(done) },
				Entries: []journal.Entry{{Index: index, Term: 1, Data: make([]byte, 5000)}}})
			<-done
			synctest.Wait()
		}
		id := uint64(1)
		for ; id < 1000; id++ {
			begin := time.Now()
			err := lead(g, id)
			if time.Since(begin) > 10*time.Second {
				t.Fatalf("start %d took %s", id, time.Since(begin))
			}
			if err == nil {
				continue
			}
			if !errors.Is(err, journal.ErrFull) {
				t.Fatalf("start %d on a full disk returned %v", id, err)
			}
			break
		}
		if id < 4 || id == 1000 {
			t.Errorf("%d starts found room on a full disk", id-1)
		}
		// Writes that ask nobody take what is left; a start that is under way then gives up.
		for g.journal.Stalled() == nil {
			g.journal.Append(journal.Write{Group: 1001, State: &journal.HardState{Term: 1}, Done: func() {}})
			synctest.Wait()
			<-time.After(time.Second)
		}
		if err := g.Await(nil); !errors.Is(err, journal.ErrFull) {
			t.Errorf("a start returned %v on a stalled journal", err)
		}
		mem.SetCapacity(0)
		<-time.After(5 * time.Second)
		if err := lead(g, id); err != nil {
			t.Errorf("start %d returned %v after space came back", id, err)
		}
	})
}

func TestStartEndsEarly(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		hang := make(chan struct{})
		defer close(hang)
		newNode := func() *Node { return &Node{settings: &Settings{}, fatal: make(chan error, 4)} }
		never := func() error { <-hang; return nil }

		ctx, cancel := context.WithCancelCause(context.Background())
		told := errors.New("told to end")
		time.AfterFunc(time.Second, func() { cancel(told) })
		if err := newNode().startUntil(ctx, never); !errors.Is(err, told) {
			t.Errorf("start returned %v when its context ended", err)
		}
		n := newNode()
		time.AfterFunc(time.Second, func() { n.fail(syscall.EIO) })
		if err := n.startUntil(context.Background(), never); !errors.Is(err, syscall.EIO) {
			t.Errorf("start returned %v after a fatal error", err)
		}
		n = newNode()
		n.wg.Go(func() { <-hang }) // Close waits for it
		begin := time.Now()
		err := n.startUntil(context.Background(), func() error { return syscall.ENOENT })
		if !errors.Is(err, syscall.ENOENT) || !strings.Contains(err.Error(), "did not close") || time.Since(begin) != closeTime {
			t.Errorf("start returned %v after %s", err, time.Since(begin))
		}
	})
}

// The key of the configuration reaches the disk: what is stored is not readable without it.
func TestStoreIsEncrypted(t *testing.T) {
	const secret = "a text that must not be readable"
	fatal := func(err error) { t.Errorf("store failed: %v", err) }
	js := JetStream{StoreDir: t.TempDir(), Key: "first"}
	write := func(index uint64) {
		t.Helper()
		s, err := openStore(nil, js, slog.New(slog.DiscardHandler), fatal)
		if err != nil {
			t.Fatal(err)
		}
		for i := uint64(1); i < index; i++ {
			if e, err := s.journal.Entries(9, i, i+1, 1); err != nil || string(e[0].Data) != secret {
				t.Errorf("entry %d is not read back: %v", i, err)
			}
		}
		done := make(chan struct{})
		s.journal.Append(journal.Write{Group: 9, Entries: []journal.Entry{{Index: index, Term: 1, Data: []byte(secret)}},
			Done: func() { close(done) }})
		<-done
		if err := s.close(); err != nil {
			t.Fatal(err)
		}
	}
	refused := func(want string) {
		t.Helper()
		s, err := openStore(nil, js, slog.New(slog.DiscardHandler), fatal)
		if err == nil {
			t.Errorf("the store was opened: %v", s.close())
		} else if !strings.Contains(err.Error(), want) || !strings.Contains(err.Error(), js.StoreDir) {
			t.Errorf("openStore returned %v, want %q", err, want)
		}
	}
	write(1)
	files, err := filepath.Glob(filepath.Join(js.StoreDir, "journal", "*.seg"))
	if err != nil || len(files) == 0 {
		t.Fatalf("segment files: %v, %v", files, err)
	}
	for _, name := range files {
		b, err := os.ReadFile(name)
		if err != nil || bytes.Contains(b, []byte(secret)) {
			t.Errorf("%s holds the text, or %v", name, err)
		}
	}
	js.Key = ""
	refused("set jetstream.key")
	js.Key = "second"
	refused("jetstream.prev_key")
	js.PrevKey = "first"
	write(2)
	js.PrevKey = ""
	write(3) // the key was changed
	js.Key = "first"
	refused("jetstream.prev_key")
}
