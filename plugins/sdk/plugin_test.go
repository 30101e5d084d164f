package sdk

import (
	"errors"
	"testing"
	"time"

	"millrace/plugins/abi"
)

// inboxOf makes an inbox of two messages.
func inboxOf() []byte {
	var b []byte
	for _, f := range []abi.Frame{
		{Delivered: 1, StreamSeq: 7, ConsumerSeq: 3, TimeNS: 5, Subject: []byte("a.b"), Data: []byte("one")},
		{Delivered: 2, StreamSeq: 8, ConsumerSeq: 4, TimeNS: 6, Flags: abi.FlagAfterTrap, Subject: []byte("a.c"),
			Header: NewHeader("Trace", "x", "B", "y"), Data: []byte("two")},
	} {
		frame := make([]byte, abi.FrameSize(len(f.Subject), len(f.Header), len(f.Data)))
		abi.PutFrame(frame, &f)
		b = append(b, frame...)
	}
	return b
}

func TestBatch(t *testing.T) {
	var got []Message
	Register(Plugin{Message: func(m *Message) error {
		got = append(got, *m)
		return nil
	}})
	if rc := batch(inboxOf(), 2); rc != 0 || len(got) != 2 {
		t.Fatalf("returned %d after %d messages", rc, len(got))
	}
	if m := got[0]; m.Subject != "a.b" || string(m.Data) != "one" || m.Seq != 7 || m.ConsumerSeq != 3 || m.Alone || m.Value("Trace") != "" {
		t.Errorf("first message %+v", m)
	}
	if m := got[1]; m.Delivered != 2 || !m.Alone || m.Value("trace") != "x" || m.Value("B") != "y" || !m.Time.Equal(time.Unix(0, 6)) {
		t.Errorf("second message %+v", m)
	}
	if rc := batch(inboxOf()[:90], 2); rc != int32(abi.Invalid) {
		t.Errorf("half an inbox: returned %d", rc)
	}
}

// A message that fails is settled with a back-off; where that cannot be done the batch is undone.
func TestBatchUndoneWhenSettleFails(t *testing.T) {
	Register(Plugin{Message: func(*Message) error { return errors.New("no") }})
	if rc := batch(inboxOf(), 2); rc != int32(abi.Invalid) {
		t.Errorf("returned %d", rc)
	}
	if backoff(1) != 100*time.Millisecond || backoff(3) != 10*time.Second || backoff(99) != time.Minute {
		t.Error("back-off is not 100ms, 1s, 10s, 60s")
	}
}

func TestStart(t *testing.T) {
	Register(Plugin{})
	if rc := start(); rc != int32(abi.Unsupported) {
		t.Errorf("without a plugin: %d", rc)
	}
	plugin := Plugin{Message: func(*Message) error { return nil }}
	Register(plugin)
	if rc := start(); rc != 0 || tick(1) != 0 {
		t.Errorf("without Init and Tick: %d", rc)
	}
	plugin.Init = func(config []byte) error {
		if len(config) == 0 {
			return errors.New("no configuration")
		}
		return nil
	}
	plugin.Tick = func(now time.Time) error { return errors.New(now.String()) }
	Register(plugin)
	if rc := start(); rc != int32(abi.Invalid) || tick(1) != int32(abi.Invalid) {
		t.Errorf("with failing Init and Tick: %d", rc)
	}
}

// Outside of a host the imports answer that they are unsupported, and say what was asked for.
func TestImportErrors(t *testing.T) {
	m := &Message{Subject: "a"}
	err := m.Publish("b.c", nil, []byte("x"))
	if !errors.Is(err, abi.Unsupported) || err.Error() != "publish to b.c: unsupported" {
		t.Errorf("error %v", err)
	}
	if _, err := Bucket("state").Get("key"); !errors.Is(err, abi.Unsupported) || err.Error() != "get key: unsupported" {
		t.Errorf("error %v", err)
	}
}
