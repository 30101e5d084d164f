package clock

import (
	"fmt"
	"time"

	"golang.org/x/sys/unix"
)

// adjOffsetSingleshot makes adjtimex work as adjtime(3): the offset, in microseconds, is worked off at
// 500 ppm (Linux include/uapi/linux/timex.h). x/sys has no name for it.
const adjOffsetSingleshot = 0x8001

// setKernel corrects the kernel's clock.
func setKernel(a Action, offset time.Duration) error {
	t := unix.Timex{Modes: adjOffsetSingleshot, Offset: offset.Microseconds()}
	if a == Step {
		// ADJ_SETOFFSET adds to the clock in one step: no time passes between reading and setting.
		sec := offset / time.Second
		nsec := offset % time.Second
		if nsec < 0 {
			sec, nsec = sec-1, nsec+time.Second
		}
		t = unix.Timex{Modes: unix.ADJ_SETOFFSET | unix.ADJ_NANO, Time: unix.Timeval{Sec: int64(sec), Usec: int64(nsec)}}
	}
	if _, err := unix.Adjtimex(&t); err != nil {
		return fmt.Errorf("adjtimex: %w", err)
	}
	// A clock that counts as synchronized is written to the hardware clock every 11 minutes.
	s := unix.Timex{Modes: unix.ADJ_STATUS | unix.ADJ_MAXERROR | unix.ADJ_ESTERROR}
	if _, err := unix.Adjtimex(&s); err != nil {
		return fmt.Errorf("adjtimex: %w", err)
	}
	return nil
}
