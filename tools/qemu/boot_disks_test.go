//go:build qemu

package qemu

import (
	"bytes"
	"fmt"
	"path/filepath"
	"strings"
	"testing"

	"github.com/nats-io/nats.go"
	"github.com/nats-io/nats.go/jetstream"
)

// A store on two disks: both are formatted and used, a power cut loses nothing, without one of the two there is no
// store, and a disk that is added later becomes a part of it.
func TestBoxSpreadsOverDisks(t *testing.T) {
	ctx := testContext(t)
	dir := t.TempDir()
	c := testConfig(t, filepath.Join(dir, "data.img"))
	second, third := filepath.Join(dir, "data2.img"), filepath.Join(dir, "data3.img")
	ownDisk(t, &c, fmt.Sprintf(adminConfig, `, disks: [ "data", "data2", "data3" ]`), 1<<30)
	me := nats.UserInfo("me", "secret")

	c.MoreDisks = []string{second}
	v := bootBox(ctx, t, c)
	wantConsole(ctx, t, v, "formatting empty disk as a further data disk, disk vdc, number 2")
	wantConsole(ctx, t, v, "store /data/millrace (vdb + vdc, ")
	_, js := connect(t, v, me)
	if _, err := js.CreateStream(ctx, jetstream.StreamConfig{Name: "S", Subjects: []string{"s"}}); err != nil {
		t.Fatal(err)
	}
	// More than the first segment holds: the log goes on on the other disk.
	const messages = 64
	payload := func(i int) []byte { return bytes.Repeat([]byte{byte(i)}, 128<<10) }
	for i := range messages {
		if _, err := js.Publish(ctx, "s", payload(i)); err != nil {
			t.Fatal(err)
		}
	}
	v.Kill()

	c.MoreDisks = nil
	v = bootBox(ctx, t, c)
	wantConsole(ctx, t, v, "this store lies on 2 disks, of which are missing: number 2, vdc (serial data2)")
	wantConsole(ctx, t, v, "store none, streams are off")
	v.Kill()

	c.MoreDisks = []string{third, second} // under other names
	v = bootBox(ctx, t, c)
	wantConsole(ctx, t, v, "formatting empty disk as a further data disk, disk vdc, number 3")
	wantConsole(ctx, t, v, "store /data/millrace (vdb + vdd + vdc, ")
	_, js = connect(t, v, me)
	s, err := js.Stream(ctx, "S")
	if err != nil {
		t.Fatal(err)
	}
	for i := range messages {
		m, err := s.GetMsg(ctx, uint64(i+1))
		if err != nil {
			t.Fatal(err)
		}
		if !bytes.Equal(m.Data, payload(i)) {
			t.Errorf("message %d is another", i+1)
		}
	}
	if info := s.CachedInfo(); info.State.Msgs != messages {
		t.Errorf("%d messages, want %d", info.State.Msgs, messages)
	}
	if strings.Contains(v.Console(), "repaired") {
		t.Errorf("a disk was repaired:\n%s", v.Console())
	}
	powerDown(ctx, t, v)
}
