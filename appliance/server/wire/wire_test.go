package wire

import (
	"encoding/json"
	"strings"
	"testing"
)

func TestAppendLines(t *testing.T) {
	for _, c := range []struct{ got, want string }{
		{string(AppendErr(nil, TextStaleConnection)), "-ERR 'Stale Connection'\r\n"},
		{string(AppendMsg(nil, []byte("a.b"), []byte("7"), nil, nil, []byte("12"))), "MSG a.b 7 12\r\n"},
		{string(AppendMsg(nil, []byte("a.b"), []byte("7"), []byte("r"), nil, []byte("0"))), "MSG a.b 7 r 0\r\n"},
		{string(AppendMsg(nil, []byte("a.b"), []byte("7"), nil, []byte("12"), []byte("15"))), "HMSG a.b 7 12 15\r\n"},
		{string(AppendMsg(nil, []byte("a.b"), []byte("7"), []byte("r"), []byte("12"), []byte("12"))), "HMSG a.b 7 r 12 12\r\n"},
		{string(AppendStatus(nil, 404, "No Messages")), "NATS/1.0 404 No Messages\r\n\r\n"},
		{string(AppendStatus(nil, 100, "")), "NATS/1.0 100\r\n\r\n"},
		{string(AppendNoResponders(nil, []byte("a"))), "NATS/1.0 503\r\nNats-Subject: a\r\n\r\n"},
		{string(AppendHeader(nil, nil, "A", "b")), "NATS/1.0\r\nA: b\r\n\r\n"},
		{string(AppendHeader(nil, []byte("NATS/1.0\r\nA: b\r\n\r\n"), "C", "d")), "NATS/1.0\r\nA: b\r\nC: d\r\n\r\n"},
	} {
		if c.got != c.want {
			t.Errorf("got %q, want %q", c.got, c.want)
		}
	}
}

func TestHeader(t *testing.T) {
	hdr := []byte("NATS/1.0 503\r\nKey: one\r\nkey:two \r\nOther-Key: 3\r\nEmpty:\r\nKey: four\r\n\r\nbody\r\nLate: x\r\n")
	for key, want := range map[string]string{"Key": "one", "key": "two", "Other-Key": "3", "Empty": ""} {
		if got := Header(hdr, key); got == nil || string(got) != want {
			t.Errorf("Header(%q) = %q, want %q", key, got, want)
		}
	}
	for _, key := range []string{"KEY", "ey", "Late", "NATS/1.0 503", "Other", ""} {
		if got := Header(hdr, key); got != nil {
			t.Errorf("Header(%q) = %q, want none", key, got)
		}
	}
	for _, bad := range []string{"", "NATS/1.0", "NATS/1.0\r\n", "NATS/1.0\r\nKey: x"} {
		if got := Header([]byte(bad), "Key"); got != nil {
			t.Errorf("Header of %q = %q", bad, got)
		}
	}
	for in, want := range map[string]int{
		string(hdr): 503, "NATS/1.0\r\n\r\n": 0, "NATS/1.0 404 No Messages\r\n\r\n": 404, "NATS/1.0 x": 0, "NATS/1.0 xyz": 0, "": 0,
	} {
		if got := Status([]byte(in)); got != want {
			t.Errorf("Status(%q) = %d, want %d", in, got, want)
		}
	}
}

func FuzzHeader(f *testing.F) {
	f.Add([]byte("NATS/1.0\r\nA: b\r\n\r\n"), "A")
	f.Add([]byte("NATS/1.0 503\r\n\r\n"), "NATS/1.0 503")
	f.Add([]byte("\r\n:\r\n\r\n"), "")
	f.Fuzz(func(t *testing.T, hdr []byte, key string) {
		value := Header(hdr, key)
		if value != nil && !strings.Contains(string(hdr), key+":") {
			t.Errorf("Header(%q, %q) = %q", hdr, key, value)
		}
		Status(hdr)
	})
}

func TestInfoFieldNames(t *testing.T) {
	line := AppendInfo(nil, &Info{ServerID: "N1", Version: "2.15.0", Proto: 1, Headers: true, MaxPayload: 5, JetStream: true,
		ClientID: 3, ClientIP: "::1", Nonce: "n", LameDuck: true, ConnectInfo: true, RemoteAccount: "A", APILevel: 5})
	doc := strings.TrimSuffix(strings.TrimPrefix(string(line), "INFO "), "\r\n")
	if "INFO "+doc+"\r\n" != string(line) {
		t.Fatalf("line %q", line)
	}
	var m map[string]any
	if err := json.Unmarshal([]byte(doc), &m); err != nil {
		t.Fatal(err)
	}
	for key, want := range map[string]any{"server_id": "N1", "version": "2.15.0", "proto": 1.0, "headers": true,
		"max_payload": 5.0, "jetstream": true, "client_id": 3.0, "client_ip": "::1", "nonce": "n", "ldm": true,
		"connect_info": true, "remote_account": "A", "api_lvl": 5.0} {
		if m[key] != want {
			t.Errorf("%s = %v, want %v", key, m[key], want)
		}
	}
}

func TestConnectKeepsWhatIsNotNamed(t *testing.T) {
	c := DefaultConnect()
	if err := c.Parse([]byte(`{"verbose":false,"user":"u","protocol":1,"unknown":[1]}`)); err != nil {
		t.Fatal(err)
	}
	if c.Verbose || !c.Pedantic || !c.Echo || c.User != "u" || c.Protocol != 1 {
		t.Errorf("got %+v", c)
	}
	if err := c.Parse([]byte(`{"verbose":"x"}`)); err == nil {
		t.Errorf("a wrong type was accepted")
	}
	if err := c.Parse([]byte(`{`)); err == nil {
		t.Errorf("truncated JSON was accepted")
	}
}
