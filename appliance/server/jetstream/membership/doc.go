// Package membership decides how a replicated group gets from the members that it has to those that the
// catalogue wants for it: the next step, from what the group's leader sees. It is pure and remembers
// nothing, so that any leader can go on where the last one was when it died.
package membership
