package update

import (
	"fmt"
	"time"

	"millrace/image/layout"
)

// Record is what the box remembers of its last update.
type Record struct {
	From  string    `json:"from"` // the version that ran
	To    string    `json:"to"`   // the version that was installed
	Begun time.Time `json:"begun"`
	Good  bool      `json:"good"` // To has proven itself
}

// Result says for people what became of the update, given what runs now.
func (r Record) Result(running string, trial bool) string {
	at := r.Begun.UTC().Format("2006-01-02 15:04 MST")
	switch {
	case r.To == "":
		return ""
	case running == r.To && trial:
		return fmt.Sprintf("%s, begun %s, is on trial", r.To, at)
	case r.Good:
		return fmt.Sprintf("%s, begun %s, has proven itself", r.To, at)
	case running == r.To:
		return fmt.Sprintf("%s, begun %s, runs", r.To, at)
	case running == r.From:
		return fmt.Sprintf("%s, begun %s, did not prove itself: back on %s", r.To, at, r.From)
	}
	return fmt.Sprintf("%s, begun %s, was overtaken: %s runs", r.To, at, running)
}

// Pending reports whether the update was installed but not started yet.
func (r Record) Pending(running string, slots []Slot) bool {
	for _, s := range slots {
		if r.To != "" && s.Version == r.To && running == r.From && !s.Good && s.Left == layout.MaxTries {
			return true
		}
	}
	return false
}
