package boot

import (
	"fmt"
	"strings"
	"time"
)

// timeline notes how long the steps of a start took, for whoever wants boxes to start faster.
type timeline struct {
	last  time.Duration // since the kernel started
	steps []string
}

// note says that a step has ended, at a time since the kernel started. What came before the first note is
// the step that ends with it.
func (t *timeline) note(step string, at time.Duration) {
	t.steps = append(t.steps, fmt.Sprintf("%s %.2f s", step, (at-t.last).Seconds()))
	t.last = at
}

// String is one line for people: how long all took, and each step.
func (t *timeline) String() string {
	return fmt.Sprintf("%.2f s since the kernel started: %s", t.last.Seconds(), strings.Join(t.steps, ", "))
}
