package boot

import (
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"time"

	"millrace/appliance/boxapi"
	"millrace/appliance/system/disk"
	"millrace/appliance/system/update"
	"millrace/image/layout"
	"millrace/image/signature"
)

// errNoSystem is why a box that was started otherwise than from a disk has no versions.
var errNoSystem = errors.New("this box was not started from a disk")

// versions runs fn on the folder of versions. One at a time: the partition is mounted meanwhile only,
// so that nothing of it is in memory when the power fails.
func (b *systemBox) versions(fn func(update.Folder) error) error {
	if b.system == nil {
		return errNoSystem
	}
	b.espMu.Lock()
	defer b.espMu.Unlock()
	return disk.ESP(*b.system, espDir, func() error {
		return fn(update.Folder{
			Dir:     update.FATDir{Path: filepath.Join(espDir, layout.SlotDir)},
			Running: imageVersion(),
			Check:   checkImage,
		})
	})
}

// openVersions repairs the folder of versions and finds out whether this one is on trial.
func (b *systemBox) openVersions() {
	if b.system == nil || b.system.ReadOnly {
		return
	}
	err := b.versions(func(f update.Folder) error {
		notes, err := f.Tidy()
		for _, n := range notes {
			b.warn(n)
		}
		if err != nil {
			return err
		}
		return b.noteVersions(f)
	})
	if err != nil {
		b.warn("the versions on the system disk cannot be read", "cause", err.Error())
		return
	}
	if b.update.Trial {
		b.logger.Warn("this version is on trial", "version", imageVersion(), "tries left after this one", fmt.Sprint(b.update.Tries))
		b.trial = &trial{began: time.Now()}
	}
}

// noteVersions keeps for people what the folder holds.
func (b *systemBox) noteVersions(f update.Folder) error {
	trial, left, err := f.Trial()
	if err != nil {
		return err
	}
	slots, err := f.Slots()
	if err != nil {
		return err
	}
	var rec update.Record
	if _, err := b.state.Load(updateRec, &rec); err != nil {
		return err
	}
	u := boxapi.Update{Trial: trial, Tries: left, Result: rec.Result(f.Running, trial)}
	if rec.Pending(f.Running, slots) {
		u.Result = rec.To + " is installed and starts next"
	}
	for _, s := range slots {
		u.Slots = append(u.Slots, boxapi.Slot{File: s.Name, Version: s.Version, Good: s.Good, Running: s.Version == f.Running})
	}
	b.mu.Lock()
	b.update = u
	b.mu.Unlock()
	return nil
}

// bless makes the running version the good one.
func (b *systemBox) bless() error {
	return b.versions(func(f update.Folder) error {
		changed, err := f.Bless()
		if err != nil {
			return err
		}
		if changed {
			b.logger.Info("this version has proven itself", "version", f.Running)
		}
		var rec update.Record
		if _, err := b.state.Load(updateRec, &rec); err != nil {
			return err
		}
		if rec.To == f.Running && !rec.Good {
			rec.Good = true
			if err := b.state.Save(updateRec, rec); err != nil {
				return err
			}
		}
		return b.noteVersions(f)
	})
}

// install checks an image and puts it beside the running one.
func (b *systemBox) install(image []byte) (update.Slot, error) {
	if len(b.conf.Settings.UpdateKeys) == 0 {
		return update.Slot{}, errors.New("this box takes no images: its configuration names no keys, appliance { update_keys: [...] }")
	}
	version, err := checkImage(image)
	if err != nil {
		return update.Slot{}, err
	}
	// Before a byte of it is on the system disk.
	key, err := signature.Verify(image, b.conf.Settings.UpdateKeys)
	if err != nil {
		return update.Slot{}, err
	}
	b.logger.Info("the signature of the image is good", "version", version, "key", signature.FormatKey(key))
	var slot update.Slot
	err = b.versions(func(f update.Folder) error {
		var err error
		if slot, err = f.Install(image); err != nil {
			return err
		}
		rec := update.Record{From: f.Running, To: version, Begun: time.Now().UTC()}
		return errors.Join(b.state.Save(updateRec, rec), b.noteVersions(f))
	})
	return slot, err
}

// checkImage returns the version of an image that can run on this box.
func checkImage(image []byte) (version string, err error) {
	i, err := update.Inspect(image)
	if err != nil {
		return "", err
	}
	// Of the running image, which is one that does.
	if board := imageBoard(); board != "" && i.Board != "" && i.Board != board {
		return "", fmt.Errorf("an image for the board %s, this is %s", i.Board, board)
	}
	return i.Version, nil
}

// imageVersion is the version of the running image, from its os-release, which is in the initramfs that
// the image's signature covers.
func imageVersion() string {
	b, err := os.ReadFile("/etc/os-release")
	if err != nil {
		return "unknown"
	}
	return osReleaseValue(string(b), "VERSION_ID")
}

// imageBoard is what machines the running image is for; empty: it does not say.
func imageBoard() string {
	b, err := os.ReadFile("/etc/os-release")
	if err != nil {
		return ""
	}
	return osReleaseValue(string(b), "VARIANT_ID")
}
