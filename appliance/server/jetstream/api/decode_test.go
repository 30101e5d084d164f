package api

import "testing"

func TestDecodeRefusesWithTheReason(t *testing.T) {
	for _, c := range []struct{ body, want string }{
		// The texts are those of nats-server 2.15.2.
		{`{"name":"A","foo":1}`, `invalid JSON: json: unknown field "foo"`},
		{`{"name":"A"`, `invalid JSON: unexpected EOF`},
		{`{"name":3}`, `invalid JSON: json: cannot unmarshal number into Go struct field StreamConfigRequest.StreamConfig.name of type string`},
		{`{"name":"A","retention":"x"}`, `invalid JSON: can not unmarshal "\"x\""`},
		{`{"name":"A","retention":null}`, `invalid JSON: can not unmarshal "null"`},
		{`{"name":"A","max_msg_size":3000000000}`, `invalid JSON: json: cannot unmarshal number 3000000000 into Go struct field StreamConfigRequest.StreamConfig.max_msg_size of type int32`},
		{`{"name":"A","compression":"zip"}`, `invalid JSON: unknown compression algorithm`},
		{`{"name" "A"}`, `invalid JSON: invalid character '"' after object key at offset 9`},
	} {
		var r StreamConfigRequest
		err := Decode([]byte(c.body), &r)
		if err == nil || err.ErrCode != 10025 || err.Code != 400 || err.Description != c.want {
			t.Errorf("Decode(%s) = %+v, want 10025 %s", c.body, err, c.want)
		}
	}
	var consumer CreateConsumerRequest
	for _, c := range []struct{ body, want string }{
		{`{"stream_name":"S","action":"x"}`, `invalid JSON: unknown consumer action: "x"`},
		{`{"stream_name":"S","config":{"priority_policy":"x"}}`, `invalid JSON: unknown priority policy: "x"`},
		{`{"stream_name":"S","config":{"ack_policy":"x"}}`, `invalid JSON: can not unmarshal "\"x\""`},
		{`{"stream_name":"S","config":{"deliver_policy":"x"}}`, `invalid JSON: can not unmarshal "\"x\""`},
		{`{"stream_name":"S","config":{"replay_policy":7}}`, `invalid JSON: can not unmarshal "7"`},
	} {
		if err := Decode([]byte(c.body), &consumer); err == nil || err.Description != c.want {
			t.Errorf("Decode(%s) = %+v, want %s", c.body, err, c.want)
		}
	}
}

func TestDecodeOfNothingChangesNothing(t *testing.T) {
	r := StreamNamesRequest{Subject: "a"}
	for _, body := range []string{"", "  ", "{}"} {
		if err := Decode([]byte(body), &r); err != nil || r.Subject != "a" {
			t.Errorf("Decode(%q) = %v, %+v", body, err, r)
		}
	}
	for _, body := range []string{"", "x", " 7"} {
		if err := DecodeOptional([]byte(body), &r); err != nil || r.Subject != "a" {
			t.Errorf("DecodeOptional(%q) = %v, %+v", body, err, r)
		}
	}
	if err := DecodeOptional([]byte(` {"offset":3}`), &r); err != nil || r.Offset != 3 {
		t.Errorf("DecodeOptional = %v, %+v", err, r)
	}
	if err := DecodeOptional([]byte(`{"x":3}`), &r); err == nil {
		t.Error("DecodeOptional takes an unknown field")
	}
}

func TestCheckEmpty(t *testing.T) {
	for body, ok := range map[string]bool{"": true, "{}": true, " {} ": true, "x": false, `{"x":1}`: false, "null": false, "[]": false} {
		if err := CheckEmpty([]byte(body)); (err == nil) != ok {
			t.Errorf("CheckEmpty(%q) = %v", body, err)
		}
	}
}

func TestMsgGetRequestCheck(t *testing.T) {
	for body, ok := range map[string]bool{
		`{"seq":1}`: true, `{"last_by_subj":"a"}`: true, `{"next_by_subj":"a"}`: true, `{"seq":1,"next_by_subj":"a"}`: true,
		`{"start_time":"2024-01-01T00:00:00Z"}`: true, `{"start_time":"2024-01-01T00:00:00Z","next_by_subj":"a"}`: true,
		`{}`: false, `{"seq":1,"last_by_subj":"a"}`: false, `{"last_by_subj":"a","next_by_subj":"b"}`: false,
		`{"seq":1,"batch":2}`: false, `{"seq":1,"max_bytes":2}`: false, `{"seq":1,"start_time":"2024-01-01T00:00:00Z"}`: false,
	} {
		var r MsgGetRequest
		if err := Decode([]byte(body), &r); err != nil {
			t.Fatal(err)
		}
		if err := r.Check(); (err == nil) != ok {
			t.Errorf("Check of %s = %v", body, err)
		}
	}
	if err := (&StreamPurgeRequest{Sequence: 1, Keep: 2}).Check(); err != ErrBadRequest {
		t.Errorf("purge with seq and keep: %v", err)
	}
}

func TestMsgGetRequestConsistent(t *testing.T) {
	for body, ok := range map[string]bool{
		`{"seq":1}`: true, `{"seq":1,"batch":2}`: true, `{"last_by_subj":"a"}`: true, `{"multi_last":["a"],"seq":3,"batch":2}`: true,
		`{"start_time":"2024-01-01T00:00:00Z","next_by_subj":"a","batch":2}`: true, `{"multi_last":["a"],"up_to_seq":3}`: true,
		`{"seq":1,"last_by_subj":"a"}`: false, `{"seq":1,"start_time":"2024-01-01T00:00:00Z"}`: false,
		`{"last_by_subj":"a","start_time":"2024-01-01T00:00:00Z"}`: false, `{"last_by_subj":"a","next_by_subj":"a"}`: false,
		`{"last_by_subj":"a","batch":1}`: false, `{"last_by_subj":"a","multi_last":["a"]}`: false,
		`{"next_by_subj":"a","multi_last":["a"]}`: false, `{"multi_last":["a"],"up_to_seq":3,"up_to_time":"2024-01-01T00:00:00Z"}`: false,
	} {
		var r MsgGetRequest
		if err := Decode([]byte(body), &r); err != nil {
			t.Fatal(err)
		}
		if r.Consistent() != ok {
			t.Errorf("Consistent of %s = %t", body, !ok)
		}
		if !r.Selects() {
			t.Errorf("%s selects nothing", body)
		}
	}
	for _, r := range []MsgGetRequest{{}, {NoHeaders: true, MaxBytes: 5}} {
		if r.Selects() {
			t.Errorf("%+v selects messages", r)
		}
	}
}

func TestEnumsRoundTrip(t *testing.T) {
	for i := range uint8(6) {
		for _, n := range []names{retentionNames, discardNames, storageNames, compressionNames, persistNames,
			deliverNames, ackNames, replayNames, priorityNames, actionNames} {
			b, err := n.marshal(i)
			if (err == nil) != (int(i) < len(n)) {
				t.Fatalf("marshal %v(%d): %s, %v", n, i, b, err)
			}
			if err != nil {
				continue
			}
			if v, ok := n.parse(b); !ok || v != i {
				t.Errorf("parse %s = %d, %v, want %d", b, v, ok, i)
			}
		}
	}
	d := DeliverNew
	if err := d.UnmarshalJSON([]byte(`"undefined"`)); err != nil || d != DeliverAll {
		t.Errorf("undefined deliver policy: %v, %v", d, err)
	}
	p := AsyncPersistMode
	if err := p.UnmarshalJSON([]byte(`""`)); err != nil || p != DefaultPersistMode {
		t.Errorf("empty persist mode: %v, %v", p, err)
	}
	if got := Retention(9).String(); got != "unknown(9)" {
		t.Errorf("String of an unknown value: %q", got)
	}
}
