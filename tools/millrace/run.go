package main

import (
	"bufio"
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"os"
	"time"
	"unicode/utf8"

	"millrace/plugins"
	"millrace/plugins/abi"
)

// inputMessage is one line of the input of run.
type inputMessage struct {
	Subject    string            `json:"subject"`
	Headers    map[string]string `json:"headers"`
	Data       string            `json:"data"`
	DataBase64 []byte            `json:"data_base64"` // instead of data, for bytes that are no text
	Seq        uint64            `json:"seq"`         // default: one more than the line before
	Time       time.Time         `json:"time"`        // default: 2000-01-01 and a second a message
	Delivered  uint32            `json:"delivered"`   // default 1
}

// event is one line of the output of run.
type event struct {
	Event      string  `json:"event"` // publish, write, settle, fail, log, metric, done
	Seq        uint64  `json:"seq,omitempty"`
	Subject    string  `json:"subject,omitempty"`
	Header     string  `json:"header,omitempty"`
	Bucket     string  `json:"bucket,omitempty"`
	Key        string  `json:"key,omitempty"`
	Delete     bool    `json:"delete,omitempty"`
	Kind       string  `json:"kind,omitempty"`
	DelayMS    int64   `json:"delay_ms,omitempty"`
	Reason     string  `json:"reason,omitempty"`
	Level      string  `json:"level,omitempty"`
	Text       string  `json:"text,omitempty"`
	Name       string  `json:"name,omitempty"`
	Value      *int64  `json:"value,omitempty"`
	Data       *string `json:"data,omitempty"`
	DataBase64 []byte  `json:"data_base64,omitempty"`
	Error      string  `json:"error,omitempty"`
	Stack      string  `json:"stack,omitempty"`
	Messages   int     `json:"messages,omitempty"`
	Failed     int     `json:"failed,omitempty"`
	CPUMicros  int64   `json:"cpu_us,omitempty"` // fuel used, as time
	Memory     int64   `json:"memory,omitempty"`
}

func runRun(ctx context.Context, c *call) error {
	f := c.flags()
	in := f.String("in", "-", `messages, one JSON object a line: {"subject": "a.b", "data": "text"}; - is standard input`)
	state := f.String("state", "", `JSON `+"`FILE`"+` with the buckets at the start: {"bucket": {"key": "value"}}`)
	configFile := f.String("config", "", "`FILE` with the configuration of the plugin")
	stream := f.String("stream", "LOCAL", "name of the `STREAM` that the messages are said to come from")
	batch := f.Int("batch", 256, "messages in a batch, at most")
	memory := f.Int64("memory", 0, "`BYTES` of memory (default 16 MiB)")
	publish, kv := list{}, grants{}
	f.Var(&publish, "publish", "`SUBJECTS` it may publish to (default: all)")
	f.Var(kv, "kv", "`BUCKET:r` or BUCKET:rw that it may use; may be repeated")
	args, err := c.parse(f, 1)
	if err != nil {
		return err
	}
	if len(publish) == 0 {
		publish = list{">"}
	}
	r := &localRun{out: json.NewEncoder(c.stdout), buckets: map[string]map[string]plugins.Entry{}}
	config := plugins.InstanceConfig{Stream: *stream, KV: r, Limits: plugins.Limits{MemoryBytes: *memory},
		Grants: plugins.Grants{Publish: publish, KV: map[string]plugins.Access{}}, Now: r.now,
		Log: func(level abi.Level, text string) {
			r.emit(event{Event: "log", Level: level.String(), Text: text})
		},
		Metric: func(name string, kind abi.MetricKind, value int64) {
			r.emit(event{Event: "metric", Name: name, Kind: [...]string{"counter", "gauge"}[kind], Value: &value})
		}}
	for bucket, access := range kv {
		config.Grants.KV[bucket] = plugins.Access(access)
		r.buckets[bucket] = map[string]plugins.Entry{}
	}
	if *configFile != "" {
		if config.Config, err = os.ReadFile(*configFile); err != nil {
			return fmt.Errorf("read configuration: %w", err)
		}
	}
	if err := r.load(*state); err != nil {
		return err
	}
	messages, err := c.readMessages(*in)
	if err != nil {
		return err
	}
	wasm, err := os.ReadFile(args[0])
	if err != nil {
		return fmt.Errorf("read module: %w", err)
	}
	return r.run(ctx, wasm, config, messages, max(1, *batch))
}

// readMessages reads the input.
func (c *call) readMessages(name string) ([]plugins.Message, error) {
	input := c.stdin
	if name != "-" {
		file, err := os.Open(name)
		if err != nil {
			return nil, fmt.Errorf("read messages: %w", err)
		}
		defer file.Close()
		input = file
	}
	var messages []plugins.Message
	lines := bufio.NewReader(input)
	for n := 1; ; n++ {
		line, err := lines.ReadBytes('\n')
		if err != nil && !errors.Is(err, io.EOF) {
			return nil, fmt.Errorf("read messages: %w", err)
		}
		if len(bytes.TrimSpace(line)) > 0 {
			m, err := parseMessage(line, uint64(len(messages)+1))
			if err != nil {
				return nil, fmt.Errorf("%s:%d: %w", name, n, err)
			}
			messages = append(messages, m)
		}
		if err != nil {
			return messages, nil
		}
	}
}

func parseMessage(line []byte, seq uint64) (plugins.Message, error) {
	in := inputMessage{Subject: "local", Seq: seq, Delivered: 1}
	d := json.NewDecoder(bytes.NewReader(line))
	d.DisallowUnknownFields()
	if err := d.Decode(&in); err != nil {
		return plugins.Message{}, fmt.Errorf("decode message: %w", err)
	}
	if in.Time.IsZero() {
		in.Time = time.Date(2000, 1, 1, 0, 0, 0, 0, time.UTC).Add(time.Duration(in.Seq) * time.Second)
	}
	m := plugins.Message{Seq: in.Seq, ConsumerSeq: seq, Delivered: in.Delivered, Time: in.Time, Subject: in.Subject,
		Data: []byte(in.Data)}
	if in.DataBase64 != nil {
		m.Data = in.DataBase64
	}
	if len(in.Headers) > 0 {
		m.Header = []byte("NATS/1.0\r\n")
		for name, value := range in.Headers {
			m.Header = fmt.Appendf(m.Header, "%s: %s\r\n", name, value)
		}
		m.Header = append(m.Header, "\r\n"...)
	}
	return m, nil
}

// localRun is the world that a plugin runs in without a server: buckets in memory, and a clock that
// shows the time of the batch's first message, so that a run repeats exactly.
type localRun struct {
	out      *json.Encoder
	err      error // of the first write to out
	buckets  map[string]map[string]plugins.Entry
	revision uint64
	clock    time.Time
	failed   int
	cpu      time.Duration
}

func (r *localRun) now() time.Time { return r.clock }

func (r *localRun) emit(e event) {
	if err := r.out.Encode(e); r.err == nil {
		r.err = err
	}
}

// data shows bytes as text where they are.
func (e event) data(b []byte) event {
	if utf8.Valid(b) {
		text := string(b)
		e.Data = &text
	} else {
		e.DataBase64 = b
	}
	return e
}

func (r *localRun) load(name string) error {
	if name == "" {
		return nil
	}
	b, err := os.ReadFile(name)
	if err != nil {
		return fmt.Errorf("read state: %w", err)
	}
	var state map[string]map[string]string
	if err := json.Unmarshal(b, &state); err != nil {
		return fmt.Errorf("decode state %s: %w", name, err)
	}
	for bucket, values := range state {
		if r.buckets[bucket] == nil {
			r.buckets[bucket] = map[string]plugins.Entry{}
		}
		for key, value := range values {
			r.revision++
			r.buckets[bucket][key] = plugins.Entry{Value: []byte(value), Revision: r.revision}
		}
	}
	return nil
}

func (r *localRun) run(ctx context.Context, wasm []byte, config plugins.InstanceConfig,
	messages []plugins.Message, size int) error {
	rt, err := plugins.Open(plugins.Config{})
	if err != nil {
		return err
	}
	m, err := rt.Compile(ctx, wasm)
	if err != nil {
		return err
	}
	runner := plugins.NewRunner(m, config)
	if len(messages) > 0 {
		r.clock = messages[0].Time
	}
	for done := 0; done < len(messages) && err == nil; done += size {
		batch := messages[done:min(done+size, len(messages))]
		r.clock = batch[0].Time
		err = runner.Run(ctx, batch, r)
	}
	memory := runner.MemoryBytes()
	runner.Close()
	if err = errors.Join(err, m.Close()); err != nil {
		return err
	}
	r.emit(event{Event: "done", Messages: len(messages), Failed: r.failed, CPUMicros: r.cpu.Microseconds(), Memory: memory})
	if r.err == nil && r.failed > 0 {
		return fmt.Errorf("%d of %d messages failed", r.failed, len(messages))
	}
	return r.err
}

// Get implements plugins.KV.
func (r *localRun) Get(_ context.Context, bucket, key string) (plugins.Entry, error) {
	b, ok := r.buckets[bucket]
	if !ok {
		return plugins.Entry{}, plugins.ErrNoBucket
	}
	return b[key], nil
}

// Commit implements plugins.Sink.
func (r *localRun) Commit(batch []plugins.Message, e *plugins.Effects) error {
	seq := func(msg int) uint64 {
		if msg == abi.WholeBatch {
			return 0
		}
		return batch[msg].Seq
	}
	for _, w := range e.Writes {
		r.revision++
		r.buckets[w.Bucket][w.Key] = plugins.Entry{Value: bytes.Clone(w.Value), Revision: r.revision, Time: r.clock, Deleted: w.Delete}
		line := event{Event: "write", Seq: seq(w.Msg), Bucket: w.Bucket, Key: w.Key, Delete: w.Delete}
		if !w.Delete {
			line = line.data(w.Value)
		}
		r.emit(line)
	}
	for _, p := range e.Publications {
		r.emit(event{Event: "publish", Seq: seq(p.Msg), Subject: p.Subject, Header: string(p.Header)}.data(p.Data))
	}
	for i, s := range e.Settled {
		r.emit(event{Event: "settle", Seq: batch[i].Seq, Kind: s.Kind.String(), DelayMS: s.Delay.Milliseconds(), Reason: s.Reason})
	}
	r.cpu += e.CPU
	return r.err
}

// Fail implements plugins.Sink.
func (r *localRun) Fail(m *plugins.Message, err error) error {
	r.failed++
	line := event{Event: "fail", Seq: m.Seq, Error: err.Error()}
	if trap, ok := errors.AsType[*plugins.TrapError](err); ok {
		line.Stack = trap.Stack
	}
	r.emit(line)
	return r.err
}
