package main

import (
	"bytes"
	"encoding/binary"
	"encoding/json"
	"fmt"
	"os"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/nats-io/nats.go"

	"millrace/appliance/boxapi"
	"millrace/plugins/service/servicetest"
)

// fakeBox is a box on a server that does what a test wants of it.
type fakeBox struct {
	t    *testing.T
	conn *nats.Conn

	mu       sync.Mutex
	id       string
	info     boxapi.Info
	health   boxapi.Health
	image    []byte
	size     int64
	window   int64            // how far behind its end chunks of the image may begin
	chunks   map[int64][]byte // of the image
	flying   int64            // so many chunks were on their way at a time
	starts   int
	asked    []string
	members  []string // of its cluster, the leader first
	rollBack bool     // it does not like new versions
	dropOnce bool     // one chunk is lost
	silent   bool     // chunks are not answered
}

// newFakeBox starts a box of that name on the server.
func newFakeBox(t *testing.T, url, name, role string) *fakeBox {
	t.Helper()
	b := &fakeBox{
		t: t, conn: servicetest.Connect(t, url), id: "N" + name, health: boxapi.Health{Status: "ok"},
		window: 1 << 20,
		info:   boxapi.Info{Name: name, Role: role, Version: "1.0", Started: time.Unix(1, 0), Addresses: []string{"10.0.0.1"}},
	}
	for _, s := range []string{"$SYS.REQ.SERVER.PING", "$SYS.REQ.SERVER.PING.HEALTHZ", "$SYS.REQ.SERVER.PING.JSZ", boxapi.Ping, boxapi.Prefix + "*.>"} {
		if _, err := b.conn.Subscribe(s, b.serve); err != nil {
			t.Fatal(err)
		}
	}
	if err := b.conn.Flush(); err != nil {
		t.Fatal(err)
	}
	return b
}

func (b *fakeBox) serve(m *nats.Msg) {
	b.mu.Lock()
	defer b.mu.Unlock()
	server := map[string]string{"id": b.id, "name": b.info.Name}
	switch m.Subject {
	case "$SYS.REQ.SERVER.PING":
		b.reply(m, map[string]any{"server": server})
		return
	case "$SYS.REQ.SERVER.PING.HEALTHZ":
		b.reply(m, map[string]any{"server": server, "data": b.health})
		return
	case "$SYS.REQ.SERVER.PING.JSZ":
		if b.members != nil {
			type peer map[string]string
			var peers []peer
			for _, name := range b.members[1:] {
				peers = append(peers, peer{"name": name})
			}
			b.reply(m, map[string]any{"server": server, "data": map[string]any{"meta_cluster": map[string]any{"leader": b.members[0], "replicas": peers}}})
		}
		return
	}
	verb, mine := strings.CutPrefix(m.Subject, boxapi.Subject(b.id, ""))
	if m.Subject == boxapi.Ping {
		verb, mine = boxapi.VerbInfo, true
	}
	if !mine || m.Reply == "" {
		return
	}
	if m.Subject != boxapi.Ping {
		b.asked = append(b.asked, verb)
	}
	if b.silent && verb == boxapi.VerbData {
		return
	}
	out, err := b.answer(verb, m.Data)
	a := boxapi.Answer{Server: b.id}
	if err != nil {
		a.Error = err.Error()
	} else if a.Data, err = json.Marshal(out); err != nil {
		b.t.Error(err)
	}
	b.reply(m, a)
}

func (b *fakeBox) reply(m *nats.Msg, doc any) {
	data, err := json.Marshal(doc)
	if err == nil {
		err = m.Respond(data)
	}
	if err != nil {
		b.t.Error(err)
	}
}

func (b *fakeBox) answer(verb string, data []byte) (any, error) {
	decode := func(v any) {
		if err := json.Unmarshal(data, v); err != nil {
			b.t.Errorf("%s %s: %v", verb, data, err)
		}
	}
	switch verb {
	case boxapi.VerbInfo:
		return b.info, nil
	case boxapi.VerbLogs:
		var r boxapi.LogsRequest
		decode(&r)
		return boxapi.Logs{Lines: []boxapi.LogLine{{Seq: 7, Time: time.Unix(0, 0), Text: "a line"}}}, nil
	case boxapi.VerbDisks:
		return boxapi.Disks{Disks: []boxapi.Disk{{Name: "vdb", Serial: "S1", Bytes: 1 << 30, Use: "data", Holds: "ours"}}}, nil
	case boxapi.VerbConfigGet:
		return boxapi.Config{Text: "port: 4222\n"}, nil
	case boxapi.VerbUpload:
		var r boxapi.UploadRequest
		decode(&r)
		b.size, b.chunks = r.Size, make(map[int64][]byte)
		return boxapi.Upload{Offset: int64(len(b.image)), Window: b.window}, nil
	case boxapi.VerbData:
		r, err := boxapi.DecodeChunk(data)
		if err != nil {
			return nil, err
		}
		if b.dropOnce && r.Offset > 0 {
			b.dropOnce = false
			return nil, fmt.Errorf("disk busy")
		}
		b.flying = max(b.flying, (r.Offset-int64(len(b.image)))/int64(len(r.Data))+1)
		b.chunks[r.Offset] = r.Data
		for next, ok := b.chunks[int64(len(b.image))]; ok; next, ok = b.chunks[int64(len(b.image))] {
			b.image = append(b.image, next...)
		}
		return boxapi.Upload{Offset: int64(len(b.image)), Window: b.window}, nil
	case boxapi.VerbInstall:
		if int64(len(b.image)) != b.size {
			return nil, fmt.Errorf("%d bytes of %d", len(b.image), b.size)
		}
		b.starts++
		b.id = fmt.Sprintf("N%s%d", b.info.Name, b.starts)
		b.info.Started = b.info.Started.Add(time.Hour)
		if !b.rollBack {
			b.info.Version = "1.1"
		}
		return boxapi.Installed{Version: "1.1", File: "x"}, nil
	case boxapi.VerbPower, boxapi.VerbReset, boxapi.VerbConfigSet, boxapi.VerbTakeDisk:
		return boxapi.Done{Note: "got " + string(data)}, nil
	}
	return nil, fmt.Errorf("unknown request")
}

// versionFile writes an image file of a version: what readImage looks at.
func versionFile(t *testing.T, version string) string {
	t.Helper()
	le := binary.LittleEndian
	b := make([]byte, 1<<20)
	copy(b, "MZ")
	le.PutUint32(b[0x3c:], 0x80)
	copy(b[0x80:], "PE\x00\x00")
	le.PutUint16(b[0x84:], 0x8664)
	le.PutUint16(b[0x86:], 1)
	copy(b[0x98:], ".osrel")
	le.PutUint32(b[0xa0:], 0x200)
	le.PutUint32(b[0xa8:], 0x200)
	le.PutUint32(b[0xac:], 0x200)
	copy(b[0x200:], "ID=millrace\nVERSION_ID="+version+"\n")
	return file(t, "image.efi", b)
}

func TestNodeVerbs(t *testing.T) {
	url := servicetest.Server(t)
	env := map[string]string{"NATS_URL": url}
	if code, _, stderr := millrace(t, env, "", "node", "ls"); code != exitFailure || !strings.Contains(stderr, "system account") {
		t.Errorf("without a server that answers: %d %s", code, stderr)
	}
	b := newFakeBox(t, url, "box-1", boxapi.RoleStorage)
	newFakeBox(t, url, "box-2", boxapi.RoleRouter)
	for _, tt := range []struct {
		args  string
		stdin string
		want  string
		code  int
	}{
		{"node ls", "", "box-1  -        storage  10.0.0.1  1.0      ok\nbox-2  -        router", exitOK},
		{"node info box-1", "", `"role": "storage"`, exitOK},
		{"node info box-3", "", `no server is called "box-3"; there are: box-1, box-2`, exitFailure},
		{"node logs box-1", "", "1970-01-01T00:00:00.000Z a line\n", exitOK},
		{"node disks box-1", "", "vdb   1.0 GiB  S1", exitOK},
		{"node disks box-1 -take vdc -yes-erase S2", "", `got {"disk":"vdc","erase":"S2"}`, exitOK},
		{"node config get box-1", "", "port: 4222\n", exitOK},
		{"node config set box-1", "port: 1", `got {"text":"port: 1"}`, exitOK},
		{"node config set box-1", "", "configuration of 0 bytes", exitFailure},
		{"node config edit box-1", "", "neither get nor set", exitUsage},
		{"node reboot box-1", "", `got {"off":false}`, exitOK},
		{"node poweroff box-1", "", `got {"off":true}`, exitOK},
		{"node reset box-1", "", "nothing done: say --yes box-1", exitFailure},
		{"node reset box-1 --yes box-1 -data", "", `got {"name":"box-1","data":true}`, exitOK},
		{"node update box-1 main.go", "", "not an EFI program", exitFailure},
		{"node", "", "usage: millrace node VERB", exitUsage},
	} {
		code, stdout, stderr := millrace(t, env, tt.stdin, strings.Fields(tt.args)...)
		if code != tt.code || !strings.Contains(stdout+stderr, tt.want) {
			t.Errorf("%s: exit code %d\n%s%s\nwant %q, %d", tt.args, code, stdout, stderr, tt.want, tt.code)
		}
	}
	b.mu.Lock()
	defer b.mu.Unlock()
	if got := strings.Join(b.asked, " "); strings.Count(got, boxapi.VerbReset) != 1 || strings.Contains(got, "UPDATE") {
		t.Errorf("asked %s", got)
	}
}

// An upload goes on where it was cut short; a version that is taken back is a failure.
func TestNodeUpdate(t *testing.T) {
	url := servicetest.Server(t)
	env := map[string]string{"NATS_URL": url}
	b := newFakeBox(t, url, "box-1", boxapi.RoleStorage)
	b.dropOnce = true
	image := versionFile(t, "1.1")
	code, stdout, stderr := millrace(t, env, "", "node", "update", "box-1", image)
	if code != exitOK || !strings.Contains(stdout, "1.1 has proven itself") || !strings.Contains(stderr, "upload interrupted at byte ") ||
		!strings.Contains(stderr, "disk busy") {
		t.Errorf("exit code %d\n%s%s", code, stdout, stderr)
	}
	b.mu.Lock()
	if whole, err := os.ReadFile(image); err != nil || !bytes.Equal(b.image, whole) {
		t.Errorf("the box has %d bytes, and they are not the image's (%v)", len(b.image), err)
	}
	b.info.Version, b.rollBack, b.image = "1.0", true, nil
	b.mu.Unlock()
	code, _, stderr = millrace(t, env, "", "node", "update", "box-1", image)
	if code != exitFailure || !strings.Contains(stderr, "1.1 did not prove itself, 1.0 runs again") {
		t.Errorf("taken back: exit code %d\n%s", code, stderr)
	}
}

// A box that says nothing of how much it takes at a time is sent one chunk after the other, and one that does not answer is
// given up.
func TestNodeUpdateSlowBox(t *testing.T) {
	url := servicetest.Server(t)
	env := map[string]string{"NATS_URL": url}
	b := newFakeBox(t, url, "box-1", boxapi.RoleStorage)
	b.mu.Lock()
	b.window = 0
	b.mu.Unlock()
	image := versionFile(t, "1.1")
	if code, stdout, stderr := millrace(t, env, "", "node", "update", "box-1", image); code != exitOK || b.flying > 1 {
		t.Errorf("exit code %d, %d chunks at a time\n%s%s", code, b.flying, stdout, stderr)
	}
	b.mu.Lock()
	b.info.Version, b.image, b.silent = "1.0", nil, true
	b.mu.Unlock()
	code, _, stderr := millrace(t, env, "", "node", "update", "-timeout", "100ms", "box-1", image)
	if code != exitFailure || !strings.Contains(stderr, "upload given up: ") || !strings.Contains(stderr, "no answer for 100ms") {
		t.Errorf("no answer: exit code %d\n%s", code, stderr)
	}
}

// A cluster is updated box by box, and the first that fails ends it.
func TestClusterUpdate(t *testing.T) {
	url := servicetest.Server(t)
	env := map[string]string{"NATS_URL": url}
	var boxes []*fakeBox
	for i, role := range []string{boxapi.RoleStorage, boxapi.RoleStorage, boxapi.RoleStorage, boxapi.RoleRouter} {
		boxes = append(boxes, newFakeBox(t, url, fmt.Sprint("box-", i+1), role))
	}
	boxes[1].rollBack = true
	code, stdout, stderr := millrace(t, env, "", "cluster", "update", versionFile(t, "1.1"))
	if code != exitFailure || !strings.Contains(stderr, "stopped, 2 of 4 boxes have 1.1: box-2: 1.1 did not prove itself") {
		t.Errorf("exit code %d\n%s%s", code, stdout, stderr)
	}
	var got []string
	for _, b := range boxes {
		b.mu.Lock()
		got = append(got, fmt.Sprint(b.info.Version, " ", b.starts))
		b.mu.Unlock()
	}
	if want := "1.1 1, 1.0 1, 1.0 0, 1.1 1"; strings.Join(got, ", ") != want {
		t.Errorf("versions and starts %s, want %s", strings.Join(got, ", "), want)
	}
}

// A server of the cluster that is away when the update begins is waited for: no other is taken away too.
func TestClusterUpdateWaitsForMembers(t *testing.T) {
	url := servicetest.Server(t)
	var boxes []*fakeBox
	for _, name := range []string{"box-1", "box-2", "box-3"} {
		b := newFakeBox(t, url, name, boxapi.RoleStorage)
		b.mu.Lock()
		b.members = []string{"box-2", "box-1", "box-3", "box-4", "box-5"}
		b.mu.Unlock()
		boxes = append(boxes, b)
	}
	code, stdout, stderr := millrace(t, map[string]string{"NATS_URL": url}, "", "cluster", "update", "-within", "4s", versionFile(t, "1.1"))
	if code != exitFailure || !strings.Contains(stderr, "not reachable: box-4, box-5") {
		t.Errorf("exit code %d\n%s%s", code, stdout, stderr)
	}
	for _, b := range boxes {
		b.mu.Lock()
		if b.starts > 0 || len(b.image) > 0 {
			t.Errorf("%s was updated", b.info.Name)
		}
		b.mu.Unlock()
	}
}

func TestPlanRollout(t *testing.T) {
	n := func(name, role, version string) node {
		return node{ID: "N" + name, Name: name, Health: boxapi.Health{Status: "ok"}, Box: &boxapi.Info{Role: role, Version: version}}
	}
	const s, r = boxapi.RoleStorage, boxapi.RoleRouter
	for _, tt := range []struct {
		name   string
		nodes  []node
		outage bool
		want   string
		err    string
	}{
		{"three", []node{n("a", s, "1"), n("b", s, "1"), n("c", s, "1")}, false, "a b c", ""},
		{"routers first", []node{n("a", s, "1"), n("b", s, "1"), n("c", s, "1"), n("d", r, "1")}, false, "d a b c", ""},
		{"some done", []node{n("a", s, "2"), n("b", s, "1"), n("c", s, "2")}, false, "b", ""},
		{"two", []node{n("a", s, "1"), n("b", s, "1")}, false, "", "no quorum"},
		{"two, outage allowed", []node{n("a", s, "1"), n("b", s, "1")}, true, "a b", ""},
		{"one", []node{n("a", s, "1")}, false, "", "no quorum"},
		{"two done and a router", []node{n("a", s, "2"), n("b", s, "2"), n("c", r, "1")}, false, "c", ""},
		{"four", []node{n("a", s, "1"), n("b", s, "1"), n("c", s, "1"), n("d", s, "1")}, false, "a b c d", ""},
		{"no box", []node{{Name: "x"}, n("c", r, "1")}, false, "c", ""},
		{"same name", []node{n("a", r, "1"), n("a", r, "1")}, false, "", "two servers"},
	} {
		p, err := planRollout(tt.nodes, nil, "2", tt.outage)
		var got []string
		for _, x := range p.order {
			got = append(got, x.Name)
		}
		if (err == nil) != (tt.err == "") || err != nil && !strings.Contains(err.Error(), tt.err) || err == nil && strings.Join(got, " ") != tt.want {
			t.Errorf("%s: %v, %v; want %q, %q", tt.name, got, err, tt.want, tt.err)
		}
	}
}

// No box is taken away while another that keeps streams is not well.
func TestRolloutReady(t *testing.T) {
	n := func(name, status string) node {
		return node{Name: name, Health: boxapi.Health{Status: status}, Box: &boxapi.Info{Role: boxapi.RoleStorage}}
	}
	a, b, c := n("a", "ok"), n("b", "ok"), n("c", "ok")
	trial, silent := n("b", "ok"), n("b", "ok")
	trial.Box = &boxapi.Info{Update: boxapi.Update{Trial: true}}
	silent.Box = nil
	r := rollout{storage: []string{"a", "b", "c", "p"}, noBox: []string{"p"}}
	for _, tt := range []struct {
		name  string
		nodes []node
		want  string
	}{
		{"all well", []node{a, b, c}, ""},
		{"one gone", []node{a, c}, "b is not reachable"},
		{"one not well", []node{a, n("b", "unavailable"), c}, "b is unavailable"},
		{"one on trial", []node{a, trial, c}, "b has a version on trial"},
		{"one box silent", []node{a, silent, c}, "the box of b does not answer"},
		{"the next one itself not well", []node{n("a", "unavailable"), b, c}, ""},
	} {
		process := node{Name: "p", Health: boxapi.Health{Status: "ok"}} // needs no box to be well
		if got := r.ready(append(tt.nodes, process), a); got != tt.want {
			t.Errorf("%s: %q, want %q", tt.name, got, tt.want)
		}
	}
}
