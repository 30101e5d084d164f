package e2e

import (
	"bytes"
	"context"
	"encoding/base64"
	"encoding/json"
	"errors"
	"fmt"
	"regexp"
	"runtime"
	"slices"
	"strings"
	"time"

	"github.com/nats-io/nats.go"
	"github.com/nats-io/nats.go/jetstream"
)

// answerTimeout bounds the wait for anything that a scenario expects.
const answerTimeout = 15 * time.Second

// record is one thing that a client saw: a title, which tells what was done, and lines.
type record struct {
	title string
	lines []string
}

func (r record) String() string { return strings.Join(append([]string{r.title}, r.lines...), "\n    ") }

// session plays a scenario against one server and keeps what it saw.
type session struct {
	server  *server
	ctx     context.Context
	options []nats.Option
	nc      *nats.Conn
	js      jetstream.JetStream
	old     nats.JetStreamContext

	records []record
	renewed int      // streams made by renew
	aliases []string // pairs for strings.NewReplacer: names that a server made up
	broken  string   // why the scenario could not go on
}

func newSession(ctx context.Context, s *server, options ...nats.Option) *session {
	return &session{server: s, ctx: ctx, options: options}
}

// play runs the scenario to its end or to the first thing that must not go wrong.
func (x *session) play(run func(*session)) {
	done := make(chan struct{})
	go func() {
		defer close(done)
		ctx, cancel := context.WithTimeout(x.ctx, 4*answerTimeout)
		defer cancel()
		x.ctx = ctx
		var err error
		x.nc, err = nats.Connect(x.server.url(), x.options...)
		x.must(err)
		defer x.nc.Close()
		x.js, err = jetstream.New(x.nc)
		x.must(err)
		x.old, err = x.nc.JetStream()
		x.must(err)
		run(x)
	}()
	<-done
}

// must ends the scenario for an error.
func (x *session) must(err error) {
	if err != nil {
		_, file, line, _ := runtime.Caller(1)
		x.stop(fmt.Sprintf("%s:%d: %v", file[strings.LastIndexByte(file, '/')+1:], line, err))
	}
}

func (x *session) stop(reason string) {
	x.broken = reason
	runtime.Goexit()
}

// mask is a value that two servers need not have in common.
type mask struct {
	path   *regexp.Regexp // of the value in JSON, or the name of a header
	reason string
}

// masks returns the values of which only the presence is compared.
func masks() []mask {
	re := regexp.MustCompile
	return []mask{
		{re(`(^|\.)(created|ts|timestamp|time|first_ts|last_ts|last_active)$`), "clock"},
		{re(`(^|\.)(pause_remaining|ack_time)$`), "duration up to now"},
		{re(`^id$`), "random"},
		{re(`^Nats-Time-Stamp$`), "clock"},
		{re(`metadata\._nats\.(ver|level|req\.level)$`), "version of the server"},
		{re(`^api\.(total|errors|level|inflight)$`), "counts and level of the server, not of the account's data"},
	}
}

// dropped are values that only one of the servers has, and why they are not missed.
func dropped() []mask {
	re := regexp.MustCompile
	return []mask{
		{re(`(^|\.)cluster(\.|$)`), "leader of a group; nats-server has one on clusters only"},
		{re(`^client(\.|$)`), "details of the requester in advisories"},
		{re(`^(request|response)$`), "audit details"},
	}
}

var (
	inboxPattern = regexp.MustCompile(`_INBOX\.[A-Za-z0-9.]+`)
	ackPattern   = regexp.MustCompile(`(\$JS\.ACK\.[^.]+\.[^.]+\.\d+\.\d+\.\d+)\.\d{16,}\.(\d+)`)
	// Errors of encoding/json name a type of the server's program.
	structPattern = regexp.MustCompile(`Go struct field \w+\.`)
	flowPattern   = regexp.MustCompile(`(\$JS\.FC\.[^.]+\.[^.]+)\.\S+`)
)

func matchesAny(masks []mask, path string) bool {
	return slices.ContainsFunc(masks, func(m mask) bool { return m.path.MatchString(path) })
}

// line replaces what is random in a text.
func (x *session) line(s string) string {
	s = strings.NewReplacer(x.aliases...).Replace(s)
	s = inboxPattern.ReplaceAllString(s, "_INBOX")
	s = structPattern.ReplaceAllString(s, "Go struct field T.")
	s = ackPattern.ReplaceAllString(s, "$1.TIME.$2")
	return flowPattern.ReplaceAllString(s, "$1.TOKEN")
}

// alias shows a name that the server made up as another.
func (x *session) alias(name, as string) {
	if name != "" {
		x.aliases = append(x.aliases, name, as)
	}
}

func (x *session) record(title string, lines ...string) {
	for i := range lines {
		lines[i] = x.line(lines[i])
	}
	x.records = append(x.records, record{x.line(title), lines})
}

// note records a value.
func (x *session) note(title string, value any) { x.record(title, fmt.Sprint(value)) }

// failure records an error as the client libraries show it.
func (x *session) failure(title string, err error) {
	var apiErr *jetstream.APIError
	var oldErr *nats.APIError
	switch {
	case errors.As(err, &apiErr):
		x.record(title, fmt.Sprintf("%d %d %s", apiErr.Code, apiErr.ErrorCode, apiErr.Description))
	case errors.As(err, &oldErr):
		x.record(title, fmt.Sprintf("%d %d %s", oldErr.Code, oldErr.ErrorCode, oldErr.Description))
	default:
		x.record(title, fmt.Sprint(err))
	}
}

// flatten appends "path = value" for every leaf of v.
func flatten(lines []string, path string, v any) []string {
	join := func(key string) string {
		if path == "" {
			return key
		}
		return path + "." + key
	}
	if path != "" && matchesAny(dropped(), path) {
		return lines
	}
	switch v := v.(type) {
	case map[string]any:
		if len(v) == 0 {
			return append(lines, path+" = {}")
		}
		for key, value := range v {
			lines = flatten(lines, join(key), value)
		}
		return lines
	case []any:
		if len(v) == 0 {
			return append(lines, path+" = []")
		}
		for i, value := range v {
			lines = flatten(lines, join(fmt.Sprint(i)), value)
		}
		return lines
	}
	if block, ok := v.(string); ok && (path == "hdrs" || strings.HasSuffix(path, ".hdrs")) {
		return append(lines, path+" = "+sortedHeader(block))
	}
	text, _ := json.Marshal(v)
	if matchesAny(masks(), path) && string(text) != `"0001-01-01T00:00:00Z"` {
		text = []byte("*")
	}
	return append(lines, fmt.Sprintf("%s = %s", path, text))
}

// sortedHeader shows a header block in base64, in the order of its lines: clients send them in any.
func sortedHeader(block string) string {
	raw, err := base64.StdEncoding.DecodeString(block)
	if err != nil {
		return err.Error()
	}
	lines := strings.SplitAfter(string(raw), "\r\n")
	slices.Sort(lines)
	return fmt.Sprintf("%q", lines)
}

// jsonLines returns the lines of a JSON text, which may be another text.
func jsonLines(data []byte) (lines []string, value map[string]any) {
	decoder := json.NewDecoder(bytes.NewReader(data))
	decoder.UseNumber()
	if err := decoder.Decode(&value); err != nil {
		return []string{fmt.Sprintf("%q", data)}, nil
	}
	lines = flatten(nil, "", value)
	slices.Sort(lines)
	return lines, value
}

// api sends an API request and records the answer, which it returns.
func (x *session) api(call, body string) map[string]any {
	return x.request("$JS.API."+call, body)
}

func (x *session) request(subject, body string, header ...string) map[string]any {
	m := message(subject, body, header)
	title := strings.TrimPrefix(subject, "$JS.API.") + " " + body
	if len(header) > 0 {
		title += fmt.Sprintf(" %q", header)
	}
	reply, err := x.nc.RequestMsg(m, answerTimeout)
	if err != nil {
		x.record(title, err.Error())
		return nil
	}
	lines, value := jsonLines(reply.Data)
	x.record(title, append(lines, headerLines(reply)...)...)
	return value
}

// do sends an API request that must succeed; the answer is not recorded.
func (x *session) do(call, body string) map[string]any {
	reply, err := x.nc.Request("$JS.API."+call, []byte(body), answerTimeout)
	x.must(err)
	_, value := jsonLines(reply.Data)
	if value == nil || value["error"] != nil {
		x.stop(fmt.Sprintf("%s %s: %s", call, body, reply.Data))
	}
	return value
}

// renew creates a stream on s.> in the place of the one before and returns its name. It is another one:
// nats-server may refuse a name whose files it has not yet removed.
func (x *session) renew(config string) (name string) {
	if x.renewed > 0 {
		x.do(fmt.Sprintf("STREAM.DELETE.R%d", x.renewed), "")
	}
	x.renewed++
	name = fmt.Sprintf("R%d", x.renewed)
	x.do("STREAM.CREATE."+name, `{"name":"`+name+`","subjects":["s.>"]`+config+`}`)
	return name
}

func message(subject, body string, header []string) *nats.Msg {
	m := nats.NewMsg(subject)
	m.Data = []byte(body)
	for i := 0; i+1 < len(header); i += 2 {
		m.Header.Add(header[i], header[i+1])
	}
	return m
}

// pub publishes and records the PubAck.
func (x *session) pub(subject, data string, header ...string) { x.request(subject, data, header...) }

// put publishes messages of the given subjects that must be stored; their data is their number. A busy nats-server cluster
// may not have heard everywhere of a stream that it has just created, and is asked again.
func (x *session) put(subjects ...string) {
	for i, subject := range subjects {
		data := []byte(fmt.Sprintf("m%d", i+1))
		begun := time.Now()
		reply, err := x.nc.Request(subject, data, answerTimeout)
		for errors.Is(err, nats.ErrNoResponders) && x.server.Program != serverPath && time.Since(begun) < answerTimeout {
			poll()
			reply, err = x.nc.Request(subject, data, answerTimeout)
		}
		x.must(err)
		if bytes.Contains(reply.Data, []byte(`"error"`)) {
			x.stop(fmt.Sprintf("publish %s: %s", subject, reply.Data))
		}
	}
}

func headerLines(m *nats.Msg) []string {
	var lines []string
	for key, values := range m.Header {
		for _, value := range values {
			if matchesAny(masks(), key) {
				value = "*"
			}
			lines = append(lines, fmt.Sprintf("%s: %s", key, value))
		}
	}
	slices.Sort(lines)
	return lines
}

// seen records a message.
func (x *session) seen(m *nats.Msg) {
	lines := append([]string{"reply " + m.Reply}, headerLines(m)...)
	if len(m.Data) > 0 && m.Data[0] == '{' {
		data, _ := jsonLines(m.Data)
		lines = append(lines, data...)
	} else {
		lines = append(lines, fmt.Sprintf("%.200q", m.Data))
	}
	x.record("message "+m.Subject, lines...)
}

// terminal reports whether nothing follows a status in the answers to a request.
func terminal(m *nats.Msg) bool {
	status := m.Header.Get("Status")
	return len(m.Data) == 0 && status != "" && status != "100"
}

// listen subscribes.
func (x *session) listen(subject string, group ...string) *nats.Subscription {
	sub, err := x.nc.QueueSubscribeSync(subject, strings.Join(group, ""))
	x.must(err)
	x.must(x.nc.Flush())
	return sub
}

// receive records the next n messages or those up to a terminal status. That they come is part of the
// scenario: it ends when one does not.
func (x *session) receive(sub *nats.Subscription, n int) []*nats.Msg {
	var got []*nats.Msg
	for range n {
		m, err := sub.NextMsg(answerTimeout)
		if errors.Is(err, nats.ErrNoResponders) {
			x.record("no responders")
			return got
		}
		if err != nil {
			x.stop(fmt.Sprintf("received %d of %d messages: %v", len(got), n, err))
		}
		x.seen(m)
		got = append(got, m)
		if terminal(m) {
			break
		}
	}
	return got
}

// nothing records whether messages wait that should not be there.
func (x *session) nothing(sub *nats.Subscription) {
	x.must(x.nc.Flush())
	n, _, err := sub.Pending()
	x.must(err)
	x.note("unexpected messages", n)
	for range n {
		x.receive(sub, 1)
	}
}

// ask sends a request that is answered with messages, and records them up to n or a terminal status.
func (x *session) ask(subject, body string, n int) []*nats.Msg {
	inbox := nats.NewInbox()
	sub := x.listen(inbox)
	defer sub.Unsubscribe()
	x.must(x.nc.PublishRequest(subject, inbox, []byte(body)))
	x.record(strings.TrimPrefix(x.line(subject), "$JS.API.") + " " + body)
	return x.receive(sub, n)
}

// subjects records the subjects of the next n messages, whose other properties depend on when a message
// stored meanwhile is seen.
func (x *session) subjects(sub *nats.Subscription, n int) {
	at := len(x.records)
	got := x.receive(sub, n)
	x.records = x.records[:at]
	for _, m := range got {
		x.note("subject", m.Subject)
	}
}

// unordered records the next n messages, which may come in any order.
func (x *session) unordered(sub *nats.Subscription, n int) {
	at := len(x.records)
	x.receive(sub, n)
	slices.SortFunc(x.records[at:], func(a, b record) int { return strings.Compare(a.String(), b.String()) })
}

// nextOf records the next message that is a status, or that is none, and skips others.
func (x *session) nextOf(sub *nats.Subscription, status bool) {
	for {
		at := len(x.records)
		if m := x.receive(sub, 1)[0]; status == (m.Header.Get("Status") != "") {
			return
		}
		x.records = x.records[:at]
	}
}

// next pulls.
func (x *session) next(stream, consumer, body string, n int) []*nats.Msg {
	return x.ask("$JS.API.CONSUMER.MSG.NEXT."+stream+"."+consumer, body, n)
}

// ack acknowledges with an answer, which is recorded.
func (x *session) ack(m *nats.Msg, verb string) {
	reply, err := x.nc.Request(m.Reply, []byte(verb), answerTimeout)
	if err != nil {
		x.record(verb+" "+m.Reply, err.Error())
		return
	}
	x.record(verb+" "+x.line(m.Reply), append(headerLines(reply), fmt.Sprintf("%q", reply.Data))...)
}

// until waits for a condition.
func (x *session) until(what string, cond func() bool) {
	for deadline := time.Now().Add(answerTimeout); !cond(); poll() {
		if time.Now().After(deadline) {
			x.stop("no " + what)
		}
	}
}

// number returns a number of an answer by its path.
func number(value map[string]any, path ...string) int64 {
	for _, key := range path[:len(path)-1] {
		value, _ = value[key].(map[string]any)
	}
	n, _ := value[path[len(path)-1]].(json.Number)
	i, _ := n.Int64()
	return i
}

// untilMessages waits until a stream holds n messages.
func (x *session) untilMessages(stream string, n int64) {
	x.until(fmt.Sprintf("%d messages in %s", n, stream), func() bool {
		return number(x.do("STREAM.INFO."+stream, ""), "state", "messages") == n
	})
}

// untilConsumer waits until a number of a consumer's state is n.
func (x *session) untilConsumer(stream, consumer string, n int64, path ...string) {
	x.until(fmt.Sprintf("%v %d of %s", path, n, consumer), func() bool {
		return number(x.do("CONSUMER.INFO."+stream+"."+consumer, ""), path...) == n
	})
}
