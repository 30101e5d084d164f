package e2e

import (
	"bytes"
	"errors"
	"fmt"
	"io"
	"math/rand/v2"
	"slices"
	"testing"
	"time"

	"github.com/nats-io/nats.go/jetstream"
)

// TestKeyValue walks through the key-value store of the client library, and through a restart.
func TestKeyValue(t *testing.T) {
	s := startServer(t)
	nc, js := s.jetstream()
	ctx := t.Context()
	kv, err := js.CreateKeyValue(ctx, jetstream.KeyValueConfig{Bucket: "conf", History: 5})
	if err != nil {
		t.Fatal(err)
	}
	watch, err := kv.WatchAll(ctx)
	if err != nil {
		t.Fatal(err)
	}
	defer watch.Stop()
	if first := <-watch.Updates(); first != nil {
		t.Fatalf("first update of an empty bucket is %v", first)
	}

	rev, err := kv.Create(ctx, "a", []byte("1"))
	if err != nil {
		t.Fatal(err)
	}
	if _, err := kv.Create(ctx, "a", []byte("x")); !errors.Is(err, jetstream.ErrKeyExists) {
		t.Errorf("second create: got %v, want ErrKeyExists", err)
	}
	if _, err := kv.Update(ctx, "a", []byte("x"), rev+7); err == nil {
		t.Error("update with a wrong revision succeeded")
	} else if api := (*jetstream.APIError)(nil); !errors.As(err, &api) || api.ErrorCode != jetstream.JSErrCodeStreamWrongLastSequence {
		t.Errorf("update with a wrong revision: got %v", err)
	}
	if rev, err = kv.Update(ctx, "a", []byte("2"), rev); err != nil {
		t.Fatal(err)
	}
	for _, key := range []string{"b", "c", "d.e"} {
		if _, err := kv.PutString(ctx, key, "v-"+key); err != nil {
			t.Fatal(err)
		}
	}
	if err := kv.Delete(ctx, "b"); err != nil {
		t.Fatal(err)
	}
	if err := kv.Purge(ctx, "c"); err != nil {
		t.Fatal(err)
	}
	var seen []string
	for range 7 {
		select {
		case u := <-watch.Updates():
			seen = append(seen, fmt.Sprintf("%s %s %s", u.Key(), u.Value(), u.Operation()))
		case <-time.After(10 * time.Second):
			t.Fatalf("watched only %q", seen)
		}
	}
	want := []string{"a 1 KeyValuePutOp", "a 2 KeyValuePutOp", "b v-b KeyValuePutOp", "c v-c KeyValuePutOp",
		"d.e v-d.e KeyValuePutOp", "b  KeyValueDeleteOp", "c  KeyValuePurgeOp"}
	if !slices.Equal(seen, want) {
		t.Errorf("watched %q, want %q", seen, want)
	}

	for i, restart := range []func(){func() {}, s.stop, s.kill} {
		if restart(); !s.running() {
			s.start()
			waitFor(t, startTimeout, "reconnect", nc.IsConnected)
		}
		e, err := kv.Get(ctx, "a")
		if err != nil || string(e.Value()) != "2" || e.Revision() != rev {
			t.Fatalf("restart %d: got %v, %v", i, e, err)
		}
		for _, gone := range []string{"b", "c", "nothing"} {
			if _, err := kv.Get(ctx, gone); !errors.Is(err, jetstream.ErrKeyNotFound) {
				t.Errorf("restart %d: key %s: got %v, want ErrKeyNotFound", i, gone, err)
			}
		}
		history, err := kv.History(ctx, "a")
		if err != nil || len(history) != 2 || string(history[0].Value()) != "1" {
			t.Errorf("restart %d: history %v, %v", i, history, err)
		}
		if history, err = kv.History(ctx, "c"); err != nil || len(history) != 1 || history[0].Operation() != jetstream.KeyValuePurge {
			t.Errorf("restart %d: history of a purged key %v, %v", i, history, err)
		}
		keys, err := kv.Keys(ctx)
		slices.Sort(keys)
		if err != nil || !slices.Equal(keys, []string{"a", "d.e"}) {
			t.Errorf("restart %d: keys %q, %v", i, keys, err)
		}
		status, err := kv.Status(ctx)
		if err != nil || status.History() != 5 || status.Bucket() != "conf" {
			t.Errorf("restart %d: status %v, %v", i, status, err)
		}
	}
	if err := kv.PurgeDeletes(ctx, jetstream.DeleteMarkersOlderThan(-1)); err != nil {
		t.Fatal(err)
	}
	if st, err := kv.Status(ctx); err != nil || st.Values() != 3 {
		t.Errorf("after purging deletes: %v, %v", st.Values(), err)
	}
	if err := js.DeleteKeyValue(ctx, "conf"); err != nil {
		t.Fatal(err)
	}
	if _, err := js.KeyValue(ctx, "conf"); !errors.Is(err, jetstream.ErrBucketNotFound) {
		t.Errorf("got %v, want ErrBucketNotFound", err)
	}
}

// TestKeyValueWatchersCompete creates many watchers while keys change; each must see the last value
// of every key.
func TestKeyValueWatchersCompete(t *testing.T) {
	s := startServer(t)
	_, js := s.jetstream()
	ctx := t.Context()
	kv, err := js.CreateKeyValue(ctx, jetstream.KeyValueConfig{Bucket: "w"})
	if err != nil {
		t.Fatal(err)
	}
	const keys, rounds, watchers = 20, 10, 15
	results := make(chan error, watchers)
	for range watchers {
		w, err := kv.WatchAll(ctx)
		if err != nil {
			t.Fatal(err)
		}
		defer w.Stop()
		go func() {
			done := 0
			for u := range w.Updates() {
				if u != nil && string(u.Value()) == fmt.Sprint(rounds-1) {
					done++
				}
				if done == keys {
					results <- nil
					return
				}
			}
			results <- fmt.Errorf("watcher ended after %d of %d keys", done, keys)
		}()
	}
	for round := range rounds {
		for key := range keys {
			if _, err := kv.PutString(ctx, fmt.Sprintf("k%d", key), fmt.Sprint(round)); err != nil {
				t.Fatal(err)
			}
		}
	}
	for range watchers {
		select {
		case err := <-results:
			if err != nil {
				t.Error(err)
			}
		case <-time.After(20 * time.Second):
			t.Fatal("a watcher did not see all last values")
		}
	}
}

// TestObjectStore walks through the object store of the client library, and through a restart.
func TestObjectStore(t *testing.T) {
	s := startServer(t)
	nc, js := s.jetstream()
	ctx := t.Context()
	store, err := js.CreateObjectStore(ctx, jetstream.ObjectStoreConfig{Bucket: "files", Description: "of the test"})
	if err != nil {
		t.Fatal(err)
	}
	big := make([]byte, 5<<20+123)
	random := rand.NewChaCha8([32]byte{1})
	if _, err := random.Read(big); err != nil {
		t.Fatal(err)
	}
	info, err := store.Put(ctx, jetstream.ObjectMeta{Name: "big", Description: "random"}, bytes.NewReader(big))
	if err != nil {
		t.Fatal(err)
	}
	if info.Size != uint64(len(big)) {
		t.Errorf("stored %d bytes, want %d", info.Size, len(big))
	}
	for _, name := range []string{"small", "gone"} {
		if _, err := store.PutString(ctx, name, "text of "+name); err != nil {
			t.Fatal(err)
		}
	}
	if err := store.Delete(ctx, "gone"); err != nil {
		t.Fatal(err)
	}
	for i, restart := range []func(){func() {}, s.stop, s.kill} {
		if restart(); !s.running() {
			s.start()
			waitFor(t, startTimeout, "reconnect", nc.IsConnected)
		}
		object, err := store.Get(ctx, "big")
		if err != nil {
			t.Fatalf("restart %d: %v", i, err)
		}
		got, err := io.ReadAll(object)
		if err != nil || !bytes.Equal(got, big) {
			t.Errorf("restart %d: read %d bytes, want %d: %v", i, len(got), len(big), err)
		}
		if text, err := store.GetString(ctx, "small"); err != nil || text != "text of small" {
			t.Errorf("restart %d: got %q, %v", i, text, err)
		}
		if _, err := store.GetString(ctx, "gone"); !errors.Is(err, jetstream.ErrObjectNotFound) {
			t.Errorf("restart %d: got %v, want ErrObjectNotFound", i, err)
		}
		list, err := store.List(ctx)
		if err != nil || len(list) != 2 {
			t.Errorf("restart %d: list %v, %v", i, list, err)
		}
	}
	before, err := store.Status(ctx)
	if err != nil {
		t.Fatal(err)
	}
	if err := store.Delete(ctx, "big"); err != nil {
		t.Fatal(err)
	}
	after, err := store.Status(ctx)
	if err != nil {
		t.Fatal(err)
	}
	if before.Size()-after.Size() < uint64(len(big)) {
		t.Errorf("deleting %d bytes freed %d", len(big), before.Size()-after.Size())
	}
}
