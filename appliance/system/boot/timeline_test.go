package boot

import (
	"testing"
	"time"
)

func TestTimelineTellsSteps(t *testing.T) {
	var l timeline
	l.note("kernel", 1500*time.Millisecond)
	l.note("modules", 1750*time.Millisecond)
	l.note("millraced", 4*time.Second)
	const want = "4.00 s since the kernel started: kernel 1.50 s, modules 0.25 s, millraced 2.25 s"
	if got := l.String(); got != want {
		t.Errorf("got  %s\nwant %s", got, want)
	}
}
