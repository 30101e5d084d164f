package api

import (
	"testing"

	"millrace/appliance/server/subject"
)

func TestTransformRecorded(t *testing.T) {
	type testCase struct {
		Source      string  `json:"source"`
		Destination string  `json:"destination"`
		Subject     string  `json:"subject"`
		Mapped      *string `json:"mapped"` // absent when the source does not match
	}
	for _, c := range recorded[testCase](t, "transforms.json") {
		tr, err := ParseTransform(c.Source, c.Destination)
		if err != nil {
			t.Errorf("ParseTransform(%q, %q): %v", c.Source, c.Destination, err)
			continue
		}
		got, ok := tr.Apply(c.Subject)
		if ok != (c.Mapped != nil) || ok && got != *c.Mapped {
			t.Errorf("%q to %q of %q = %q, %v, want %v", c.Source, c.Destination, c.Subject, got, ok, c.Mapped)
		}
	}
}

func TestParseTransformRefuses(t *testing.T) {
	for _, c := range []struct{ source, destination, want string }{
		{"a.*", "b.{{random(3)}}", "random is not supported in {{random(3)}}"},
		{"a.*", "b.$0", "invalid mapping destination: wildcard index out of range in $0: [0]"},
		{"a.*", "b.{{partition(0,1)}}", "invalid mapping destination: function argument is invalid or in the wrong format in {{partition(0,1)}}"},
		{"a.*", "b.{{WILDcard(1)}}", "invalid mapping destination: unknown function in {{WILDcard(1)}}"},
		{"a.*", "", "invalid subject"},
		{"a..", "b", "invalid subject a.."},
	} {
		_, err := ParseTransform(c.source, c.destination)
		if err == nil || err.Error() != c.want {
			t.Errorf("ParseTransform(%q, %q) = %v, want %s", c.source, c.destination, err, c.want)
		}
	}
}

func TestTransformKeepsSubjectWhenResultIsInvalid(t *testing.T) {
	tr, err := ParseTransform("*", "a.{{split(1,-)}}.b")
	if err != nil {
		t.Fatal(err)
	}
	if got, ok := tr.Apply("-"); ok {
		t.Errorf("Apply = %q, want none", got)
	}
}

func FuzzTransform(f *testing.F) {
	f.Add("a.*", "b.$1", "a.x")
	f.Add("a.>", "{{partition(7)}}.>", "a.b.c")
	f.Add("*.*", "{{split(1,-)}}.{{slicefromright(2,3)}}", "a-b.cdefg")
	f.Add("", "p.>", "x")
	f.Fuzz(func(t *testing.T, source, destination, s string) {
		tr, err := ParseTransform(source, destination)
		if err != nil || !subject.ValidLiteral(s) {
			return
		}
		if got, ok := tr.Apply(s); ok && !subject.ValidLiteral(got) {
			t.Errorf("%q to %q of %q gives the invalid subject %q", source, destination, s, got)
		}
	})
}
