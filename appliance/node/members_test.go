package node

import (
	"bytes"
	"encoding/json"
	"fmt"
	"log/slog"
	"os"
	"slices"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"testing/synctest"
	"time"

	"millrace/appliance/node/logstore"
	"millrace/appliance/server/jetstream"
	"millrace/appliance/server/jetstream/api"
	"millrace/appliance/server/subject"
	"millrace/raft"
	"millrace/storage/journal"
	"millrace/storage/storagetest"
	"millrace/storage/vfs"
)

// boxes are storage nodes in one process: engine, raft host and journal are the real ones, the disks, the wires
// between the hosts, and the subject space that all share are in memory. Time is simulated.
type boxes struct {
	t        *testing.T
	accounts map[string]*commonBus
	founders []uint64
	mu       sync.Mutex
	list     []*plant
	inboxes  int
}

// plant is one storage node.
type plant struct {
	of     *boxes
	raw    uint64 // id as the catalog has it
	name   string
	tags   []string
	mem    *vfs.Mem
	disk   *storagetest.Catalog
	groups *groups
	engine *jetstream.Engine
	up     bool
	cut    atomic.Bool // its wires to the others are cut
}

func rawNode(i int) uint64 { return uint64(i)<<nodeBits | 5 }

// newBoxes makes a cluster of n founders, named n1 and so on, which run.
func newBoxes(t *testing.T, n int) *boxes {
	c := &boxes{t: t, accounts: map[string]*commonBus{"A": newCommonBus(), "$SYS": newCommonBus()}}
	for i := range n {
		c.founders = append(c.founders, rawNode(i+1))
	}
	for i := range n {
		c.add(i+1, fmt.Sprintf("n%d", i+1))
	}
	for _, b := range c.list {
		b.start()
	}
	t.Cleanup(func() {
		for _, b := range c.list {
			b.stop()
		}
	})
	c.awaitMeta(n)
	return c
}

// meta returns what a node tells about the meta group.
func (b *plant) meta() *api.MetaClusterInfo {
	v, err := b.engine.JSz(nil)
	if err != nil {
		b.of.t.Fatal(err)
	}
	return v.(*api.JSInfo).Meta
}

// awaitMeta waits until the meta group has n members, all of which are registered and known to all who run.
func (c *boxes) awaitMeta(n int) {
	c.t.Helper()
	c.await(fmt.Sprintf("a meta group of %d", n), func() bool {
		for _, b := range c.running() {
			m := b.meta()
			if os.Getenv("BOXES_LOG") != "" {
				out, _ := json.Marshal(m)
				c.t.Log(b.name, string(out))
			}
			if m.Leader == "" || m.Size != n || slices.ContainsFunc(m.Replicas, func(p *api.PeerInfo) bool { return strings.Contains(p.Name, " ") }) {
				return false
			}
		}
		return true
	})
}

// add makes a node that does not run yet.
func (c *boxes) add(i int, name string, tags ...string) *plant {
	b := &plant{of: c, raw: rawNode(i), name: name, tags: tags, mem: vfs.NewMem(), disk: storagetest.NewCatalog(rawNode(i))}
	c.mu.Lock()
	defer c.mu.Unlock()
	c.list = append(c.list, b)
	return b
}

func (b *plant) start() {
	t := b.of.t
	t.Helper()
	log := slog.New(slog.DiscardHandler)
	if os.Getenv("BOXES_LOG") != "" {
		log = slog.New(slog.NewTextHandler(os.Stderr, nil)).With("plant", b.name)
	}
	j, err := journal.Open(journal.Config{
		FS: b.mem, Dir: "/journal", Catalog: b.disk,
		SegmentBytes: 4 << 20, FirstSegmentBytes: 1 << 20, OnFatal: func(err error) { t.Errorf("%s: %v", b.name, err) },
	})
	if err != nil {
		t.Fatal(err)
	}
	b.groups = &groups{journal: j, machines: map[raft.GroupID]jetstream.Machine{}}
	if b.groups.host, err = raft.Open(raft.Config{
		Node: nodeOf(b.raw), NodeOf: nodeOf, Transport: wires{b}, Log: logstore.Store{Log: j}, LogFailed: j.Failed(), Logger: log,
		Admit: j.Admit, AdmitControl: j.AdmitControl, OnGroupFailure: b.groups.failed,
	}); err != nil {
		t.Fatal(err)
	}
	b.of.mu.Lock()
	b.up = true
	b.of.mu.Unlock()
	b.of.connect(b, true)
	if b.engine, err = jetstream.Start(jetstream.Config{
		Groups: b.groups, Log: j, Bus: func(account string) jetstream.Bus { return plantBus{b.of.accounts[account], b} }, System: plantBus{b.of.accounts["$SYS"], b},
		Logger: log, Version: "2.15.2", Node: nodeOf(b.raw), Replica: b.raw, Name: b.name, Tags: b.tags, ServerID: "S" + b.name,
		Founders: b.of.founders, Cluster: "C1", Online: b.online, Heard: b.heard,
		Fatal:    func(err error) { t.Errorf("%s: %v", b.name, err) },
		Accounts: map[string]api.AccountLimits{"A": api.Unlimited()}, Limits: api.Limits{MaxConsumers: api.DefaultMaxConsumers, Clustered: true},
	}); err != nil {
		t.Fatal(err)
	}
}

// stop ends a node; what is on its disk stays.
func (b *plant) stop() {
	if !b.up {
		return
	}
	b.of.connect(b, false)
	b.of.mu.Lock()
	b.up = false
	b.of.mu.Unlock()
	b.engine.Close()
	if err := b.groups.host.Close(); err != nil {
		b.of.t.Errorf("%s: %v", b.name, err)
	}
	if err := b.groups.journal.Close(); err != nil {
		b.of.t.Errorf("%s: %v", b.name, err)
	}
}

func (b *plant) online(node uint64) bool {
	for _, p := range b.groups.host.Peers() {
		if p.Node == node {
			return p.State == raft.PeerAlive
		}
	}
	return false
}

func (b *plant) heard(node uint64) time.Time {
	for _, p := range b.groups.host.Peers() {
		if p.Node == node {
			return p.Heard
		}
	}
	return time.Time{}
}

// running returns the nodes that run.
func (c *boxes) running() []*plant {
	c.mu.Lock()
	defer c.mu.Unlock()
	return slices.DeleteFunc(slices.Clone(c.list), func(b *plant) bool { return !b.up })
}

// connect tells a node and the others that they can reach each other, or not.
func (c *boxes) connect(b *plant, up bool) {
	for _, other := range c.running() {
		if other != b {
			other.groups.host.Connected(nodeOf(b.raw), up)
			b.groups.host.Connected(nodeOf(other.raw), up)
		}
	}
}

// wired connects the wires of a node again, or cuts them. The subject space is still shared.
func (c *boxes) wired(b *plant, on bool) {
	b.cut.Store(!on)
	c.connect(b, on)
}

// wires carry the frames of one node: at once, whole, in order.
type wires struct{ from *plant }

func (w wires) to(node uint64) *plant {
	running := w.from.of.running()
	for _, b := range running {
		if nodeOf(b.raw) == node && slices.Contains(running, w.from) && !w.from.cut.Load() && !b.cut.Load() {
			return b
		}
	}
	return nil
}

// Send implements raft.Transport.
func (w wires) Send(node uint64, lane raft.Lane, parts [][]byte) bool {
	b := w.to(node)
	if b == nil {
		return false
	}
	b.groups.host.Receive(nodeOf(w.from.raw), lane, bytes.Join(parts, nil))
	return true
}

// Room implements raft.Transport.
func (w wires) Room(node uint64, _ raft.Lane) int {
	if w.to(node) == nil {
		return 0
	}
	return 16 << 20
}

// request makes a request on a subject of an account and returns the first answer, empty if none comes.
func (c *boxes) request(account, subj, body string) string {
	c.t.Helper()
	c.mu.Lock()
	c.inboxes++
	inbox := fmt.Sprintf("_INBOX.%d", c.inboxes)
	c.mu.Unlock()
	answers := make(chan string, 16)
	stop, err := c.accounts[account].Subscribe(inbox, "", func(m jetstream.Msg) {
		select {
		case answers <- string(m.Data):
		default:
		}
	})
	if err != nil {
		c.t.Fatal(err)
	}
	defer stop()
	c.accounts[account].Publish(subj, inbox, nil, []byte(body))
	select {
	case answer := <-answers:
		return answer
	case <-time.After(5 * time.Second):
		return ""
	}
}

// call makes an API request, again as long as there is no leader, and returns the answer. Its error must have the
// code want; 0: none.
func (c *boxes) call(account, call, body string, want uint16, answer any) {
	c.t.Helper()
	var got string
	var r api.Response
	defer func() {
		if c.t.Failed() {
			c.t.Logf("the last answer was %q", got)
		}
	}()
	c.await(call, func() bool {
		got = c.request(account, api.Prefix+call, body)
		r = api.Response{}
		return got != "" && json.Unmarshal([]byte(got), &r) == nil && (r.Error == nil || r.Error.ErrCode != api.ErrClusterNotAvail.ErrCode)
	})
	if code := errCode(r.Error); code != want {
		c.t.Fatalf("%s %s: %s, want error %d", call, body, got, want)
	}
	if answer != nil {
		if err := json.Unmarshal([]byte(got), answer); err != nil {
			c.t.Fatalf("%s: %v", got, err)
		}
	}
}

func errCode(err *api.Error) uint16 {
	if err == nil {
		return 0
	}
	return err.ErrCode
}

// await waits until a condition holds.
func (c *boxes) await(what string, holds func() bool) {
	c.t.Helper()
	for end := time.Now().Add(2 * time.Minute); !holds(); {
		if time.Now().After(end) {
			c.t.Fatalf("waited in vain: %s", what)
		}
		<-time.After(50 * time.Millisecond)
	}
}

// info returns where a stream is, nil if nobody tells.
func (c *boxes) info(stream string) *api.StreamInfo {
	var r api.StreamInfoResponse
	if json.Unmarshal([]byte(c.request("A", api.Prefix+"STREAM.INFO."+stream, "")), &r) != nil || r.Error != nil {
		return nil
	}
	return r.StreamInfo
}

// places returns the names of the nodes of a stream or consumer, sorted; * marks who is not current.
func places(info *api.ClusterInfo) string {
	if info == nil {
		return ""
	}
	names := []string{info.Leader}
	for _, p := range info.Replicas {
		name := p.Name
		if !p.Current {
			name += "*"
		}
		names = append(names, name)
	}
	slices.Sort(names)
	return strings.Join(names, " ")
}

// awaitPlaces waits until a stream is at rest on the nodes named, all of them current.
func (c *boxes) awaitPlaces(stream, nodes string) *api.StreamInfo {
	c.t.Helper()
	var info *api.StreamInfo
	last := ""
	c.await(stream+" on "+nodes, func() bool {
		info = c.info(stream)
		if info == nil || info.Cluster == nil {
			return false
		}
		if now, _ := json.Marshal(info.Cluster); string(now) != last && os.Getenv("BOXES_LOG") != "" {
			last = string(now)
			c.t.Log(last)
		}
		return info.Cluster.Desired == nil && places(info.Cluster) == nodes
	})
	return info
}

// commonBus is the subject space of an account that all nodes share.
type commonBus struct {
	mu      sync.Mutex
	next    int
	subs    map[int]busSub
	watches map[int]*busWatch
}

type busSub struct {
	filter, queue string
	fn            func(jetstream.Msg)

	at   *plant // of SubscribeEach; else nil
	each func(jetstream.Msg) bool
}

// plantBus is the subject space as one node has it.
type plantBus struct {
	*commonBus
	at *plant
}

func (b plantBus) SubscribeEach(filter string, fn func(jetstream.Msg) bool) (func(), error) {
	return b.add(busSub{filter: filter, at: b.at, each: fn, fn: func(m jetstream.Msg) { fn(m) }})
}

type busWatch struct {
	subject, queue string
	active         bool
	fn             func(bool)
}

func newCommonBus() *commonBus {
	return &commonBus{subs: map[int]busSub{}, watches: map[int]*busWatch{}}
}

// change makes a change and tells who watches interest.
func (b *commonBus) change(fn func()) {
	b.mu.Lock()
	fn()
	var tell []func()
	for _, w := range b.watches {
		if now := b.interestLocked(w.subject, w.queue); now != w.active {
			w.active = now
			tell = append(tell, func() { w.fn(now) })
		}
	}
	b.mu.Unlock()
	for _, fn := range tell {
		fn()
	}
}

func (b *commonBus) interestLocked(subj, queue string) bool {
	for _, s := range b.subs {
		if (queue == "" || s.queue == queue) && subject.Match(s.filter, subj) {
			return true
		}
	}
	return false
}

func (b *commonBus) Subscribe(filter, queue string, fn func(jetstream.Msg)) (func(), error) {
	return b.add(busSub{filter: filter, queue: queue, fn: fn})
}

func (b *commonBus) add(s busSub) (func(), error) {
	id := 0
	b.change(func() {
		b.next++
		id = b.next
		b.subs[id] = s
	})
	return func() { b.change(func() { delete(b.subs, id) }) }, nil
}

func (b *commonBus) Publish(subj, reply string, header, data []byte) int {
	return b.PublishAs(subj, subj, reply, header, data)
}

func (b *commonBus) PublishAs(deliver, subj, reply string, header, data []byte) int {
	b.mu.Lock()
	var fns []func(jetstream.Msg)
	queues := map[string]bool{}
	for _, s := range b.subs {
		if !subject.Match(s.filter, deliver) || s.queue != "" && queues[s.filter+" "+s.queue] {
			continue
		}
		queues[s.filter+" "+s.queue] = true
		fns = append(fns, s.fn)
	}
	b.mu.Unlock()
	for _, fn := range fns {
		fn(jetstream.Msg{Subject: []byte(subj), Reply: []byte(reply), Header: bytes.Clone(header), Data: bytes.Clone(data)})
	}
	return len(fns)
}

func (b *commonBus) Burst() jetstream.Burst { return b }

func (b *commonBus) Borrow() jetstream.Burst { return b }

func (b *commonBus) Push() {}

func (b *commonBus) Flush() {}

func (b *commonBus) Return() {}

func (b *commonBus) SubscribeSoon(filter, queue string, fn func(jetstream.Msg)) (func(), error) {
	return b.Subscribe(filter, queue, fn)
}

func (b *commonBus) HasInterest(subj string) bool {
	b.mu.Lock()
	defer b.mu.Unlock()
	return b.interestLocked(subj, "")
}

func (b *commonBus) WatchInterest(subj, queue string, fn func(bool)) func() {
	b.mu.Lock()
	b.next++
	id := b.next
	w := &busWatch{subject: subj, queue: queue, active: b.interestLocked(subj, queue), fn: fn}
	b.watches[id] = w
	active := w.active
	b.mu.Unlock()
	fn(active)
	return func() {
		b.mu.Lock()
		defer b.mu.Unlock()
		delete(b.watches, id)
	}
}

// publish stores messages and waits for their acknowledgement.
func (c *boxes) publish(subj string, n int) {
	c.t.Helper()
	for range n {
		c.await("publish to "+subj, func() bool {
			return strings.Contains(c.request("A", subj, "some data"), `"seq":`)
		})
	}
}

func TestStreamGrowsAndShrinks(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		c := newBoxes(t, 3)
		c.call("A", "STREAM.CREATE.S", `{"name":"S","subjects":["s.>"],"num_replicas":1}`, 0, nil)
		c.publish("s.a", 20)
		c.call("A", "STREAM.UPDATE.S", `{"name":"S","subjects":["s.>"],"num_replicas":3}`, 0, nil)
		c.awaitPlaces("S", "n1 n2 n3")
		c.publish("s.a", 20)
		c.call("A", "STREAM.UPDATE.S", `{"name":"S","subjects":["s.>"],"num_replicas":1}`, 0, nil)
		c.await("S on one node", func() bool {
			info := c.info("S")
			return info != nil && len(info.Cluster.Replicas) == 0 && info.Cluster.Desired == nil
		})
		if info := c.info("S"); info.State.Msgs != 40 {
			t.Errorf("%d messages, want 40", info.State.Msgs)
		}
	})
}

// Ephemeral consumers, as ordered consumers and key watchers are, are made, end and expire without an entry of the meta
// group.
func TestEphemeralsCostTheMetaGroupNothing(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		c := newBoxes(t, 3)
		c.call("A", "STREAM.CREATE.S", `{"name":"S","subjects":["s.>"],"num_replicas":3}`, 0, nil)
		c.awaitPlaces("S", "n1 n2 n3")
		c.publish("s.a", 3)
		last := func() (last uint64) {
			for _, b := range c.running() {
				_, n := b.groups.journal.Bounds(1) // of the meta group
				last = max(last, n)
			}
			return last
		}
		count := func() int {
			var names api.ConsumerNamesResponse
			c.call("A", "CONSUMER.NAMES.S", "", 0, &names)
			return names.Total
		}
		before := last()
		for i := range 20 {
			create := fmt.Sprintf(`{"stream_name":"S","config":{"name":"e%d","ack_policy":"none","inactive_threshold":5000000000}}`, i)
			c.call("A", fmt.Sprintf("CONSUMER.CREATE.S.e%d", i), create, 0, nil)
		}
		if n := count(); n != 20 {
			t.Errorf("%d consumers, want 20", n)
		}
		for i := range 10 {
			c.call("A", fmt.Sprintf("CONSUMER.DELETE.S.e%d", i), "", 0, nil)
		}
		c.await("the others to expire", func() bool { return count() == 0 })
		if after := last(); after != before {
			t.Errorf("the meta group has entry %d, before it had %d", after, before)
		}
		c.call("A", "CONSUMER.CREATE.S.d", `{"stream_name":"S","config":{"durable_name":"d","ack_policy":"none"}}`, 0, nil)
		if after := last(); after <= before {
			t.Error("a durable consumer is no entry either: this test sees nothing")
		}
	})
}

// consumerPlaces returns where a consumer is, empty if nobody tells or it is on its way.
func (c *boxes) consumerPlaces(stream, consumer string) string {
	var r api.ConsumerInfoResponse
	if json.Unmarshal([]byte(c.request("A", api.Prefix+"CONSUMER.INFO."+stream+"."+consumer, "")), &r) != nil || r.Error != nil ||
		r.Cluster == nil || r.Cluster.Desired != nil {
		return ""
	}
	return places(r.Cluster)
}

func TestNodeJoinsAndOneIsRemoved(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		c := newBoxes(t, 3)
		removed := c.listen("$SYS", "$JS.EVENT.ADVISORY.SERVER.REMOVED")
		c.call("A", "STREAM.CREATE.S", `{"name":"S","subjects":["s.>"],"num_replicas":3}`, 0, nil)
		c.call("A", "CONSUMER.CREATE.S.C", `{"stream_name":"S","config":{"durable_name":"C","ack_policy":"explicit"}}`, 0, nil)
		c.publish("s.a", 20)
		c.awaitPlaces("S", "n1 n2 n3")

		n4 := c.add(4, "n4")
		n4.start()
		c.awaitMeta(4)
		c.list[2].stop()
		c.call("$SYS", "SERVER.REMOVE", `{"peer":"n3"}`, 0, nil)
		c.awaitMeta(3)
		c.awaitPlaces("S", "n1 n2 n4")
		c.await("the consumer on n1 n2 n4", func() bool { return c.consumerPlaces("S", "C") == "n1 n2 n4" })
		c.publish("s.a", 20)
		if info := c.info("S"); info.State.Msgs != 40 {
			t.Errorf("%d messages, want 40", info.State.Msgs)
		}
		if list := removed.take(); len(list) != 1 || !strings.Contains(list[0], `"server":"n3"`) {
			t.Errorf("advisories %q", list)
		}

		c.list[2].start() // it is told that it is out, and stays silent
		c.await("n3 knows that it is out", func() bool { return c.list[2].health() == 503 })
		c.await("the others are well", func() bool { return c.list[0].health() == 200 && n4.health() == 200 })
		for range 5 {
			c.call("A", "STREAM.INFO.S", "", 0, nil)
		}
		c.call("$SYS", "SERVER.REMOVE", `{"peer":"n3"}`, api.ErrClusterServerNotMember.ErrCode, nil)
	})
}

func TestWipedNodeComesBack(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		c := newBoxes(t, 3)
		c.call("A", "STREAM.CREATE.S", `{"name":"S","subjects":["s.>"],"num_replicas":3}`, 0, nil)
		c.publish("s.a", 20)
		c.awaitPlaces("S", "n1 n2 n3")
		same := c.add(9, "n2") // while the one of that name is alive
		same.start()
		c.await("some time", func() bool { return same.health() == 503 })
		if m := c.list[0].meta(); m.Size != 3 {
			t.Errorf("meta group of %d although the name is taken", m.Size)
		}
		same.stop()
		c.list[1].stop()
		wiped := c.add(5, "n2")
		wiped.start()
		c.await("n2 is a member again", func() bool {
			m := wiped.meta()
			return m.Size == 3 && m.Leader != "" && wiped.health() == 200
		})
		info := c.awaitPlaces("S", "n1 n2 n3")
		if i := slices.IndexFunc(info.Cluster.Replicas, func(p *api.PeerInfo) bool { return p.Name == "n2" }); i < 0 || info.Cluster.Replicas[i].Peer != "00000005" {
			t.Errorf("replicas %+v, want n2 as the new node", info.Cluster.Replicas)
		}
		c.publish("s.a", 5)
	})
}

func TestMoveOfAllReplicas(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		c := newBoxes(t, 5)
		c.call("A", "STREAM.CREATE.S", `{"name":"S","subjects":["s.>"],"num_replicas":2}`, 0, nil)
		c.call("A", "CONSUMER.CREATE.S.C", `{"stream_name":"S","config":{"durable_name":"C","ack_policy":"explicit"}}`, 0, nil)
		c.publish("s.a", 20)
		var was, is []string
		c.await("S rests", func() bool {
			info := c.info("S")
			was = strings.Fields(places(info.Cluster))
			return !strings.Contains(places(info.Cluster), "*")
		})
		for _, name := range was {
			c.call("A", "STREAM.PEER.EVACUATE.S", `{"peer":"`+name+`"}`, 0, nil)
			c.await("S left "+name, func() bool {
				info := c.info("S")
				if info == nil || info.Cluster.Desired != nil {
					return false
				}
				is = strings.Fields(places(info.Cluster))
				return !slices.Contains(is, name) && len(is) == 2
			})
		}
		c.await("the consumer is where the stream is", func() bool {
			info := c.info("S")
			return info != nil && info.Cluster.Desired == nil && c.consumerPlaces("S", "C") == places(info.Cluster)
		})
		if info := c.info("S"); info.State.Msgs != 20 {
			t.Errorf("%d messages, want 20", info.State.Msgs)
		}
		c.call("A", "STREAM.PEER.REMOVE.S", `{"peer":"n9"}`, api.ErrClusterPeerNotMember.ErrCode, nil)
		c.call("A", "STREAM.PEER.REMOVE.S", ``, api.ErrBadRequest.ErrCode, nil)
		c.call("A", "STREAM.CANCEL_MOVE.S", ``, api.ErrStreamReconfigureNotInProgress.ErrCode, nil)
	})
}

// TestMoveToDeadNode gives one move up by request, and another since the node it goes to is removed.
func TestMoveToDeadNode(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		c := newBoxes(t, 3)
		c.call("A", "STREAM.CREATE.S", `{"name":"S","subjects":["s.>"],"num_replicas":3}`, 0, nil)
		c.publish("s.a", 20)
		c.awaitPlaces("S", "n1 n2 n3")
		n4 := c.add(4, "n4")
		n4.start()
		c.awaitMeta(4)
		n4.stop() // nobody knows yet
		c.call("A", "STREAM.PEER.REMOVE.S", `{"peer":"n1"}`, 0, nil)
		c.await("the move", func() bool { info := c.info("S"); return info != nil && info.Cluster.Desired != nil })
		c.call("A", "STREAM.CANCEL_MOVE.S", ``, 0, nil)
		c.awaitPlaces("S", "n1 n2 n3")

		n4.start()
		c.await("n4 is well", func() bool { return n4.health() == 200 })
		n4.stop()
		c.call("A", "STREAM.PEER.REMOVE.S", `{"peer":"n1"}`, 0, nil)
		c.await("the move", func() bool { info := c.info("S"); return info != nil && info.Cluster.Desired != nil })
		c.call("$SYS", "SERVER.REMOVE", `{"peer":"n4"}`, 0, nil)
		info := c.awaitPlaces("S", "n1 n2 n3")
		if info.State.Msgs != 20 {
			t.Errorf("%d messages, want 20", info.State.Msgs)
		}
	})
}

func TestStepDown(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		c := newBoxes(t, 3)
		elected, system := c.listen("A", "$JS.EVENT.ADVISORY.*.LEADER_ELECTED.>"), c.listen("$SYS", "$JS.EVENT.ADVISORY.*.LEADER_ELECTED.>")
		c.call("A", "STREAM.CREATE.S", `{"name":"S","subjects":["s.>"],"num_replicas":3}`, 0, nil)
		c.call("A", "CONSUMER.CREATE.S.C", `{"stream_name":"S","config":{"durable_name":"C","ack_policy":"explicit"}}`, 0, nil)
		leader := func() string {
			if info := c.info("S"); info != nil && !strings.Contains(places(info.Cluster), "*") {
				return info.Cluster.Leader
			}
			return ""
		}
		c.await("S has a leader", func() bool { return leader() != "" })
		for _, name := range []string{"n1", "n2", "n3"} {
			want := uint16(0)
			if leader() == name {
				want = api.ErrClusterNoPeersF("").ErrCode
			}
			c.call("A", "STREAM.LEADER.STEPDOWN.S", `{"placement":{"preferred":"`+name+`"}}`, want, nil)
			c.await(name+" leads", func() bool { return leader() == name })
		}
		c.call("A", "STREAM.LEADER.STEPDOWN.S", ``, 0, nil)
		c.await("n3 leads no more", func() bool { l := leader(); return l != "" && l != "n3" })
		c.call("A", "STREAM.LEADER.STEPDOWN.S", `{"placement":{"preferred":"x"}}`, api.ErrClusterNoPeersF("").ErrCode, nil)
		c.call("A", "STREAM.LEADER.STEPDOWN.X", ``, api.ErrStreamNotFound.ErrCode, nil)

		var r api.ConsumerInfoResponse
		c.call("A", "CONSUMER.INFO.S.C", ``, 0, &r)
		was := r.Cluster.Leader
		c.call("A", "CONSUMER.LEADER.STEPDOWN.S.C", ``, 0, nil)
		c.await("another one leads the consumer", func() bool {
			var r api.ConsumerInfoResponse
			c.call("A", "CONSUMER.INFO.S.C", ``, 0, &r)
			return r.Cluster.Leader != was && r.Cluster.Leader != ""
		})
		c.call("A", "CONSUMER.LEADER.STEPDOWN.S.X", ``, api.ErrConsumerNotFound.ErrCode, nil)

		was = c.list[0].meta().Leader
		c.call("$SYS", "META.LEADER.STEPDOWN", ``, 0, nil)
		c.await("another one leads the meta group", func() bool { l := c.list[0].meta().Leader; return l != "" && l != was })
		for what, in := range map[string]*messages{"A": elected, "$SYS": system} {
			list := strings.Join(in.take(), "\n")
			for _, want := range []string{"stream_leader_elected", "consumer_leader_elected"} {
				if !strings.Contains(list, want) {
					t.Errorf("no advisory %s in %s: %s", want, what, list)
				}
			}
			if strings.Contains(list, `"account":"A"`) != (what == "$SYS") {
				t.Errorf("in %s: %s", what, list)
			}
		}
	})
}

// A node that is about to stop leads nothing any more, and says so in less time than an election takes. Where nobody else
// is there, it does not wait.
func TestLeave(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		c := newBoxes(t, 3)
		for _, s := range []string{"S", "T", "U", "V"} {
			c.call("A", "STREAM.CREATE."+s, `{"name":"`+s+`","subjects":["`+s+`.>"],"num_replicas":3}`, 0, nil)
			c.call("A", "CONSUMER.CREATE."+s+".C", `{"stream_name":"`+s+`","config":{"durable_name":"C","ack_policy":"explicit"}}`, 0, nil)
		}
		c.call("A", "STREAM.CREATE.R1", `{"name":"R1","num_replicas":1}`, 0, nil)
		leaders := func() (list []string) {
			for _, s := range []string{"S", "T", "U", "V"} {
				var info api.ConsumerInfoResponse
				c.call("A", "CONSUMER.INFO."+s+".C", ``, 0, &info)
				list = append(list, c.info(s).Cluster.Leader, info.Cluster.Leader)
			}
			return append(list, c.list[2].meta().Leader)
		}
		c.awaitPlaces("S", "n1 n2 n3")
		for i, b := range c.list[:2] {
			b.engine.Leave() // so that the next one has most of it
			next := c.list[i+1]
			begun := time.Now()
			next.engine.Leave()
			if took := time.Since(begun); took > 500*time.Millisecond {
				t.Errorf("%s handed over in %s", next.name, took)
			}
			if list := leaders(); slices.Contains(list, next.name) || slices.Contains(list, "") {
				t.Errorf("%s handed over, and leaders are %v", next.name, list)
			}
		}
		c.list[0].stop()
		c.list[1].stop()
		begun := time.Now()
		c.list[2].engine.Leave()
		if took := time.Since(begun); took > 0 {
			t.Errorf("nobody was there to hand over to, and that took %s", took)
		}
	})
}

func TestQuorumLost(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		c := newBoxes(t, 3)
		lost := c.listen("A", "$JS.EVENT.ADVISORY.STREAM.QUORUM_LOST.S")
		c.call("A", "STREAM.CREATE.S", `{"name":"S","subjects":["s.>"],"num_replicas":3}`, 0, nil)
		c.awaitPlaces("S", "n1 n2 n3")
		<-time.After(time.Minute)
		if list := lost.take(); len(list) > 0 {
			t.Fatalf("told without need: %q", list)
		}
		c.list[1].stop()
		c.list[2].stop()
		c.await("the advisory", func() bool { return len(lost.take()) == 1 })
		if code := c.list[0].health(); code != 503 {
			t.Errorf("health %d without a quorum", code)
		}
		c.list[1].start()
		c.await("a leader again", func() bool { return c.info("S") != nil })
		c.await("both are well", func() bool { return c.list[0].health() == 200 && c.list[1].health() == 200 })
	})
}

// health returns the status code of HEALTHZ.
func (b *plant) health() int {
	v, err := b.engine.Healthz([]byte(`{"details":true}`))
	if err != nil {
		b.of.t.Fatal(err)
	}
	return v.(api.HealthStatus).StatusCode
}

// messages collects what is published to a subject.
type messages struct {
	mu   sync.Mutex
	list []string
}

func (c *boxes) listen(account, filter string) *messages {
	in := &messages{}
	if _, err := c.accounts[account].Subscribe(filter, "", func(m jetstream.Msg) {
		in.mu.Lock()
		defer in.mu.Unlock()
		in.list = append(in.list, string(m.Data))
	}); err != nil {
		c.t.Fatal(err)
	}
	return in
}

func (in *messages) take() []string {
	in.mu.Lock()
	defer in.mu.Unlock()
	list := in.list
	in.list = nil
	return list
}
