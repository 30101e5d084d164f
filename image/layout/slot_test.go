package layout

import "testing"

func TestParseSlot(t *testing.T) {
	for _, tt := range []struct {
		name string
		want Slot
	}{
		{"millrace_1.0.0.efi", Slot{Version: "1.0.0"}},
		{"millrace_1.0.0-rc1~2.efi", Slot{Version: "1.0.0-rc1~2"}},
		{"millrace_1.1.0+3-0.efi", Slot{Version: "1.1.0", Trial: true, Left: 3}},
		{"millrace_1.1.0+0-3.efi", Slot{Version: "1.1.0", Trial: true, Done: 3}},
		{"millrace_1.1.0+2-1.efi", Slot{Version: "1.1.0", Trial: true, Left: 2, Done: 1}},
		{"millrace_1-2+10-0.efi", Slot{Version: "1-2", Trial: true, Left: 10}},
	} {
		got, ok := ParseSlot(tt.name)
		if !ok || got != tt.want {
			t.Errorf("%s: got %+v, %v", tt.name, got, ok)
		}
		if back := got.Name(); back != tt.name {
			t.Errorf("%s: written as %s", tt.name, back)
		}
	}
	// The specification lets the second number be left out.
	if s, ok := ParseSlot("millrace_1+3.efi"); !ok || s != (Slot{Version: "1", Trial: true, Left: 3}) {
		t.Errorf("count without tries made: %+v, %v", s, ok)
	}
	for _, name := range []string{
		"", "millrace_.efi", "millrace_1", "millrace_1.tmp", "other_1.efi", "millrace_1+.efi", "millrace_1+a.efi",
		"millrace_1+3-.efi", "millrace_1++3.efi", "millrace_1+3-0-0.efi", "millrace_1+-1-0.efi", "millrace_1+999-0.efi",
		"millrace_-1.efi", "millrace_1/2.efi", "millrace_1 2.efi",
	} {
		if s, ok := ParseSlot(name); ok {
			t.Errorf("%q is taken for %+v", name, s)
		}
	}
}

func TestNewSlot(t *testing.T) {
	s := NewSlot("1.1.0")
	if s.Name() != "millrace_1.1.0+3-0.efi" || s.TempName() != "millrace_1.1.0.tmp" || s.Blessed().Name() != "millrace_1.1.0.efi" {
		t.Errorf("names %s, %s, %s", s.Name(), s.TempName(), s.Blessed().Name())
	}
	if _, ok := ParseSlot(s.TempName()); ok {
		t.Error("a file that is not whole is taken for a version")
	}
}

func FuzzParseSlot(f *testing.F) {
	f.Add("millrace_1.1.0+3-0.efi")
	f.Add("millrace_1.efi")
	f.Fuzz(func(t *testing.T, name string) {
		s, ok := ParseSlot(name)
		if !ok {
			return
		}
		back, ok := ParseSlot(s.Name())
		if !ok || back != s {
			t.Errorf("%q is %+v, written and read again %+v, %v", name, s, back, ok)
		}
	})
}
