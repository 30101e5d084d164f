package boot

import (
	"bytes"
	"fmt"
	"io"
	"slices"
	"strings"
	"testing"
	"time"
)

func TestBackoffNext(t *testing.T) {
	b := backoff{first: time.Second, most: 5 * time.Second, steady: time.Minute}
	var got []time.Duration
	for _, ran := range []time.Duration{0, 0, 0, 0, 0, time.Minute, 0} {
		got = append(got, b.next(ran)/time.Second)
	}
	if want := []time.Duration{1, 2, 4, 5, 5, 1, 2}; !slices.Equal(got, want) {
		t.Errorf("waits %v s, want %v s", got, want)
	}
}

func TestLimiterAllow(t *testing.T) {
	l := limiter{rate: 10, burst: 3}
	now := time.Unix(0, 0)
	for i, want := range []bool{true, true, true, false, false} {
		if ok, _ := l.allow(now); ok != want {
			t.Errorf("line %d allowed %v, want %v", i, ok, want)
		}
	}
	ok, dropped := l.allow(now.Add(100 * time.Millisecond))
	if !ok || dropped != 2 {
		t.Errorf("after a tenth of a second: allowed %v, %d dropped; want true, 2", ok, dropped)
	}
	for i := range 4 {
		if ok, _ := l.allow(now.Add(time.Hour)); ok != (i < 3) {
			t.Errorf("after an hour, line %d: allowed %v", i, ok)
		}
	}
}

func TestCopyLines(t *testing.T) {
	long := strings.Repeat("x", 3*maxLine)
	in := "first\n" + long + "\nsecond\nthird\nno end"
	clock := time.Unix(0, 0)
	now := func() time.Time { return clock }
	for _, tt := range []struct {
		burst int
		want  string
	}{
		{100, "first\n" + long[:maxLine] + "\nsecond\nthird\nno end\n"},
		{2, "first\n" + long[:maxLine] + "\n"},
		{0, ""},
	} {
		var out, all bytes.Buffer
		r := strings.NewReader(in)
		if err := copyLines(&out, &all, r, &limiter{burst: tt.burst}, now); err != nil {
			t.Fatal(err)
		}
		if out.String() != tt.want {
			t.Errorf("burst %d: got %.100q, want %.100q", tt.burst, out.String(), tt.want)
		}
		if want := "first\n" + long[:maxLine] + "\nsecond\nthird\nno end\n"; all.String() != want {
			t.Errorf("burst %d: log got %.100q, want %.100q", tt.burst, all.String(), want)
		}
		if r.Len() != 0 {
			t.Errorf("burst %d: %d bytes were not read: the program would wait", tt.burst, r.Len())
		}
	}
}

func TestCopyLinesReportsDropped(t *testing.T) {
	var in strings.Builder
	for i := range 10 {
		fmt.Fprintf(&in, "line %d\n", i)
	}
	calls := 0
	now := func() time.Time { // the last line comes a second later
		calls++
		if calls == 10 {
			return time.Unix(1, 0)
		}
		return time.Unix(0, 0)
	}
	var out bytes.Buffer
	if err := copyLines(&out, io.Discard, strings.NewReader(in.String()), &limiter{rate: 1, burst: 2}, now); err != nil {
		t.Fatal(err)
	}
	want := "line 0\nline 1\nmillrace: 7 lines of millraced's output dropped\nline 9\n"
	if out.String() != want {
		t.Errorf("got %q, want %q", out.String(), want)
	}
}
