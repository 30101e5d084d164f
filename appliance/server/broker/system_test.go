package broker_test

import (
	"encoding/json"
	"fmt"
	"strings"
	"testing"

	"millrace/appliance/server/broker"
)

func systemConfig() broker.Config {
	return broker.Config{
		ServerName: "srv", Version: "2.15.2", JetStream: true,
		VarzExtension: func() map[string]any { return map[string]any{"jetstream": map[string]int{"streams": 3}} },
		Accounts: []broker.AccountConfig{
			{Name: "$SYS", Users: []broker.UserConfig{{User: "sys", Pass: "p"}}},
			{Name: "A", Users: []broker.UserConfig{{User: "u", Pass: "p", Permissions: &broker.Permissions{
				Publish:        &broker.SubjectPermission{Allow: []string{"$SYS.REQ.>"}},
				Subscribe:      &broker.SubjectPermission{Deny: []string{"no"}},
				AllowResponses: &broker.ResponsePermission{},
			}}}},
		},
	}
}

// request sends a request and parses the one answer into out.
func (c *conn) request(subject, payload string, out any) {
	c.Helper()
	c.send(fmt.Sprintf("PUB %s inbox.x %d\r\n%s\r\n", subject, len(payload), payload))
	line := c.line()
	if !strings.HasPrefix(line, "MSG inbox.x 99 ") {
		c.Fatalf("request %s: got %q", subject, line)
	}
	doc := c.line()
	if err := json.Unmarshal([]byte(doc), out); err != nil {
		c.Fatalf("request %s: %v in %s", subject, err, doc)
	}
}

func requester(t *testing.T, b *broker.Broker, user string) *conn {
	c := pipe(t, b).hello(fmt.Sprintf(`CONNECT {"verbose":false,"user":%q,"pass":"p","name":"test","lang":"go"}`+"\r\n", user))
	c.send("SUB inbox.* 99\r\n")
	c.sync()
	return c
}

func TestSystemUserInfo(t *testing.T) {
	b := newBroker(t, systemConfig())
	var r struct {
		Server broker.ServerInfo
		Data   struct {
			User, Account string
			Permissions   struct {
				Publish, Subscribe struct{ Allow, Deny []string }
				Responses          struct{ Max, TTL int64 }
			}
		}
	}
	requester(t, b, "u").request("$SYS.REQ.USER.INFO", "", &r)
	if r.Server.ID != b.ID() || r.Server.Name != "srv" || r.Server.Flags != 1 || !r.Server.JetStream {
		t.Errorf("server %+v", r.Server)
	}
	if got := fmt.Sprint(r.Data); got != "{u A {{[$SYS.REQ.>] []} {[] [no]} {1 120000000000}}}" {
		t.Errorf("data %s", got)
	}
	var sys struct{ Data map[string]any }
	requester(t, b, "sys").request("$SYS.REQ.USER.INFO", "", &sys)
	if got := fmt.Sprint(sys.Data); got != "map[account:$SYS account_name:$SYS user:sys]" {
		t.Errorf("data %s", got)
	}
}

func TestSystemServerRequests(t *testing.T) {
	cfg := systemConfig()
	cfg.Tags, cfg.Domain = []string{"zone:a", "disk:ssd"}, "hub"
	b := newBroker(t, cfg)
	u := requester(t, b, "u")
	c := requester(t, b, "sys")
	c.send("PUB x 3\r\nabc\r\n")
	for _, subject := range []string{"$SYS.REQ.SERVER.PING", "$SYS.REQ.SERVER.PING.STATSZ", "$SYS.REQ.SERVER." + b.ID() + ".STATSZ"} {
		var s broker.Statsz
		c.request(subject, "{}", &s)
		if s.Server.ID != b.ID() || s.Stats.Connections != 2 || s.Stats.TotalConnections != 2 || s.Stats.ActiveAccounts != 2 ||
			s.Stats.Received.Msgs == 0 || s.Stats.Start.IsZero() || s.Stats.Cores == 0 || s.Stats.Mem == 0 {
			t.Errorf("%s: %+v", subject, s)
		}
	}
	var id map[string]string
	c.request("$SYS.REQ.SERVER.PING.IDZ", "", &id)
	if id["id"] != b.ID() || id["name"] != "srv" || id["host"] != "0.0.0.0" {
		t.Errorf("IDZ %v", id)
	}
	var v struct {
		Data struct {
			broker.Varz
			JetStream map[string]int `json:"jetstream"`
		}
	}
	c.request("$SYS.REQ.SERVER."+b.ID()+".VARZ", `{"server_name":"sr"}`, &v)
	if v.Data.ID != b.ID() || v.Data.MaxPayload != 1<<20 || v.Data.Connections != 2 || v.Data.SystemAccount != "$SYS" || !v.Data.AuthRequired ||
		v.Data.JetStream["streams"] != 3 {
		t.Errorf("VARZ %+v", v.Data)
	}
	var meant broker.Statsz
	c.request("$SYS.REQ.SERVER.PING", `{"domain":"hub","tags":["Zone:A"]}`, &meant)
	if meant.Server.Domain != "hub" || len(meant.Server.Tags) != 2 {
		t.Errorf("server %+v", meant.Server)
	}
	// A filter that names another server gets no answer.
	for _, filter := range []string{`{"domain":"other"}`, `{"tags":["zone:a","zone:b"]}`} {
		c.send(fmt.Sprintf("PUB $SYS.REQ.SERVER.PING inbox.x %d\r\n%s\r\n", len(filter), filter))
	}
	c.send("PUB $SYS.REQ.SERVER.PING.VARZ inbox.x 30\r\n" + `{"server_name":"other","x":12}` + "\r\n")
	c.send("PUB $SYS.REQ.SERVER.PING inbox.x 41\r\n" + `{"server_name":"sr","exact_match":true}  ` + "\r\n")
	c.sync()
	var bad struct{ Error struct{ Code int } }
	c.request("$SYS.REQ.SERVER.PING.CONNZ", `{`, &bad)
	if bad.Error.Code != 400 {
		t.Errorf("error %+v", bad)
	}
	c.request("$SYS.REQ.SERVER.PING.CONNZ", `{"sort":"nonsense"}`, &bad)
	if bad.Error.Code != 500 {
		t.Errorf("error %+v", bad)
	}
	var z struct{ Data broker.Connz }
	c.request("$SYS.REQ.SERVER.PING.CONNZ", `{"auth":true,"subscriptions_detail":true,"acc":"A"}`, &z)
	if len(z.Data.Conns) != 1 || z.Data.Total != 1 || z.Data.Limit != 1024 {
		t.Fatalf("CONNZ %+v", z.Data)
	}
	if i := z.Data.Conns[0]; i.User != "u" || i.Account != "A" || i.Name != "test" || i.NumSubs != 1 || i.Kind != "Client" ||
		len(i.SubsDetail) != 1 || i.SubsDetail[0].Subject != "inbox.*" || i.SubsDetail[0].SID != "99" {
		t.Errorf("connection %+v", i)
	}
	for _, sort := range []string{"cid", "subs", "pending", "msgs_to", "msgs_from", "bytes_to", "bytes_from", "last", "idle", "rtt"} {
		z.Data = broker.Connz{}
		c.request("$SYS.REQ.SERVER.PING.CONNZ", fmt.Sprintf(`{"sort":%q,"limit":1,"offset":1}`, sort), &z)
		if z.Data.NumConns != 1 || z.Data.Total != 2 || z.Data.Conns[0].User != "" {
			t.Errorf("sort %s: %+v", sort, z.Data)
		}
	}
	var r struct{ Error *struct{ Description string } }
	c.request("$SYS.REQ.SERVER."+b.ID()+".KICK", `{"cid":12345}`, &r)
	if r.Error == nil || r.Error.Description != "no such client id: 12345" {
		t.Errorf("kick of nobody: %+v", r.Error)
	}
	events := pipe(t, b).hello(login("sys", "p"))
	events.send("SUB $SYS.ACCOUNT.A.* 7\r\n")
	events.sync()
	r.Error = nil
	c.request("$SYS.REQ.SERVER."+b.ID()+".KICK", fmt.Sprintf(`{"cid":%d}`, u.info.ClientID), &r)
	if r.Error != nil {
		t.Errorf("kick: %+v", r.Error)
	}
	u.expectClosed()
	var e struct {
		Type, Reason string
		Client       struct {
			ID             uint64
			Acc, User, Ver string
		}
	}
	if line := events.line(); !strings.HasPrefix(line, "MSG $SYS.ACCOUNT.A.DISCONNECT 7 ") {
		t.Fatalf("got %q", line)
	}
	if err := json.Unmarshal([]byte(events.line()), &e); err != nil {
		t.Fatal(err)
	}
	if e.Type != "io.nats.server.advisory.v1.client_disconnect" || e.Reason != "Kicked" || e.Client.ID != u.info.ClientID ||
		e.Client.Acc != "A" || e.Client.User != "u" {
		t.Errorf("advisory %+v", e)
	}
	requester(t, b, "u")
	if line := events.line(); !strings.HasPrefix(line, "MSG $SYS.ACCOUNT.A.CONNECT 7 ") {
		t.Fatalf("got %q", line)
	}
}
