package jetstream

import (
	"bytes"
	"fmt"
	"strings"

	"millrace/appliance/server/jetstream/api"
	"millrace/appliance/server/wire"
)

// A request about a stream concerns its leader alone. Where the client is it is known who that is, mostly, and the
// other nodes need not be woken for it: it is settled here when this node leads, or passed to the leader. Who gets it
// and leads no more has it go to all, as when nobody knows.

// headerPassed is what a passed request has in front of its own headers: its subject, the one of its answer, and the
// account, between spaces. It is sent without a reply: a leader of an older version, which gets the request as such as
// well, answers that one only.
const headerPassed = "Millrace-Request"

// surely reports whether this node alone answers requests like a call: it leads the stream that they are about,
// and no other node can do so by now.
func (a *account) surely(call *api.Call) bool {
	if scopeOf(call) != scopeStream {
		return false
	}
	s := a.local(call.Stream)
	if s == nil {
		return false
	}
	group := s.leading()
	if group == nil || !s.leads() {
		return false
	}
	waits, err := askLease(group)
	return waits == nil && err == nil
}

// pass sends a request about a stream to its leader, and reports whether there is one.
func (a *account) pass(call *api.Call, m Msg) bool {
	if scopeOf(call) != scopeStream {
		return false
	}
	ms, ok := a.engine.catalog.stream(a.name, call.Stream)
	if !ok || !a.engine.calls.led(ms.Group.ID) {
		return false
	}
	header := fmt.Appendf(make([]byte, 0, 256), "NATS/1.0\r\n%s: %s %s %s\r\n", headerPassed, m.Subject, m.Reply, a.name)
	if _, own, ok := bytes.Cut(m.Header, []byte(wire.CRLF)); ok {
		header = append(header, own...)
	} else {
		header = append(header, wire.CRLF...)
	}
	return a.engine.cfg.System.Publish(leaderSubject(ms.Group.ID), "", header, m.Data) > 0
}

// takePassed takes a request that another node has passed to this one, and reports whether the message is one.
func (e *Engine) takePassed(m Msg) bool {
	line, own, ok := bytes.Cut(bytes.TrimPrefix(m.Header, []byte("NATS/1.0\r\n")), []byte(wire.CRLF))
	passed, is := strings.CutPrefix(string(line), headerPassed+": ")
	if !ok || !is {
		return false
	}
	subj, rest, _ := strings.Cut(passed, " ")
	reply, name, _ := strings.Cut(rest, " ")
	a := e.accounts[name]
	call, known := api.ParseCall(subj)
	if a == nil || !known || reply == "" {
		return true
	}
	request := Msg{Subject: []byte(subj), Reply: []byte(reply), Data: m.Data}
	if len(own) > len(wire.CRLF) {
		request.Header = append([]byte("NATS/1.0\r\n"), own...)
	}
	if v := a.responsible(&call); v.mine {
		a.take(call, v, request, false)
	} else {
		a.bus.Publish(subj, reply, request.Header, m.Data)
	}
	return true
}
