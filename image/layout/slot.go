package layout

import (
	"fmt"
	"regexp"
	"strconv"
	"strings"
)

const (
	slotPrefix = "millrace_"
	slotSuffix = ".efi"

	// TempSuffix ends the name of a version that is not whole yet, in place of ".efi": the boot loader
	// starts no such file.
	TempSuffix = ".tmp"

	// MaxTries is how often the boot loader starts a new version that does not prove itself.
	MaxTries = 3

	// maxCount bounds the numbers in a file name.
	maxCount = 99
)

// versionForm has no plus sign: in a file name it starts the boot loader's count.
var versionForm = regexp.MustCompile(`^[A-Za-z0-9][A-Za-z0-9.~-]{0,63}$`)

// ValidVersion reports whether a text can be the version of an image: 1 to 64 letters, digits, dots,
// tildes and dashes, the first of them a letter or a digit.
func ValidVersion(version string) bool { return versionForm.MatchString(version) }

// Slot is one version in SlotDir, as its file name tells (systemd, "Automatic Boot Assessment"):
//
//	millrace_VERSION.efi             good: has proven itself, or was flashed
//	millrace_VERSION+LEFT.efi        on trial, LEFT tries left, none made
//	millrace_VERSION+LEFT-DONE.efi   on trial, LEFT tries left, DONE made
//
// The boot loader takes one from LEFT and adds it to DONE before each start. At LEFT 0 it starts a
// version only when there is no other.
type Slot struct {
	Version string
	Trial   bool // has a counter
	Left    int  // tries left; 0 without Trial
	Done    int  // tries made; 0 without Trial
}

// NewSlot is a version that has not been tried yet.
func NewSlot(version string) Slot { return Slot{Version: version, Trial: true, Left: MaxTries} }

// Name is the slot's file name. A trial is written with both numbers, as the boot loader does.
func (s Slot) Name() string {
	if !s.Trial {
		return slotPrefix + s.Version + slotSuffix
	}
	return fmt.Sprintf("%s%s+%d-%d%s", slotPrefix, s.Version, s.Left, s.Done, slotSuffix)
}

// TempName is the name a version has while it is written.
func (s Slot) TempName() string { return slotPrefix + s.Version + TempSuffix }

// Blessed is the slot of the same version once it has proven itself.
func (s Slot) Blessed() Slot { return Slot{Version: s.Version} }

// ParseSlot reads a file name; ok is false when it is not one of a whole version. FAT does not tell upper
// from lower case, but keeps what was written.
func ParseSlot(name string) (s Slot, ok bool) {
	text, ok := strings.CutPrefix(name, slotPrefix)
	if !ok {
		return Slot{}, false
	}
	if text, ok = strings.CutSuffix(text, slotSuffix); !ok {
		return Slot{}, false
	}
	s.Version, text, s.Trial = strings.Cut(text, "+")
	if !ValidVersion(s.Version) {
		return Slot{}, false
	}
	if !s.Trial {
		return s, true
	}
	left, done, counted := strings.Cut(text, "-")
	if s.Left, ok = parseCount(left); !ok {
		return Slot{}, false
	}
	if counted {
		if s.Done, ok = parseCount(done); !ok {
			return Slot{}, false
		}
	}
	return s, true
}

// parseCount reads one of the numbers in a file name: digits only, no sign.
func parseCount(text string) (n int, ok bool) {
	u, err := strconv.ParseUint(text, 10, 8)
	return int(u), err == nil && u <= maxCount
}
