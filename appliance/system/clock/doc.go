// Package clock keeps the time of a box right: it asks time servers (SNTP) and corrects the kernel's
// clock. Under a running millraced the clock never jumps back; system/boot calls it.
//
// Reading order:
//
//	decide.go  what to do about an offset; pure
//	clock.go   Clock: asking, again and again
//	kernel.go  setting and slewing the kernel's clock
package clock
