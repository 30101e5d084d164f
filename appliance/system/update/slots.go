package update

import (
	"bytes"
	"errors"
	"fmt"

	"millrace/image/layout"
)

// ErrTrial is returned when the running version has not proven itself yet: it may be gone after the
// next start, and what it would replace is what the box would go back to.
var ErrTrial = errors.New("update: the running version is on trial")

// Dir is the folder of versions on a FAT file system. What a method did is on the disk when it returns.
//
// A FAT has no journal. When the power fails in Rename, both names may be there, and then they share
// the content: removing one of them frees what the other still names, and the next file that is written
// may overwrite it.
type Dir interface {
	// List returns the names of the files.
	List() ([]string, error)

	// Read returns a file as the disk has it, not as memory remembers it.
	Read(name string) ([]byte, error)

	// Create writes a file that is not there yet.
	Create(name string, data []byte) error

	// Rename gives a file a name that is not there yet.
	Rename(from, to string) error

	// Remove removes a file, also one whose content another name has freed.
	Remove(name string) error
}

// Folder is the folder of versions, as the running version sees it.
//
//  1. A name that the loader would start always has a whole image behind it.
//  2. A version that has proven itself is there until another has.
//  3. Nothing is written while a name is there whose content may have been freed.
type Folder struct {
	Dir     Dir
	Running string // the version compiled into the running image: what is blessed is never another

	// Check returns the version of an image, or why it is not one that may run on this box.
	Check func(image []byte) (version string, err error)
}

// Slots lists the versions.
func (f Folder) Slots() ([]Slot, error) {
	names, err := f.Dir.List()
	if err != nil {
		return nil, err
	}
	var slots []Slot
	for _, n := range names {
		if s, ok := parse(n); ok {
			slots = append(slots, s)
		}
	}
	return slots, nil
}

// own returns the slots of the running version.
func (f Folder) own() (own, others []Slot, err error) {
	slots, err := f.Slots()
	for _, s := range slots {
		if s.Version == f.Running {
			own = append(own, s)
		} else {
			others = append(others, s)
		}
	}
	return own, others, err
}

// Trial reports whether the running version has yet to prove itself, and how many tries are left to it
// after this one. A version that was started otherwise, as by an emulator, is not on trial.
func (f Folder) Trial() (trial bool, left int, err error) {
	own, _, err := f.own()
	for _, s := range own {
		switch {
		case s.Good:
			return false, 0, err
		case !s.Temp:
			trial, left = true, max(left, s.Left)
		}
	}
	return trial, left, err
}

// Tidy repairs what a power cut left, and removes versions that have used up their tries. It is called
// once after each start, before anything else of the folder.
func (f Folder) Tidy() (notes []string, err error) {
	own, others, err := f.own()
	if err != nil {
		return nil, err
	}
	if len(own) > 1 {
		notes = append(notes, fmt.Sprintf("version %s has %d names after a power cut: written anew", f.Running, len(own)))
		if err := f.rewrite(own); err != nil {
			return notes, fmt.Errorf("repair version %s: %w", f.Running, err)
		}
	}
	names := map[string]int{}
	for _, s := range others {
		names[s.Version]++
	}
	for _, s := range others {
		// All names of a version go, or none: those that are left may share content with one that went.
		switch n := names[s.Version]; {
		case n > 1 || s.Temp:
			notes = append(notes, fmt.Sprintf("%s removed: left over from an update that was cut short", s.Name))
		case !s.Good && s.Left == 0:
			notes = append(notes, fmt.Sprintf("version %s did not prove itself in its tries: removed", s.Version))
		default:
			continue
		}
		if err := f.Dir.Remove(s.Name); err != nil {
			return notes, err
		}
	}
	return notes, nil
}

// rewrite leaves one name of the running version, with content that no other name shares. Should the
// power fail meanwhile, either a name of the version is there or the loader takes the version before.
func (f Folder) rewrite(own []Slot) error {
	if len(own) == 1 && !own[0].Temp {
		return nil
	}
	var image []byte
	used := map[string]bool{}
	target := Slot{}
	for _, s := range own {
		used[s.Name] = true
		switch {
		case s.Temp:
		case s.Good:
			target.Good = true
		default:
			target.Left = max(target.Left, s.Left)
		}
		if image == nil {
			data, err := f.Dir.Read(s.Name)
			if err == nil {
				if v, err := f.Check(data); err == nil && v == f.Running {
					image = data
				}
			}
		}
	}
	if image == nil {
		return fmt.Errorf("none of its names has a whole image")
	}
	temp := tempName(f.Running)
	if used[temp] {
		temp = tempName2(f.Running)
	}
	if used[temp] {
		// Both: the second was begun when the first was there, so it shares nothing with any name.
		if err := f.Dir.Remove(temp); err != nil {
			return err
		}
		delete(used, temp)
	}
	if err := f.write(temp, image); err != nil {
		return err
	}
	for _, s := range own {
		if used[s.Name] {
			if err := f.Dir.Remove(s.Name); err != nil {
				return err
			}
		}
	}
	name := goodName(f.Running)
	if !target.Good {
		name = trialName(f.Running, target.Left)
	}
	return f.Dir.Rename(temp, name)
}

// write writes a file and reads it back.
func (f Folder) write(name string, image []byte) error {
	if err := f.Dir.Create(name, image); err != nil {
		return err
	}
	back, err := f.Dir.Read(name)
	if err != nil {
		return err
	}
	if !bytes.Equal(back, image) {
		return fmt.Errorf("%s reads back other than it was written: the disk is faulty", name)
	}
	return nil
}

// Install puts an image beside the running version, to be started next. Every other version is removed
// first: only the running one is what the box goes back to. The folder must be tidy.
func (f Folder) Install(image []byte) (Slot, error) {
	version, err := f.Check(image)
	if err != nil {
		return Slot{}, err
	}
	if version == f.Running {
		return Slot{}, fmt.Errorf("version %s is running already", version)
	}
	own, others, err := f.own()
	if err != nil {
		return Slot{}, err
	}
	if len(own) == 0 {
		return Slot{}, fmt.Errorf("the running version %s is not on the system disk, so the box could not go back to it", f.Running)
	}
	if len(own) > 1 || !own[0].Good {
		return Slot{}, fmt.Errorf("%w: version %s", ErrTrial, f.Running)
	}
	for _, s := range others {
		if err := f.Dir.Remove(s.Name); err != nil {
			return Slot{}, err
		}
	}
	temp := tempName(version)
	if err := f.write(temp, image); err != nil {
		return Slot{}, errors.Join(err, f.Dir.Remove(temp))
	}
	s := Slot{Name: trialName(version, layout.MaxTries), Version: version, Left: layout.MaxTries}
	return s, f.Dir.Rename(temp, s.Name)
}

// Bless makes the running version a good one: it goes by the version that is compiled in, never by what
// the loader says it started, which after a failed start names another.
func (f Folder) Bless() (changed bool, err error) {
	own, _, err := f.own()
	if err != nil {
		return false, err
	}
	if len(own) > 1 {
		return false, fmt.Errorf("bless version %s: it has %d names", f.Running, len(own))
	}
	if len(own) == 0 || own[0].Good || own[0].Temp {
		return false, nil
	}
	return true, f.Dir.Rename(own[0].Name, goodName(f.Running))
}
