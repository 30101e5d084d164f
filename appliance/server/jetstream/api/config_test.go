package api

import (
	"encoding/json"
	"maps"
	"strings"
	"testing"
	"time"
)

// TestUnservedFeaturesAreRefusedByName uses every feature of the tables, served or not.
func TestUnservedFeaturesAreRefusedByName(t *testing.T) {
	l := &Limits{Account: Unlimited()}
	streams := map[string]string{
		"mirror":                    `{"name":"S","mirror":{"name":"T"}}`,
		"sources":                   `{"name":"S","sources":[{"name":"T"}]}`,
		"compression s2":            `{"name":"S","compression":"s2"}`,
		"persist_mode async":        `{"name":"S","persist_mode":"async"}`,
		"allow_msg_counter":         `{"name":"S","allow_msg_counter":true}`,
		"allow_atomic":              `{"name":"S","allow_atomic":true}`,
		"allow_batched":             `{"name":"S","allow_batched":true}`,
		"allow_msg_schedules":       `{"name":"S","allow_msg_schedules":true}`,
		"allow_msg_ttl":             `{"name":"S","allow_msg_ttl":true}`,
		"subject_delete_marker_ttl": `{"name":"S","subject_delete_marker_ttl":1000000000}`,
		"subject_transform":         `{"name":"S","subject_transform":{"src":"S","dest":"T"}}`,
		"republish":                 `{"name":"S","republish":{"src":"S","dest":"T"}}`,
	}
	for _, f := range streamFeatures {
		var c StreamConfig
		if err := Decode([]byte(streams[f.key]), &c); err != nil {
			t.Fatal(err)
		}
		if !f.used(&c) {
			t.Errorf("%s is not used by its example", f.key)
		}
		_, err := c.Normalize(l, false)
		if f.served != (err == nil) || err != nil && *err != *ErrStreamInvalidConfigF(f.key + " is not supported") {
			t.Errorf("%s, served %v: %v", f.key, f.served, err)
		}
	}
	consumers := map[string]string{
		"ack_policy flow_control": `{"ack_policy":"flow_control","deliver_subject":"d","max_ack_pending":1}`,
		"priority_policy":         `{"priority_groups":["A"],"priority_policy":"overflow"}`,
		"priority_groups":         `{"priority_groups":["A"]}`,
		"priority_timeout":        `{"priority_timeout":1}`,
		"direct":                  `{"direct":true,"deliver_subject":"d"}`,
		"sourcing":                `{"sourcing":true}`,
	}
	s, err := (&StreamConfig{Name: "S"}).Normalize(l, false)
	if err != nil {
		t.Fatal(err)
	}
	for _, f := range consumerFeatures {
		var c ConsumerConfig
		if err := Decode([]byte(consumers[f.key]), &c); err != nil {
			t.Fatal(err)
		}
		if !f.used(&c) {
			t.Errorf("%s is not used by its example", f.key)
		}
		_, err := c.Normalize(&s, l, false)
		if f.served != (err == nil) || err != nil && *err != *ErrConsumerCreateF(f.key + " is not supported") {
			t.Errorf("%s, served %v: %v", f.key, f.served, err)
		}
	}
}

func TestClusteredStreamsMayHaveReplicas(t *testing.T) {
	c := StreamConfig{Name: "S", Replicas: 3}
	s, err := c.Normalize(&Limits{Account: Unlimited(), Clustered: true}, false)
	if err != nil || s.Replicas != 3 {
		t.Errorf("clustered: %v", err)
	}
	if _, err := c.Normalize(&Limits{Account: Unlimited()}, false); err != ErrStreamReplicasNotSupported {
		t.Errorf("single: %v", err)
	}
	w := s
	w.Retention = WorkQueuePolicy
	for replicas, want := range map[int]*Error{0: nil, 1: ErrConsumerReplicasShouldMatchStream, 3: nil, 4: ErrConsumerReplicasExceedsStream} {
		_, err := (&ConsumerConfig{AckPolicy: AckExplicit, Replicas: replicas}).Normalize(&w, &Limits{Account: Unlimited(), Clustered: true}, false)
		if err != want {
			t.Errorf("%d replicas: %v, want %v", replicas, err, want)
		}
	}
}

func TestLimitsApply(t *testing.T) {
	account := Unlimited()
	account.MaxConsumers, account.MaxBytesRequired, account.StoreMaxStreamBytes, account.MaxAckPending = 3, true, 100, 50
	l := &Limits{Account: account, DuplicateWindow: time.Minute, MaxAckPending: 40, MaxRequestBatch: 7}
	for _, c := range []struct {
		config StreamConfig
		want   *Error
	}{
		{StreamConfig{Name: "S"}, ErrStreamMaxBytesRequired},
		{StreamConfig{Name: "S", MaxBytes: 101}, ErrStreamMaxStreamBytesExceeded},
		{StreamConfig{Name: "S", MaxBytes: 100, MaxConsumers: 4}, ErrMaximumConsumersLimit},
		{StreamConfig{Name: "S", MaxBytes: 100, Duplicates: 2 * time.Minute},
			ErrStreamInvalidConfigF("duplicates window can not be larger then server limit of 1m0s")},
		{StreamConfig{Name: "S", MaxBytes: 100, Retention: 9}, ErrStreamInvalidConfigF("invalid retention")},
	} {
		if _, err := c.config.Normalize(l, false); err == nil || *err != *c.want {
			t.Errorf("%+v: %v, want %v", c.config, err, c.want)
		}
	}
	s, err := (&StreamConfig{Name: "S", MaxBytes: 100}).Normalize(l, false)
	if err != nil {
		t.Fatal(err)
	}
	if s.Duplicates != time.Minute {
		t.Errorf("duplicate window %v, want the limit", s.Duplicates)
	}
	c, err := (&ConsumerConfig{Durable: "C", AckPolicy: AckExplicit}).Normalize(&s, l, false)
	if err != nil {
		t.Fatal(err)
	}
	if c.MaxAckPending != 40 || c.MaxRequestBatch != 7 {
		t.Errorf("max ack pending %d, max batch %d, want 40, 7", c.MaxAckPending, c.MaxRequestBatch)
	}
	if _, err := (&ConsumerConfig{AckPolicy: AckExplicit, MaxAckPending: 41}).Normalize(&s, l, false); err == nil || err.ErrCode != 10121 {
		t.Errorf("max ack pending over the limit: %v", err)
	}
	if _, err := (&ConsumerConfig{MaxRequestBatch: 8}).Normalize(&s, l, false); err == nil || err.ErrCode != 10125 {
		t.Errorf("max batch over the limit: %v", err)
	}
	if _, err := (&ConsumerConfig{Name: strings.Repeat("n", 256)}).Normalize(&s, l, false); err == nil || err.ErrCode != 10102 {
		t.Errorf("long name: %v", err)
	}
	if _, err := (&ConsumerConfig{Name: "a b"}).Normalize(&s, l, false); err == nil || err.ErrCode != 10052 {
		t.Errorf("name with a space: %v", err)
	}
}

func TestLimitsConsumersOf(t *testing.T) {
	for _, c := range []struct{ stream, account, server, want int }{
		{-1, -1, 0, 0}, {-1, -1, 1000, 1000}, {5, -1, 1000, 5}, {5, 3, 1000, 3}, {3, 5, 1000, 3}, {-1, 4, 1000, 4},
	} {
		l := &Limits{Account: AccountLimits{MaxConsumers: c.account}, MaxConsumers: c.server}
		if got := l.ConsumersOf(&StreamConfig{MaxConsumers: c.stream}); got != c.want {
			t.Errorf("%+v: %d", c, got)
		}
	}
}

func TestLimitsCheckReservation(t *testing.T) {
	a := Unlimited()
	a.MaxStore = 100
	l := &Limits{Account: a, MaxStore: 150}
	for _, c := range []struct {
		maxBytes, account, server int64
		ok                        bool
	}{
		{100, 0, 0, true}, {101, 0, 0, false}, {50, 51, 0, false}, {50, 50, 100, true}, {50, 50, 101, false},
		{-1, 99, 0, true}, {-1, 100, 0, false},
	} {
		s := StreamConfig{MaxBytes: c.maxBytes, Replicas: 1}
		err := l.CheckReservation(&s, c.account, c.server)
		if (err == nil) != c.ok || err != nil && err != ErrStorageResourcesExceeded {
			t.Errorf("%+v: %v", c, err)
		}
	}
	s := StreamConfig{MaxBytes: 1 << 40, Replicas: 1, Storage: MemoryStorage}
	if err := l.CheckReservation(&s, 0, 0); err != nil {
		t.Errorf("memory is not limited: %v", err)
	}
}

func TestCheckConsumerLimits(t *testing.T) {
	old := StreamConfig{}
	next := StreamConfig{ConsumerLimits: ConsumerLimits{MaxAckPending: 5}}
	consumers := map[string]*ConsumerConfig{"b": {MaxAckPending: 6}, "a": {MaxAckPending: 7}, "c": {MaxAckPending: 5}}
	err := CheckConsumerLimits(&old, &next, consumers)
	if want := ErrStreamUpdateF("change to limits violates consumers: a, b"); err == nil || *err != *want {
		t.Errorf("got %v, want %v", err, want)
	}
	if err := CheckConsumerLimits(&next, &next, consumers); err != nil {
		t.Errorf("unchanged limits: %v", err)
	}
}

func TestCheckConsumerUpdateOfBoundDeliverSubject(t *testing.T) {
	old, next := ConsumerConfig{DeliverSubject: "a"}, ConsumerConfig{DeliverSubject: "b"}
	if err := CheckConsumerUpdate(&old, &next, true); err != ErrConsumerNameExist {
		t.Errorf("bound: %v", err)
	}
	if err := CheckConsumerUpdate(&old, &next, false); err != nil {
		t.Errorf("not bound: %v", err)
	}
}

func TestCheckWorkQueueNeedsExplicitAcksOfAll(t *testing.T) {
	none := maps.All(map[string]*ConsumerConfig{})
	if err := CheckWorkQueue(&ConsumerConfig{AckPolicy: AckAll}, none); err != ErrConsumerWQRequiresExplicitAck {
		t.Errorf("ack all: %v", err)
	}
	if err := CheckWorkQueue(&ConsumerConfig{AckPolicy: AckExplicit, DeliverPolicy: DeliverNew}, none); err != ErrConsumerWQConsumerNotDeliverAll {
		t.Errorf("deliver new: %v", err)
	}
}

func TestSealedStreamCanNotBeUnsealed(t *testing.T) {
	old, next := StreamConfig{Name: "S", Sealed: true}, StreamConfig{Name: "S"}
	if _, err := CheckStreamUpdate(&old, &next); err == nil || err.Description != "stream configuration update can not unseal a sealed stream" {
		t.Errorf("got %v", err)
	}
}

func TestLevelServed(t *testing.T) {
	for value, want := range map[string]bool{"": true, "0": true, "5": true, "6": false, "x": false} {
		if got := LevelServed(value); got != want {
			t.Errorf("LevelServed(%q) = %v", value, got)
		}
	}
}

func TestShownDoesNotChangeTheStored(t *testing.T) {
	c := StreamConfig{Metadata: map[string]string{"a": "b"}}
	shown := c.Shown("1.2.3")
	if len(c.Metadata) != 1 || shown.Metadata["_nats.ver"] != "1.2.3" || shown.Metadata["_nats.level"] != "5" || shown.Metadata["a"] != "b" {
		t.Errorf("stored %v, shown %v", c.Metadata, shown.Metadata)
	}
}

func TestConsumerConfigWithPause(t *testing.T) {
	until := time.Date(2099, 1, 1, 2, 0, 0, 0, time.FixedZone("", 7200))
	c := ConsumerConfig{Metadata: map[string]string{"a": "b"}}
	paused := c.WithPause(&until)
	if paused.PauseUntil.Format(time.RFC3339) != "2099-01-01T00:00:00Z" || paused.Metadata["_nats.req.level"] != "1" {
		t.Errorf("paused: %+v", paused)
	}
	for _, resumed := range []ConsumerConfig{paused.WithPause(nil), paused.WithPause(&time.Time{})} {
		if resumed.PauseUntil != nil || resumed.Metadata["_nats.req.level"] != "0" {
			t.Errorf("resumed: %+v", resumed)
		}
	}
	if c.PauseUntil != nil || len(c.Metadata) != 1 {
		t.Errorf("the receiver changed: %+v", c)
	}
}

// TestDeleteMarkersNeedTTLsAndRollups checks the rules of ADR-43 that hold once the feature is on.
func TestDeleteMarkersNeedTTLsAndRollups(t *testing.T) {
	for _, c := range []struct {
		ttl      time.Duration
		pedantic bool
		want     string
	}{
		{time.Second, false, ""},
		{time.Millisecond, false, "subject delete marker TTL must be at least 1 second"},
		{-1, false, "subject delete marker TTL must not be negative"},
		{time.Second, true, "subject delete marker cannot be set if message TTLs are disabled"},
	} {
		s := StreamConfig{SubjectDeleteMarkerTTL: c.ttl, DenyPurge: true}
		err := s.checkPermissions(c.pedantic)
		if (err == nil) != (c.want == "") || err != nil && err.Description != c.want {
			t.Errorf("%+v: %v", c, err)
		}
		if err == nil && (!s.AllowMsgTTL || !s.AllowRollup || s.DenyPurge) {
			t.Errorf("%+v: %+v", c, s)
		}
	}
}

func TestCloneIsDeep(t *testing.T) {
	now := time.Unix(1, 0)
	s := StreamConfig{Subjects: []string{"a"}, Placement: &Placement{Tags: []string{"t"}}, Mirror: &StreamSource{OptStartTime: &now},
		Sources: []*StreamSource{{Name: "x", External: &ExternalStream{}}}, Metadata: map[string]string{"k": "v"}}
	n := s.Clone()
	n.Subjects[0], n.Placement.Tags[0], n.Sources[0].Name, n.Metadata["k"] = "b", "u", "y", "w"
	*n.Mirror.OptStartTime, n.Sources[0].External.APIPrefix = time.Unix(2, 0), "p"
	if s.Subjects[0] != "a" || s.Placement.Tags[0] != "t" || s.Sources[0].Name != "x" || s.Metadata["k"] != "v" ||
		!s.Mirror.OptStartTime.Equal(time.Unix(1, 0)) || s.Sources[0].External.APIPrefix != "" {
		t.Errorf("changed through the clone: %+v", s)
	}
	c := ConsumerConfig{FilterSubjects: []string{"a"}, BackOff: []time.Duration{1}, Metadata: map[string]string{"k": "v"}, PauseUntil: &now}
	m := c.Clone()
	m.FilterSubjects[0], m.BackOff[0], m.Metadata["k"] = "b", 2, "w"
	*m.PauseUntil = time.Unix(3, 0)
	if c.FilterSubjects[0] != "a" || c.BackOff[0] != 1 || c.Metadata["k"] != "v" || now.Unix() != 1 {
		t.Errorf("changed through the clone: %+v", c)
	}
}

// FuzzStreamConfigNormalize feeds request bodies: what is accepted must be accepted again, changed
// no more, and written and read back the same.
func FuzzStreamConfigNormalize(f *testing.F) {
	f.Add(`{"name":"S","subjects":["a.>"],"max_age":1000000000}`)
	f.Add(`{"name":"S","subjects":["a.*"],"republish":{"src":"a.*","dest":"b.$1"},"metadata":{"_nats.ver":"x"}}`)
	f.Add(`{"name":"S","retention":"workqueue","discard":"NEW","placement":{}}`)
	f.Fuzz(func(t *testing.T, body string) {
		var r StreamConfigRequest
		if Decode([]byte(body), &r) != nil {
			return
		}
		l := &Limits{Account: Unlimited()}
		n, err := r.Normalize(l, false)
		if err != nil {
			return
		}
		again, err := n.Normalize(l, false)
		if err != nil || !again.Equal(&n) {
			t.Fatalf("normalized again: %v, %+v, want %+v", err, again, n)
		}
		data, jerr := json.Marshal(&n)
		if jerr != nil {
			t.Fatal(jerr)
		}
		var back StreamConfig
		if err := Decode(data, &back); err != nil || !back.Equal(&n) {
			t.Fatalf("read back: %v, %+v, want %+v", err, back, n)
		}
	})
}

// TestRePublishMustNotCycle checks the rules of ADR-28 that hold once the feature is on.
func TestRePublishMustNotCycle(t *testing.T) {
	for _, c := range []struct {
		source, destination string
		pedantic            bool
		want                string
	}{
		{"a.*", "b.$1", false, ""},
		{"", "b.>", false, ""},
		{"", "b.>", true, "pedantic mode: republish source can not be empty"},
		{"a.*", "a.x.$1", false, "stream configuration for republish destination forms a cycle"},
		{"a.*", "b.$2", false, "stream configuration for republish with transform from 'a.*' to 'b.$2' not valid"},
		{">", ">", false, "stream configuration for republish destination forms a cycle"},
	} {
		s := StreamConfig{Subjects: []string{"a.>"}, RePublish: &RePublish{Source: c.source, Destination: c.destination}}
		err := s.checkRePublish(c.pedantic)
		if (err == nil) != (c.want == "") || err != nil && err.Description != c.want {
			t.Errorf("%+v: %v", c, err)
		}
		if err == nil && s.RePublish.Source == "" {
			t.Errorf("%+v: an empty source is stored", c)
		}
	}
	s := StreamConfig{Subjects: []string{"a.>"}, SubjectTransform: &SubjectTransform{Source: "a.>", Destination: "x.>"},
		RePublish: &RePublish{Source: ">", Destination: ">"}}
	if err := s.checkRePublish(true); err == nil || err.ErrCode != 10157 {
		t.Errorf("implicit, pedantic: %v", err)
	}
	if err := s.checkRePublish(false); err != nil || *s.RePublish != (RePublish{Source: "x.>", Destination: "x.>"}) {
		t.Errorf("implicit: %v, %+v", err, s.RePublish)
	}
}
