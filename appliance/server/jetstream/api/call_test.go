package api

import (
	"strings"
	"testing"
)

func TestParseCall(t *testing.T) {
	for _, c := range []struct {
		subject string
		want    Call
	}{
		{"INFO", Call{Verb: VerbAccountInfo, Type: TypeAccountInfo}},
		{"STREAM.CREATE.S", Call{Verb: VerbStreamCreate, Type: TypeStreamCreate, Stream: "S"}},
		{"STREAM.NAMES", Call{Verb: VerbStreamNames, Type: TypeStreamNames}},
		{"STREAM.MSG.GET.S", Call{Verb: VerbMsgGet, Type: TypeMsgGet, Stream: "S"}},
		{"CONSUMER.CREATE.S", Call{Verb: VerbConsumerCreate, Type: TypeConsumerCreate, Stream: "S"}},
		{"CONSUMER.CREATE.S.C", Call{Verb: VerbConsumerCreate, Type: TypeConsumerCreate, Stream: "S", Consumer: "C"}},
		{"CONSUMER.CREATE.S.C.a.*.>", Call{Verb: VerbConsumerCreate, Type: TypeConsumerCreate, Stream: "S", Consumer: "C", Filter: "a.*.>"}},
		{"CONSUMER.DURABLE.CREATE.S.C", Call{Verb: VerbDurableCreate, Type: TypeConsumerCreate, Stream: "S", Consumer: "C"}},
		{"CONSUMER.MSG.NEXT.S.C", Call{Verb: VerbNext, Stream: "S", Consumer: "C"}},
		{"DIRECT.GET.S", Call{Verb: VerbDirectGet, Stream: "S"}},
		{"DIRECT.GET.KV_a.$KV.a.x", Call{Verb: VerbDirectGet, Stream: "KV_a", Filter: "$KV.a.x"}},
		{"STREAM.LEADER.STEPDOWN.S", Call{Verb: VerbStreamStepDown, Type: TypeStreamStepDown, Stream: "S"}},
		{"STREAM.PEER.EVACUATE.S", Call{Verb: VerbStreamPeerRemove, Type: TypeStreamPeerEvacuate, Stream: "S"}},
		{"ACCOUNT.STREAM.MOVE.A.S", Call{Verb: VerbAccountStreamMove, Type: TypeStreamUpdate, Account: "A", Stream: "S"}},
		{"META.LEADER.STEPDOWN", Call{Verb: VerbMetaStepDown, Type: TypeMetaStepDown}},
		{"CONSUMER.PEER.REMOVE.S.C", Call{Verb: VerbConsumerPeerRemove, Type: typePrefix + "consumer_remove_peer_response", Stream: "S", Consumer: "C"}},
	} {
		got, ok := ParseCall(Prefix + c.subject)
		if !ok || got != c.want {
			t.Errorf("ParseCall(%s) = %+v, %v, want %+v", c.subject, got, ok, c.want)
		}
	}
	for _, s := range []string{"", "STREAM", "STREAM.CREATE", "STREAM.CREATE.", "STREAM.CREATE.S.T", "STREAM.NAMES.X", "INFOX",
		"INFO.", "CONSUMER.INFO.S", "CONSUMER.CREATE.S.C.", "CONSUMER.DURABLE.CREATE.S", "DIRECT.GET", "FOO.BAR"} {
		if got, ok := ParseCall(Prefix + s); ok {
			t.Errorf("ParseCall(%s) = %+v, want none", s, got)
		}
	}
	if _, ok := ParseCall("$JS.APX.INFO"); ok {
		t.Error("a subject outside the API is parsed")
	}
}

// TestCallsHaveOneMeaning checks that the order of the table does not matter.
func TestCallsHaveOneMeaning(t *testing.T) {
	seen := map[string]bool{}
	for _, row := range calls {
		s := row.name + strings.NewReplacer("A", ".a", "S", ".s", "C", ".c", "F", ".f").Replace(row.args)
		if seen[s] {
			t.Errorf("%s stands twice", s)
		}
		seen[s] = true
		got, ok := ParseCall(Prefix + s)
		if !ok || got.Verb != row.verb || got.Type != row.typ {
			t.Errorf("ParseCall(%s) = %+v, %v, want verb %d", s, got, ok, row.verb)
		}
		if (row.verb == VerbUnserved) != (row.refusal != nil) {
			t.Errorf("%s: an unserved call and a refusal go together", s)
		}
	}
}

func FuzzParseCall(f *testing.F) {
	for _, row := range calls {
		f.Add(Prefix + row.name + ".a.b.c.d")
	}
	f.Fuzz(func(t *testing.T, s string) {
		c, ok := ParseCall(s)
		if ok && (c.Verb == VerbNone || strings.Contains(c.Stream, ".") || strings.Contains(c.Consumer, ".")) {
			t.Errorf("ParseCall(%q) = %+v", s, c)
		}
	})
}
