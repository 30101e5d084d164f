package update

import (
	"strings"

	"millrace/image/layout"
)

// tempSuffix2 ends the name of a second file that is not whole yet: the first may be left over and not be
// safe to remove (see Folder.rewrite). The loader starts neither.
const tempSuffix2 = ".new"

// Slot is one file name in the folder of versions.
type Slot struct {
	Name    string
	Version string
	Temp    bool // not whole yet, or left over
	Good    bool // has no counter: has proven itself, or was flashed
	Left    int  // tries left
}

// parse reads a file name; ok is false when it is not one of ours.
func parse(name string) (s Slot, ok bool) {
	for _, suffix := range []string{layout.TempSuffix, tempSuffix2} {
		if base, ok := strings.CutSuffix(name, suffix); ok {
			// A name that is not whole ends where that of a good version does.
			l, ok := layout.ParseSlot(base + ".efi")
			return Slot{Name: name, Version: l.Version, Temp: true}, ok && !l.Trial
		}
	}
	l, ok := layout.ParseSlot(name)
	return Slot{Name: name, Version: l.Version, Good: !l.Trial, Left: l.Left}, ok
}

// goodName is the file name of a version that has proven itself.
func goodName(version string) string { return layout.Slot{Version: version}.Name() }

// trialName is the file name of a version that is to prove itself.
func trialName(version string, left int) string {
	return layout.Slot{Version: version, Trial: true, Left: left}.Name()
}

// tempName is a file name of a version while it is written.
func tempName(version string) string { return layout.Slot{Version: version}.TempName() }

// tempName2 is another.
func tempName2(version string) string {
	return strings.TrimSuffix(tempName(version), layout.TempSuffix) + tempSuffix2
}
