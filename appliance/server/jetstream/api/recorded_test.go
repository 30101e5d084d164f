package api

import (
	"bytes"
	"encoding/json"
	"maps"
	"os"
	"testing"
)

// The files in testdata hold requests and what nats-server 2.15.2 answered to them.

const recordedVersion = "2.15.2"

// answer is the recorded one: an error or a configuration.
type answer struct {
	Error  *Error          `json:"error"`
	Config json.RawMessage `json:"config"`
}

// differs holds the errors we give where nats-server does not, by name of the case.
var differs = map[string]*Error{
	// nats-server stores it and then publishes nothing again.
	"republish no dest": ErrStreamInvalidConfigF("stream configuration for republish with transform from 'a.*' to '' not valid"),
}

func recorded[T any](t *testing.T, file string) []T {
	t.Helper()
	data, err := os.ReadFile("testdata/" + file)
	if err != nil {
		t.Fatal(err)
	}
	var cases []T
	if err := json.Unmarshal(data, &cases); err != nil {
		t.Fatalf("%s: %v", file, err)
	}
	if len(cases) == 0 {
		t.Fatalf("%s holds no case", file)
	}
	return cases
}

// check compares what we answer with the recorded answer.
func (a *answer) check(t *testing.T, shown any, err *Error) {
	t.Helper()
	switch {
	case err != nil && a.Error == nil:
		t.Errorf("refused with %v, want %s", err, a.Config)
	case err != nil:
		if *err != *a.Error {
			t.Errorf("error %+v, want %+v", *err, *a.Error)
		}
	case a.Error != nil:
		t.Errorf("accepted, want error %v", a.Error)
	default:
		got, err := json.Marshal(shown)
		if err != nil {
			t.Fatal(err)
		}
		var want bytes.Buffer
		json.HTMLEscape(&want, a.Config)
		if !bytes.Equal(got, want.Bytes()) {
			t.Errorf("config\n got %s\nwant %s", got, want.Bytes())
		}
	}
}

func TestStreamConfigNormalizeRecorded(t *testing.T) {
	type testCase struct {
		Name    string          `json:"name"`
		Request json.RawMessage `json:"request"`
		answer
	}
	l := &Limits{Account: Unlimited()}
	for _, c := range recorded[testCase](t, "stream_create.json") {
		t.Run(c.Name, func(t *testing.T) {
			var r StreamConfigRequest
			err := Decode(c.Request, &r)
			if err == nil {
				err = r.CheckCreate()
			}
			var n StreamConfig
			if err == nil {
				n, err = r.Normalize(l, r.Pedantic)
			}
			if e := differs[c.Name]; e != nil {
				c.answer = answer{Error: e}
			}
			if reason := unserved(streamFeatures, &r.StreamConfig); reason != "" {
				c.answer = answer{Error: ErrStreamInvalidConfigF(reason)}
			}
			c.check(t, n.Shown(recordedVersion), err)
			if err == nil {
				again, err := n.Normalize(l, true)
				if err != nil || !again.Equal(&n) {
					t.Errorf("normalized again: %v, %+v, want the same as %+v", err, again, n)
				}
			}
		})
	}
}

func TestStreamUpdateRecorded(t *testing.T) {
	type testCase struct {
		Name    string          `json:"name"`
		Old     StreamConfig    `json:"old"`
		Request json.RawMessage `json:"request"`
		answer
	}
	l := &Limits{Account: Unlimited()}
	for _, c := range recorded[testCase](t, "stream_update.json") {
		t.Run(c.Name, func(t *testing.T) {
			old, err := c.Old.Normalize(l, false)
			if err != nil {
				t.Fatal(err)
			}
			var r StreamConfigRequest
			if err := Decode(c.Request, &r); err != nil {
				t.Fatal(err)
			}
			n, err := r.Normalize(l, r.Pedantic)
			if err == nil && r.Name != old.Name {
				err = ErrStreamMismatch // the subject of the recorded request named the old one
			}
			if err == nil {
				n, err = CheckStreamUpdate(&old, &n)
			}
			c.check(t, n.Shown(recordedVersion), err)
		})
	}
}

func TestConsumerConfigNormalizeRecorded(t *testing.T) {
	type testCase struct {
		Name    string          `json:"name"`
		Stream  StreamConfig    `json:"stream"`
		Request json.RawMessage `json:"request"`
		answer
	}
	l := &Limits{Account: Unlimited()}
	call, ok := ParseCall("$JS.API.CONSUMER.CREATE.S.C")
	if !ok {
		t.Fatal("call not parsed")
	}
	for _, c := range recorded[testCase](t, "consumer_create.json") {
		t.Run(c.Name, func(t *testing.T) {
			s, err := c.Stream.Normalize(l, false)
			if err != nil {
				t.Fatal(err)
			}
			var r CreateConsumerRequest
			if err := Decode(c.Request, &r); err != nil {
				t.Fatal(err)
			}
			var n ConsumerConfig
			if err = r.Bind(&call); err == nil {
				n, err = r.Config.Normalize(&s, l, r.Pedantic)
			}
			if err == nil && s.Retention == WorkQueuePolicy {
				err = CheckWorkQueue(&n, maps.All(map[string]*ConsumerConfig{}))
			}
			if reason := unserved(consumerFeatures, &r.Config); reason != "" && c.Error == nil {
				c.answer = answer{Error: ErrConsumerCreateF(reason)}
			}
			c.check(t, n.Shown(recordedVersion), err)
		})
	}
}

func TestConsumerUpdateRecorded(t *testing.T) {
	type testCase struct {
		Name    string         `json:"name"`
		Stream  StreamConfig   `json:"stream"`
		Old     ConsumerConfig `json:"old"`
		Request ConsumerConfig `json:"request"`
		answer
	}
	l := &Limits{Account: Unlimited()}
	for _, c := range recorded[testCase](t, "consumer_update.json") {
		t.Run(c.Name, func(t *testing.T) {
			s, err := c.Stream.Normalize(l, false)
			if err != nil {
				t.Fatal(err)
			}
			old, err := c.Old.Normalize(&s, l, false)
			if err != nil {
				t.Fatal(err)
			}
			n, err := c.Request.Normalize(&s, l, false)
			if err == nil {
				err = CheckConsumerUpdate(&old, &n, false)
			}
			c.check(t, n.Shown(recordedVersion), err)
		})
	}
}

func TestCheckWorkQueueRecorded(t *testing.T) {
	type testCase struct {
		Name   string         `json:"name"`
		First  ConsumerConfig `json:"first"`
		Second ConsumerConfig `json:"second"`
		Error  *Error         `json:"error"`
	}
	for _, c := range recorded[testCase](t, "workqueue.json") {
		t.Run(c.Name, func(t *testing.T) {
			second := c.Second
			second.Name = second.Durable
			err := CheckWorkQueue(&second, maps.All(map[string]*ConsumerConfig{"A": &c.First, "C": &c.Second}))
			if (err == nil) != (c.Error == nil) || err != nil && *err != *c.Error {
				t.Errorf("error %v, want %v", err, c.Error)
			}
		})
	}
}

func TestCreateConsumerRequestBindRecorded(t *testing.T) {
	type testCase struct {
		Subject  string                `json:"subject"`
		Request  CreateConsumerRequest `json:"request"`
		Consumer string                `json:"consumer"`
		Error    *Error                `json:"error"`
	}
	for _, c := range recorded[testCase](t, "consumer_bind.json") {
		t.Run(c.Subject, func(t *testing.T) {
			call, ok := ParseCall(c.Subject)
			if !ok {
				t.Fatal("call not parsed")
			}
			err := c.Request.Bind(&call)
			if (err == nil) != (c.Error == nil) || err != nil && *err != *c.Error {
				t.Fatalf("error %v, want %v", err, c.Error)
			}
			if err == nil && c.Request.Config.Name != c.Consumer {
				t.Errorf("name %q, want %q", c.Request.Config.Name, c.Consumer)
			}
		})
	}
}
