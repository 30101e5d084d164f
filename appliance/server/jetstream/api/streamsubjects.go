package api

import (
	"fmt"

	"millrace/appliance/server/subject"
)

// reserved are the subject spaces of the servers; a stream may capture the part named in except.
var reserved = []struct{ space, except, name string }{
	{"$JS.>", "$JS.EVENT.>", "jetstream"},
	{"$JSC.>", "$JS.EVENT.>", "jetstream"},
	{"$NRG.>", "$JS.EVENT.>", "jetstream"},
	{"$SYS.>", "$SYS.ACCOUNT.>", "system"},
}

// checkSubjects checks the subjects; without any a stream takes its name as its subject.
func (c *StreamConfig) checkSubjects() *Error {
	if len(c.Subjects) == 0 {
		c.Subjects = []string{c.Name}
		return nil
	}
	for i, s := range c.Subjects {
		if !subject.Valid(s) {
			return invalidStream(badSubject)
		}
		if s == subject.Full {
			if !c.NoAck {
				return invalidStream("capturing all subjects requires no-ack to be true")
			}
			if c.Replicas != 1 {
				return invalidStream("capturing all subjects requires replicas of 1")
			}
		}
		if !c.NoAck {
			for _, r := range reserved {
				if subject.Overlap(s, r.space) && !subject.Subset(s, r.except) {
					return invalidStream(fmt.Sprintf("subjects that overlap with %s api require no-ack to be true", r.name))
				}
			}
		}
		for _, other := range c.Subjects[i+1:] {
			if subject.Overlap(other, s) {
				return invalidStream(fmt.Sprintf("subject %q overlaps with %q", s, other))
			}
		}
	}
	return nil
}

// SubjectsOverlap reports whether some subject is matched by a filter of a and one of b. Two
// streams of an account must not overlap (10065).
func SubjectsOverlap(a, b []string) bool {
	for _, x := range a {
		for _, y := range b {
			if subject.Overlap(x, y) {
				return true
			}
		}
	}
	return false
}

func (c *StreamConfig) checkTransform() *Error {
	t := c.SubjectTransform
	if t == nil {
		return nil
	}
	if t.Source != "" && !subject.Valid(t.Source) {
		return ErrStreamTransformInvalidSourceF(badSubject + " " + t.Source)
	}
	if t.Destination == "" {
		return nil // nats-server takes it as no transform
	}
	if _, err := ParseTransform(t.Source, t.Destination); err != nil {
		return ErrStreamTransformInvalidDestinationF(err.Error())
	}
	return nil
}

// checkRePublish checks that what is published again does not come back into the stream (ADR-28).
func (c *StreamConfig) checkRePublish(pedantic bool) *Error {
	r, t := c.RePublish, c.SubjectTransform
	if r == nil {
		return nil
	}
	if r.Source == "" {
		if pedantic {
			return ErrPedanticF("republish source can not be empty")
		}
		r.Source = subject.Full
	}
	if r.Destination == subject.Full && r.Source == subject.Full && t != nil &&
		len(c.Subjects) == 1 && t.Source == c.Subjects[0] {
		if pedantic {
			return ErrPedanticF("implicit republish based on subject transform")
		}
		r.Source, r.Destination = t.Destination, t.Destination
	}
	for _, s := range c.Subjects {
		if subject.Overlap(r.Destination, s) {
			return invalidStream("stream configuration for republish destination forms a cycle")
		}
	}
	if _, err := ParseTransform(r.Source, r.Destination); err != nil {
		return invalidStream(fmt.Sprintf("stream configuration for republish with transform from '%s' to '%s' not valid",
			r.Source, r.Destination))
	}
	return nil
}
