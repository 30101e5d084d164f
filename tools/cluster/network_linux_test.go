package cluster

import (
	"errors"
	"io"
	"net"
	"os"
	"path/filepath"
	"strings"
	"sync"
	"testing"
	"time"

	"golang.org/x/sys/unix"
)

// network makes hosts, of which host 0 has a server that sends back what it gets.
func network(t *testing.T, n int) *Network {
	t.Helper()
	network, err := NewNetwork(n)
	if errors.Is(err, ErrNoNetwork) {
		t.Skip(err)
	}
	if err != nil {
		t.Fatal(err)
	}
	var listener net.Listener
	if err := network.host(0).do(func() (err error) {
		listener, err = net.Listen("tcp", address(0).String()+":7")
		return err
	}); err != nil {
		t.Fatal(err)
	}
	var wg sync.WaitGroup
	wg.Go(func() {
		for {
			conn, err := listener.Accept()
			if err != nil {
				return
			}
			wg.Go(func() {
				defer conn.Close()
				io.Copy(conn, conn)
			})
		}
	})
	t.Cleanup(func() {
		if err := errors.Join(listener.Close(), network.Close()); err != nil {
			t.Error(err)
		}
	})
	return network
}

// echo sends and gets back a message, and returns how long that took.
func echo(t *testing.T, conn net.Conn, message string, limit time.Duration) (time.Duration, error) {
	t.Helper()
	begun := time.Now()
	conn.SetDeadline(begun.Add(limit))
	if _, err := io.WriteString(conn, message); err != nil {
		return 0, err
	}
	got := make([]byte, len(message))
	if _, err := io.ReadFull(conn, got); err != nil {
		return 0, err
	}
	if string(got) != message {
		t.Errorf("got %q, want %q", got, message)
	}
	return time.Since(begun), nil
}

// TestNetworkLinks dials from the host of clients, and changes the links under the connection.
func TestNetworkLinks(t *testing.T) {
	n := network(t, 1)
	conn, err := n.Dial("tcp", address(0).String()+":7")
	if err != nil {
		t.Fatal(err)
	}
	defer conn.Close()
	if _, err := echo(t, conn, "hello", 10*time.Second); err != nil {
		t.Fatal(err)
	}
	for _, direction := range [][2]int{{0, 1}, {1, 0}} {
		n.Set(direction[0], direction[1], Link{Down: true})
		if _, err := echo(t, conn, "lost?", 300*time.Millisecond); err == nil {
			t.Errorf("a message got across a link that is down, %v", direction)
		}
		if other, err := n.Dial("tcp", address(0).String()+":7"); err == nil {
			other.Close()
			t.Errorf("dialed across a link that is down, %v", direction)
		}
		n.Heal()
		// What was lost is sent again.
		conn.SetDeadline(time.Now().Add(10 * time.Second))
		if _, err := io.ReadFull(conn, make([]byte, len("lost?"))); err != nil {
			t.Fatal(err)
		}
	}
	n.Set(0, 1, Link{Delay: 50 * time.Millisecond})
	n.Set(1, 0, Link{Delay: 30 * time.Millisecond})
	if took, err := echo(t, conn, "slow", 10*time.Second); err != nil || took < 80*time.Millisecond {
		t.Errorf("with 80 ms of delay an echo takes %s, %v", took, err)
	}
	n.Set(0, 1, Link{})
	n.Set(1, 0, Link{Rate: 200_000})
	if took, err := echo(t, conn, strings.Repeat("x", 100_000), 10*time.Second); err != nil || took < 400*time.Millisecond {
		t.Errorf("100 kB at 200 kB/s take %s, %v", took, err)
	}
	n.Set(1, 0, Link{})
	if took, err := echo(t, conn, strings.Repeat("x", 100_000), 10*time.Second); err != nil || took > 2*time.Second {
		t.Errorf("100 kB on a perfect link take %s, %v", took, err)
	}
}

// TestNetworkIsPrivate has nothing of this machine in the namespaces.
func TestNetworkIsPrivate(t *testing.T) {
	n := network(t, 1)
	l, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	defer l.Close()
	if conn, err := n.Dial("tcp", l.Addr().String()); err == nil {
		conn.Close()
		t.Error("a client in the network reached a port of this machine")
	}
}

func TestDiskFills(t *testing.T) {
	dir := filepath.Join(t.TempDir(), "store")
	d, err := NewDisk(dir, 8<<20)
	if err != nil {
		t.Skip(err)
	}
	defer d.Close()
	file := filepath.Join(dir, "file")
	if err := os.WriteFile(file, make([]byte, 1<<20), 0o600); err != nil {
		t.Fatal(err)
	}
	if err := d.Fill(); err != nil {
		t.Fatal(err)
	}
	if err := os.WriteFile(file+"2", make([]byte, 1<<20), 0o600); !errors.Is(err, unix.ENOSPC) {
		t.Errorf("write to a full disk: %v", err)
	}
	if err := d.Free(); err != nil {
		t.Fatal(err)
	}
	if err := os.WriteFile(file+"2", make([]byte, 1<<20), 0o600); err != nil {
		t.Errorf("write to a disk with room: %v", err)
	}
}

// TestImageCutPower finds what was synced after a power cut, and not what was not.
func TestImageCutPower(t *testing.T) {
	dir := t.TempDir()
	store := filepath.Join(dir, "store")
	image, err := NewImage(store, filepath.Join(dir, "disk"), 64<<20)
	if err != nil {
		t.Skip(err)
	}
	defer func() {
		if err := image.Close(); err != nil {
			t.Error(err)
		}
	}()
	write := func(name string, sync bool) {
		t.Helper()
		f, err := os.Create(filepath.Join(store, name))
		if err != nil {
			t.Fatal(err)
		}
		_, err = f.WriteString(name)
		if sync {
			err = errors.Join(err, f.Sync())
		}
		if err := errors.Join(err, f.Close()); err != nil {
			t.Fatal(err)
		}
	}
	write("synced", true)
	write("not", false)
	if err := image.CutPower(); err != nil {
		t.Fatal(err)
	}
	if text, err := os.ReadFile(filepath.Join(store, "synced")); err != nil || string(text) != "synced" {
		t.Errorf("synced file: %q, %v", text, err)
	}
	if text, err := os.ReadFile(filepath.Join(store, "not")); err == nil && string(text) == "not" {
		t.Error("a file that was not synced has survived a power cut")
	}
}
