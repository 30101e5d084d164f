package api

import (
	"bytes"
	"encoding/json"
	"os"
	"testing"
)

// TestResponsesRecorded reads every response of nats-server in testdata into our types, unknown
// fields refused, and writes it again: the bytes must be the same.
func TestResponsesRecorded(t *testing.T) {
	types := map[string]func() any{
		TypeAccountInfo:    func() any { return &AccountInfoResponse{} },
		TypeStreamCreate:   func() any { return &StreamCreateResponse{} },
		TypeStreamUpdate:   func() any { return &StreamUpdateResponse{} },
		TypeStreamDelete:   func() any { return &StreamDeleteResponse{} },
		TypeStreamInfo:     func() any { return &StreamInfoResponse{} },
		TypeStreamNames:    func() any { return &StreamNamesResponse{} },
		TypeStreamList:     func() any { return &StreamListResponse{} },
		TypeStreamPurge:    func() any { return &StreamPurgeResponse{} },
		TypeMsgGet:         func() any { return &MsgGetResponse{} },
		TypeMsgDelete:      func() any { return &MsgDeleteResponse{} },
		TypeConsumerCreate: func() any { return &ConsumerCreateResponse{} },
		TypeConsumerInfo:   func() any { return &ConsumerInfoResponse{} },
		TypeConsumerNames:  func() any { return &ConsumerNamesResponse{} },
		TypeConsumerList:   func() any { return &ConsumerListResponse{} },
		TypeConsumerDelete: func() any { return &ConsumerDeleteResponse{} },
		TypeConsumerPause:  func() any { return &ConsumerPauseResponse{} },
		TypeConsumerReset:  func() any { return &ConsumerResetResponse{} },
		"":                 func() any { return &PubAckResponse{} },
	}
	for _, typ := range []string{
		TypeStreamStepDown, TypeConsumerStepDown, TypeMetaStepDown, TypeStreamPeerRemove, TypeStreamPeerEvacuate,
		TypeStreamCancelMove, TypeServerRemove,
	} {
		types[typ] = func() any { return &SuccessResponse{} }
	}
	data, err := os.ReadFile("testdata/responses.txt")
	if err != nil {
		t.Fatal(err)
	}
	seen := map[string]bool{}
	for line := range bytes.Lines(data) {
		line = bytes.TrimSpace(line)
		var head Response
		if err := json.Unmarshal(line, &head); err != nil {
			t.Fatalf("%s: %v", line, err)
		}
		create := types[head.Type]
		if create == nil {
			t.Fatalf("unknown type in %s", line)
		}
		seen[head.Type] = true
		v := create()
		if err := Decode(line, v); err != nil {
			t.Errorf("%s: %v", line, err)
			continue
		}
		got, err := json.Marshal(v)
		if err != nil {
			t.Fatal(err)
		}
		if !bytes.Equal(got, line) {
			t.Errorf("written again\n got %s\nwant %s", got, line)
		}
	}
	for typ := range types {
		if !seen[typ] {
			t.Errorf("no response of type %q in testdata", typ)
		}
	}
}

// TestServerRecorded does so for the data of answers to requests to a server, the verb first.
func TestServerRecorded(t *testing.T) {
	data, err := os.ReadFile("testdata/server.txt")
	if err != nil {
		t.Fatal(err)
	}
	for line := range bytes.Lines(data) {
		verb, want, _ := bytes.Cut(bytes.TrimSpace(line), []byte(" "))
		v := map[string]any{"JSZ": &JSInfo{}, "HEALTHZ": &HealthStatus{}}[string(verb)]
		if err := Decode(want, v); err != nil {
			t.Errorf("%s: %v", line, err)
			continue
		}
		got, err := json.Marshal(v)
		if err != nil {
			t.Fatal(err)
		}
		if !bytes.Equal(got, want) {
			t.Errorf("%s written again\n got %s\nwant %s", verb, got, want)
		}
	}
}

func TestPage(t *testing.T) {
	all := []int{1, 2, 3, 4, 5}
	for _, c := range []struct {
		offset, limit int
		want          string
		at            int
	}{
		{0, 2, "[1,2]", 0}, {4, 2, "[5]", 4}, {9, 2, "[]", 5}, {-3, 2, "[1,2]", 0}, {0, 100, "[1,2,3,4,5]", 0},
	} {
		page, p := Page(all, c.offset, c.limit)
		got, err := json.Marshal(page)
		if err != nil {
			t.Fatal(err)
		}
		if string(got) != c.want || p != (Paged{Total: 5, Offset: c.at, Limit: c.limit}) {
			t.Errorf("Page(%d, %d) = %s, %+v, want %s at %d", c.offset, c.limit, got, p, c.want, c.at)
		}
	}
	if page, _ := Page[int](nil, 0, 5); page == nil {
		t.Error("an empty page is null in JSON")
	}
}
