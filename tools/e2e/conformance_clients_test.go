package e2e

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"io"
	"slices"
	"strings"
	"sync"
	"time"

	"github.com/nats-io/nats.go"
	"github.com/nats-io/nats.go/jetstream"
)

// entry records a key-value entry.
func (x *session) entry(title string, e jetstream.KeyValueEntry, err error) {
	if err != nil || e == nil {
		x.failure(title, err)
		return
	}
	x.record(title, fmt.Sprintf("%s %s %q rev %d delta %d %s", e.Bucket(), e.Key(), e.Value(), e.Revision(), e.Delta(), e.Operation()))
}

// watched records the updates of a watcher up to n markers of the end of what was there.
func (x *session) watched(title string, w jetstream.KeyWatcher, err error, n int) {
	if err != nil {
		x.failure(title, err)
		return
	}
	defer w.Stop()
	timeout := time.NewTimer(answerTimeout)
	defer timeout.Stop()
	x.note(title, "")
	for range n {
		select {
		case e := <-w.Updates():
			if e == nil {
				x.note("update", "all there was")
			} else {
				x.entry("update", e, nil)
			}
		case <-timeout.C:
			x.stop("no further update of the watcher: " + title)
		}
	}
}

func storeScenarios() []scenario {
	fill := func(x *session) jetstream.KeyValue {
		kv, err := x.js.CreateKeyValue(x.ctx, jetstream.KeyValueConfig{Bucket: "B", History: 3, Description: "d"})
		x.must(err)
		for i, key := range []string{"a", "b", "a.x", "a", "a.y", "b", "c"} {
			rev, err := kv.PutString(x.ctx, key, fmt.Sprintf("v%d", i))
			x.must(err)
			x.note("put "+key, rev)
		}
		x.failure("delete", kv.Delete(x.ctx, "b"))
		x.failure("purge", kv.Purge(x.ctx, "c"))
		return kv
	}
	return []scenario{
		{"kv/values", func(x *session) {
			kv := fill(x)
			for _, key := range []string{"a", "b", "c", "a.x", "none", "..", "a.*"} {
				e, err := kv.Get(x.ctx, key)
				x.entry("get "+key, e, err)
			}
			for _, rev := range []uint64{1, 2, 4, 99} {
				e, err := kv.GetRevision(x.ctx, "a", rev)
				x.entry(fmt.Sprint("get a at ", rev), e, err)
			}
			for _, key := range []string{"a", "b", "c", "new"} {
				rev, err := kv.Create(x.ctx, key, []byte("created"))
				x.note("create "+key, rev)
				x.failure("create "+key, err)
			}
			e, err := kv.Get(x.ctx, "new")
			x.must(err)
			for _, rev := range []uint64{1, e.Revision(), e.Revision()} {
				got, err := kv.Update(x.ctx, "new", []byte("updated"), rev)
				x.note("update", got)
				x.failure("update", err)
			}
			x.failure("delete at 1", kv.Delete(x.ctx, "new", jetstream.LastRevision(1)))
			for _, key := range []string{"a", "b", "c", "new", "none", "a.*"} {
				history, err := kv.History(x.ctx, key)
				x.failure("history "+key, err)
				for _, e := range history {
					x.entry("history "+key, e, nil)
				}
			}
			keys, err := kv.Keys(x.ctx)
			slices.Sort(keys)
			x.note("keys", keys)
			x.failure("keys", err)
			lister, err := kv.ListKeysFiltered(x.ctx, "a.*", "new")
			x.must(err)
			keys = nil
			for key := range lister.Keys() {
				keys = append(keys, key)
			}
			slices.Sort(keys)
			x.note("filtered keys", keys)
			x.failure("purge deletes", kv.PurgeDeletes(x.ctx, jetstream.DeleteMarkersOlderThan(-1)))
			x.api("STREAM.INFO.KV_B", `{"subjects_filter":">","deleted_details":true}`)
		}},
		{"kv/watch", func(x *session) {
			kv := fill(x)
			w, err := kv.WatchAll(x.ctx)
			x.watched("all", w, err, 6)
			w, err = kv.Watch(x.ctx, "a")
			x.watched("a", w, err, 2)
			w, err = kv.Watch(x.ctx, "a.*")
			x.watched("a.*", w, err, 3)
			w, err = kv.WatchAll(x.ctx, jetstream.IncludeHistory())
			x.watched("history", w, err, 9)
			w, err = kv.WatchAll(x.ctx, jetstream.IgnoreDeletes())
			x.watched("no deletes", w, err, 4)
			w, err = kv.WatchAll(x.ctx, jetstream.MetaOnly())
			x.watched("meta", w, err, 6)
			w, err = kv.WatchAll(x.ctx, jetstream.ResumeFromRevision(7))
			x.watched("from 7", w, err, 3)
			w, err = kv.WatchFiltered(x.ctx, []string{"a", "c"})
			x.watched("filtered", w, err, 3)
			w, err = kv.WatchAll(x.ctx, jetstream.UpdatesOnly())
			x.must(err)
			_, err = kv.PutString(x.ctx, "z", "later")
			x.must(err)
			x.watched("updates", w, nil, 1)
		}},
		{"kv/bucket", func(x *session) {
			kv, err := x.js.CreateKeyValue(x.ctx, jetstream.KeyValueConfig{Bucket: "B", History: 5, TTL: time.Hour, MaxBytes: 10000,
				MaxValueSize: 10, Storage: jetstream.MemoryStorage, Metadata: map[string]string{"k": "v"}})
			x.must(err)
			_, err = kv.PutString(x.ctx, "a", strings.Repeat("x", 500))
			x.failure("large value", err)
			st, err := kv.Status(x.ctx)
			x.must(err)
			x.note("status", fmt.Sprint(st.Bucket(), st.Values(), st.History(), st.TTL(), st.BackingStore(), st.Bytes(), st.IsCompressed()))
			_, err = x.js.CreateKeyValue(x.ctx, jetstream.KeyValueConfig{Bucket: "B"})
			x.failure("create again", err)
			_, err = x.js.UpdateKeyValue(x.ctx, jetstream.KeyValueConfig{Bucket: "B", History: 2, Storage: jetstream.MemoryStorage})
			x.failure("update", err)
			_, err = x.js.UpdateKeyValue(x.ctx, jetstream.KeyValueConfig{Bucket: "none"})
			x.failure("update none", err)
			_, err = x.js.CreateOrUpdateKeyValue(x.ctx, jetstream.KeyValueConfig{Bucket: "C"})
			x.failure("create or update", err)
			_, err = x.js.KeyValue(x.ctx, "none")
			x.failure("bind none", err)
			_, err = x.js.CreateKeyValue(x.ctx, jetstream.KeyValueConfig{Bucket: "D", History: 65})
			x.failure("too much history", err)
			names := x.js.KeyValueStoreNames(x.ctx)
			var all []string
			for name := range names.Name() {
				all = append(all, name)
			}
			x.note("names", all)
			x.failure("delete", x.js.DeleteKeyValue(x.ctx, "C"))
			x.failure("delete", x.js.DeleteKeyValue(x.ctx, "C"))
			x.api("STREAM.INFO.KV_B", "")
		}},
		{"kv/old-api", func(x *session) {
			kv, err := x.old.CreateKeyValue(&nats.KeyValueConfig{Bucket: "B", History: 2})
			x.must(err)
			for _, key := range []string{"a", "a", "a", "b"} {
				rev, err := kv.PutString(key, "v")
				x.note("put "+key, rev)
				x.failure("put", err)
			}
			_, err = kv.Create("a", nil)
			x.failure("create", err)
			x.failure("delete", kv.Delete("b"))
			keys, err := kv.Keys()
			x.note("keys", keys)
			x.failure("keys", err)
			history, err := kv.History("a")
			x.note("history", len(history))
			x.failure("history", err)
			w, err := kv.Watch("*")
			x.must(err)
			for range 3 {
				select {
				case e := <-w.Updates():
					if e == nil {
						x.note("update", "all there was")
					} else {
						x.note("update", fmt.Sprint(e.Key(), e.Revision(), e.Operation(), e.Delta()))
					}
				case <-time.After(answerTimeout):
					x.note("update", "timeout")
				}
			}
			x.failure("stop", w.Stop())
		}},
		{"object/values", func(x *session) {
			store, err := x.js.CreateObjectStore(x.ctx, jetstream.ObjectStoreConfig{Bucket: "O", Description: "d"})
			x.must(err)
			big := bytes.Repeat([]byte("0123456789"), 40_000)
			info := func(title string, i *jetstream.ObjectInfo, err error) {
				if err != nil {
					x.failure(title, err)
					return
				}
				x.note(title, fmt.Sprint(i.Bucket, i.Name, i.Description, i.Size, i.Chunks, i.Digest, i.Deleted, i.Headers, i.Metadata))
			}
			i, err := store.Put(x.ctx, jetstream.ObjectMeta{Name: "big", Description: "many chunks", Headers: nats.Header{"A": {"b"}}}, bytes.NewReader(big))
			info("put", i, err)
			for _, name := range []string{"small", "gone", "small", ""} {
				i, err = store.PutString(x.ctx, name, "text of "+name)
				info("put "+name, i, err)
			}
			x.failure("delete", store.Delete(x.ctx, "gone"))
			for _, name := range []string{"big", "small", "gone", "none"} {
				i, err = store.GetInfo(x.ctx, name)
				info("info "+name, i, err)
				object, err := store.Get(x.ctx, name)
				if err != nil {
					x.failure("get "+name, err)
					continue
				}
				data, err := io.ReadAll(object)
				x.note("read "+name, len(data))
				x.failure("read "+name, err)
			}
			i, err = store.GetInfo(x.ctx, "gone", jetstream.GetObjectInfoShowDeleted())
			info("deleted", i, err)
			list, err := store.List(x.ctx)
			x.failure("list", err)
			slices.SortFunc(list, func(a, b *jetstream.ObjectInfo) int { return strings.Compare(a.Name, b.Name) })
			for _, i := range list {
				info("list", i, nil)
			}
			link, err := store.GetInfo(x.ctx, "big")
			x.must(err)
			i, err = store.AddLink(x.ctx, "link", link)
			info("link", i, err)
			linked, err := store.GetBytes(x.ctx, "link")
			x.note("linked", len(linked))
			x.failure("linked", err)
			x.failure("update meta", store.UpdateMeta(x.ctx, "small", jetstream.ObjectMeta{Name: "renamed"}))
			text, err := store.GetString(x.ctx, "renamed")
			x.note("renamed", text)
			x.failure("renamed", err)
			w, err := store.Watch(x.ctx)
			x.must(err)
			for n := 0; n < 4; n++ {
				if i := <-w.Updates(); i != nil {
					info("watch", i, nil)
				} else {
					x.note("watch", "all there was")
				}
			}
			x.failure("stop", w.Stop())
			x.failure("seal", store.Seal(x.ctx))
			_, err = store.PutString(x.ctx, "late", "x")
			x.failure("put sealed", err)
			st, err := store.Status(x.ctx)
			x.must(err)
			x.note("status", fmt.Sprint(st.Bucket(), st.Description(), st.Sealed(), st.Replicas(), st.Storage()))
			x.failure("delete", x.js.DeleteObjectStore(x.ctx, "O"))
			_, err = x.js.ObjectStore(x.ctx, "O")
			x.failure("bind", err)
		}},
	}
}

// got records a message of the client library.
func (x *session) got(title string, m jetstream.Msg, err error) {
	if err != nil {
		x.failure(title, err)
		return
	}
	meta, err := m.Metadata()
	x.must(err)
	x.note(title, fmt.Sprintf("%s %q %v deliveries %d pending %d", m.Subject(), m.Data(), meta.Sequence, meta.NumDelivered, meta.NumPending))
}

// collect records the first n messages that run hands over, one at a time.
func (x *session) collect(title string, n int, run func(handle func(note string)) (stop func())) {
	var mu sync.Mutex
	var got []string
	all := make(chan struct{})
	stop := run(func(note string) {
		mu.Lock()
		defer mu.Unlock()
		if got = append(got, note); len(got) == n {
			close(all)
		}
	})
	select {
	case <-all:
	case <-time.After(answerTimeout):
		x.stop("not all messages: " + title)
	}
	stop()
	mu.Lock()
	defer mu.Unlock()
	x.record(title, slices.Clone(got[:min(n, len(got))])...)
}

func clientScenarios() []scenario {
	fill := func(x *session) jetstream.Stream {
		s, err := x.js.CreateStream(x.ctx, jetstream.StreamConfig{Name: "S", Subjects: []string{"s.>"}, AllowDirect: true})
		x.must(err)
		x.put("s.1", "s.2", "s.1", "s.3", "s.1", "s.2")
		return s
	}
	return []scenario{
		{"client/stream", func(x *session) {
			s := fill(x)
			_, err := x.js.CreateStream(x.ctx, jetstream.StreamConfig{Name: "S", Subjects: []string{"s.>"}, MaxMsgs: 3})
			x.failure("create", err)
			_, err = x.js.CreateOrUpdateStream(x.ctx, jetstream.StreamConfig{Name: "S", Subjects: []string{"s.>", "t"}, AllowDirect: true})
			x.failure("create or update", err)
			_, err = x.js.UpdateStream(x.ctx, jetstream.StreamConfig{Name: "none"})
			x.failure("update", err)
			name, err := x.js.StreamNameBySubject(x.ctx, "s.9")
			x.note("name", name)
			x.failure("name", err)
			_, err = x.js.StreamNameBySubject(x.ctx, "none")
			x.failure("name", err)
			m, err := s.GetMsg(x.ctx, 2)
			x.must(err)
			x.note("message", fmt.Sprint(m.Subject, string(m.Data), m.Sequence, len(m.Header)))
			m, err = s.GetLastMsgForSubject(x.ctx, "s.1")
			x.must(err)
			x.note("last", fmt.Sprint(m.Subject, string(m.Data), m.Sequence))
			_, err = s.GetMsg(x.ctx, 99)
			x.failure("none", err)
			x.failure("delete message", s.DeleteMsg(x.ctx, 1))
			x.failure("delete message", s.SecureDeleteMsg(x.ctx, 1))
			x.failure("purge", s.Purge(x.ctx, jetstream.WithPurgeSubject("s.1"), jetstream.WithPurgeKeep(1)))
			info, err := s.Info(x.ctx, jetstream.WithSubjectFilter(">"), jetstream.WithDeletedDetails(true))
			x.must(err)
			x.note("state", fmt.Sprint(info.State.Msgs, info.State.Bytes, info.State.Subjects, info.State.Deleted))
			ack, err := x.js.Publish(x.ctx, "s.1", []byte("x"), jetstream.WithMsgID("1"), jetstream.WithExpectLastSequence(6))
			x.note("publish", ack)
			x.failure("publish", err)
			ack, err = x.js.Publish(x.ctx, "s.1", []byte("x"), jetstream.WithMsgID("1"))
			x.note("duplicate", ack)
			x.failure("publish", err)
			_, err = x.js.Publish(x.ctx, "s.1", []byte("x"), jetstream.WithExpectStream("T"))
			x.failure("publish", err)
			_, err = x.js.Publish(x.ctx, "none", []byte("x"))
			x.failure("publish", err)
			for range 100 {
				_, err := x.js.PublishAsync("s.many", []byte("x"))
				x.must(err)
			}
			<-x.js.PublishAsyncComplete()
			x.note("after many", x.js.PublishAsyncPending())
		}},
		{"client/pull", func(x *session) {
			s := fill(x)
			c, err := s.CreateConsumer(x.ctx, jetstream.ConsumerConfig{Durable: "c", AckPolicy: jetstream.AckExplicitPolicy})
			x.must(err)
			batch, err := c.Fetch(2)
			x.must(err)
			for m := range batch.Messages() {
				x.got("fetch", m, nil)
				x.failure("ack", m.DoubleAck(x.ctx))
			}
			x.failure("fetch", batch.Error())
			batch, err = c.FetchNoWait(3)
			x.must(err)
			for m := range batch.Messages() {
				x.got("fetch", m, nil)
			}
			x.failure("fetch", batch.Error())
			m, err := c.Next(jetstream.FetchMaxWait(answerTimeout))
			x.got("next", m, err)
			_, err = c.Next(jetstream.FetchMaxWait(200 * time.Millisecond))
			x.failure("next", err)
			batch, err = c.FetchBytes(200, jetstream.FetchMaxWait(200*time.Millisecond))
			x.must(err)
			for range batch.Messages() {
				x.note("fetch bytes", "unexpected")
			}
			x.failure("fetch bytes", batch.Error())
			x.failure("delete", s.DeleteConsumer(x.ctx, "c"))
			_, err = c.Info(x.ctx)
			x.failure("info", err)
			_, err = c.Next(jetstream.FetchMaxWait(200 * time.Millisecond))
			x.failure("next of a deleted consumer", err)
		}},
		{"client/consume", func(x *session) {
			s := fill(x)
			c, err := s.CreateConsumer(x.ctx, jetstream.ConsumerConfig{Durable: "c", AckPolicy: jetstream.AckExplicitPolicy, FilterSubject: "s.1"})
			x.must(err)
			x.collect("consume", 3, func(handle func(string)) func() {
				cc, err := c.Consume(func(m jetstream.Msg) {
					handle(fmt.Sprintf("%s %s", m.Subject(), m.Data()))
					m.DoubleAck(x.ctx)
				})
				x.must(err)
				return func() {
					cc.Stop()
					<-cc.Closed()
				}
			})
			x.untilConsumer("S", "c", 3, "ack_floor", "consumer_seq")
			x.put("s.1", "s.1")
			x.untilConsumer("S", "c", 2, "num_pending")
			it, err := c.Messages()
			x.must(err)
			for range 2 {
				m, err := it.Next()
				x.got("messages", m, err)
			}
			x.failure("delete", s.DeleteConsumer(x.ctx, "c"))
			_, err = it.Next()
			x.note("deleted", errors.Is(err, jetstream.ErrConsumerDeleted))
			it.Stop()
		}},
		{"client/ordered", func(x *session) {
			s := fill(x)
			c, err := s.OrderedConsumer(x.ctx, jetstream.OrderedConsumerConfig{FilterSubjects: []string{"s.1", "s.2"}})
			x.must(err)
			it, err := c.Messages()
			x.must(err)
			for range 5 {
				m, err := it.Next()
				x.got("ordered", m, err)
			}
			it.Stop()
			c, err = s.OrderedConsumer(x.ctx, jetstream.OrderedConsumerConfig{DeliverPolicy: jetstream.DeliverByStartSequencePolicy, OptStartSeq: 5, HeadersOnly: true})
			x.must(err)
			batch, err := c.Fetch(2)
			x.must(err)
			for m := range batch.Messages() {
				x.got("ordered", m, nil)
			}
			x.collect("ordered, old API", 6, func(handle func(string)) func() {
				sub, err := x.old.Subscribe("s.>", func(m *nats.Msg) {
					meta, _ := m.Metadata()
					handle(fmt.Sprintf("%s %s %v", m.Subject, m.Data, meta.Sequence))
				}, nats.OrderedConsumer())
				x.must(err)
				return func() { sub.Unsubscribe() }
			})
		}},
		{"client/old", func(x *session) {
			_, err := x.old.AddStream(&nats.StreamConfig{Name: "S", Subjects: []string{"s.>"}})
			x.must(err)
			for i := range 4 {
				ack, err := x.old.Publish(fmt.Sprintf("s.%d", i), []byte("x"), nats.MsgId(fmt.Sprint(i%3)))
				x.note("publish", ack)
				x.failure("publish", err)
			}
			sub, err := x.old.SubscribeSync("s.>", nats.Durable("push"), nats.AckExplicit(), nats.DeliverAll())
			x.must(err)
			for range 3 {
				m, err := sub.NextMsg(answerTimeout)
				x.must(err)
				x.note("push", m.Subject)
				x.failure("ack", m.AckSync())
			}
			_, err = x.old.SubscribeSync("s.>", nats.Durable("push"))
			x.failure("bound already", err)
			queue, err := x.old.QueueSubscribeSync("s.>", "g")
			x.must(err)
			m, err := queue.NextMsg(answerTimeout)
			x.must(err)
			x.note("queue", m.Subject)
			pull, err := x.old.PullSubscribe("s.>", "pull")
			x.must(err)
			msgs, err := pull.Fetch(2, nats.MaxWait(answerTimeout))
			x.failure("fetch", err)
			for _, m := range msgs {
				x.note("fetch", m.Subject)
				x.failure("ack", m.AckSync())
			}
			msgs, err = pull.Fetch(5, nats.MaxWait(200*time.Millisecond))
			x.note("fetch", len(msgs))
			x.failure("fetch", err)
			_, err = pull.Fetch(1, nats.MaxWait(200*time.Millisecond))
			x.failure("fetch", err)
			_, err = x.old.PullSubscribe("none", "pull2")
			x.failure("no stream", err)
			x.failure("unsubscribe", pull.Unsubscribe())
			_, err = x.old.ConsumerInfo("S", "pull")
			x.failure("info", err)
			info, err := x.old.AccountInfo()
			x.must(err)
			x.note("account", fmt.Sprint(info.Streams, info.Consumers, info.Store, info.Memory, info.Limits))
			x.failure("purge", x.old.PurgeStream("S"))
			x.failure("delete", x.old.DeleteStream("S"))
			x.failure("delete", x.old.DeleteStream("S"))
		}},
		{"client/queue-group", func(x *session) {
			fill(x)
			var subs []*nats.Subscription
			for range 3 {
				sub, err := x.old.QueueSubscribeSync("s.>", "g", nats.Durable("q"), nats.ManualAck())
				x.must(err)
				subs = append(subs, sub)
			}
			total := func() (n int) {
				for _, sub := range subs {
					pending, _, _ := sub.Pending()
					n += pending
				}
				return n
			}
			x.until("six messages in the group", func() bool { return total() >= 6 })
			x.api("CONSUMER.INFO.S.q", "")
			x.must(x.nc.Flush())
			x.note("messages", total())
		}},
		{"client/isolation", func(x *session) {
			// Every scenario has an account of its own and all use the same names.
			fill(x)
			ctx, cancel := context.WithTimeout(x.ctx, answerTimeout)
			defer cancel()
			var names []string
			for name := range x.js.StreamNames(ctx).Name() {
				names = append(names, name)
			}
			x.note("streams", names)
			x.api("STREAM.INFO.S", "")
			x.api("INFO", "")
		}},
	}
}
