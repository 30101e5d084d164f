package boot

import (
	"context"
	"errors"
	"fmt"
	"os"
	"path"
	"slices"
	"strings"
	"time"

	"millrace/appliance/system/disk"
	"millrace/appliance/system/state"
	"millrace/appliance/system/update"
)

const (
	stateDir  = "/state"
	memoryDir = "/run/state" // in its place on a box without a state partition

	logDir    = "log"
	uploadDir = "update"
	updateRec = "update.json"

	// ownDataDir holds the data of a box that keeps it on the state partition.
	ownDataDir = "data"

	// moreDir has the mount points of further data disks, by number.
	moreDir = "/disks"

	// maxLog bounds the log on the state partition; a small one gives an eighth of itself.
	maxLog = 64 << 20
)

// openState mounts the state partition and carries out what was ordered. Without one the box remembers
// nothing: what it makes up, such as its name, is another at the next start, and it says so.
func (b *systemBox) openState(ctx context.Context, disks []disk.Disk) error {
	err := b.mountState(ctx, disks)
	where := stateDir
	if err == nil {
		b.stateAt = fmt.Sprintf("state partition of disk %s", b.system.Name)
	} else {
		where, b.stateAt = memoryDir, "memory: "+err.Error()
		b.forgetful = true
		// There may be a state that says where the data is and who may come in.
		b.stateLost = !errors.Is(err, disk.ErrNoState)
		if b.stateLost {
			b.warn("the state of this box cannot be read", "cause", err.Error())
		} else {
			b.warn("nothing is remembered until the next start: name and key of this box are new each time", "cause", err.Error())
		}
	}
	if err := os.MkdirAll(where, 0o700); err != nil {
		return fmt.Errorf("make folder for state: %w", err)
	}
	if b.state, err = state.Open(where); err != nil {
		return err
	}
	if !b.forgetful {
		b.keepLog()
		return b.carryOut(disks)
	}
	return nil
}

// mountState finds the system disk and mounts its state partition.
func (b *systemBox) mountState(ctx context.Context, disks []disk.Disk) error {
	if err := os.MkdirAll(stateDir, 0o700); err != nil {
		return fmt.Errorf("%w: %w", disk.ErrNoState, err)
	}
	var system []disk.Disk
	for _, d := range disks {
		if d.Content == disk.System {
			system = append(system, d)
		}
	}
	switch len(system) {
	case 0:
		return fmt.Errorf("%w: this box was not started from a disk", disk.ErrNoState)
	case 1:
		b.system = &system[0]
	default:
		return fmt.Errorf("disks %s and %s both hold a Millrace image: which of them this box was started from is not known, remove one",
			system[0], system[1])
	}
	c := disk.Config{Run: b.reaper.run, Dir: stateDir, Logger: b.logger}
	if err := disk.MountState(ctx, c, *b.system); err != nil {
		return err
	}
	b.mounts = append(b.mounts, stateDir)
	return nil
}

// keepLog keeps the log on the state partition. A box whose log cannot be kept serves as well.
func (b *systemBox) keepLog() {
	dir, err := b.state.Dir(logDir)
	if err == nil {
		bound := int64(maxLog)
		if size, _, err := disk.Usage(stateDir); err == nil {
			bound = min(bound, size/8)
		}
		err = b.log.Attach(dir, bound, func(err error) { b.warn("the log is kept in memory only", "cause", err.Error()) })
	}
	if err != nil {
		b.warn("the log is kept in memory only", "cause", err.Error())
	}
}

// carryOut does what was ordered while the box ran last. Orders to take a disk are left to prepareDisk.
// Each step may be done again after a power cut; the orders go last.
func (b *systemBox) carryOut(disks []disk.Disk) error {
	o, err := b.state.Orders()
	if err != nil || !o.Reset {
		return err
	}
	b.logger.Warn("this box is reset: it forgets who it was", "data too", fmt.Sprint(o.EraseData))
	if o.EraseData {
		if err := b.state.RemoveDir(ownDataDir); err != nil {
			return err
		}
		bound, ok, err := b.state.Binding()
		if err != nil {
			return err
		}
		for i, d := range disks {
			first := d.Content == disk.Data && d.UUID == bound.UUID
			further := d.Content == disk.Part && d.UUID == disk.FurtherUUID(bound.UUID, d.Number)
			if ok && (first || further) {
				if err := disk.GiveUp(d); err != nil {
					return err
				}
				b.logger.Warn("data disk given up: it is formatted when it is used again", "disk", d.String())
				disks[i].Found = disk.Found{Content: disk.Interrupted, Detail: "given up"}
			}
		}
	}
	if err := b.state.Forget(); err != nil {
		return err
	}
	return b.state.Give(state.Orders{})
}

// prepareDisk finds and mounts the data disk, and says what it does with every other. Without one the
// box goes on as a router. Which disk it is is remembered before it is formatted, and that it is ready
// before it is used.
func (b *systemBox) prepareDisk(ctx context.Context, disks []disk.Disk, named []string) {
	err := b.useDisk(ctx, disks, named)
	switch {
	case err != nil:
		b.data = ""
		b.dataAt = "none: " + err.Error()
		b.logger.Error("data disk cannot be used: streams are off", "cause", err)
		b.note("data disk cannot be used: " + err.Error())
	case b.data == "":
		b.dataAt = "none"
		b.logger.Warn("no data disk: this box is a router, streams are off")
	}
}

func (b *systemBox) useDisk(ctx context.Context, disks []disk.Disk, named []string) error {
	bound, isBound, err := b.state.Binding()
	if err != nil {
		return err
	}
	orders, err := b.state.Orders()
	if err != nil {
		return err
	}
	w := disk.Wish{Named: named, Erase: orders.TakeDisk, NoFormat: b.stateLost}
	if isBound {
		w.Bound, w.Begun, w.Known = bound.UUID, !bound.Ready, bound.Disk
		for _, m := range bound.More {
			w.Further = append(w.Further, disk.Further{Number: m.Number, Known: m.Disk, Ready: m.Ready})
		}
	}
	d := disk.Decide(disks, w)
	for _, n := range d.Notes {
		b.warn(n)
	}
	if w.Erase != "" && d.Action == disk.NoDisk {
		// It was there when it was ordered. What the box had before is better than nothing.
		if err := b.state.Give(state.Orders{}); err != nil {
			return err
		}
		return b.useDisk(ctx, disks, named)
	}
	switch d.Action {
	case disk.NoDisk:
		return nil
	case disk.UseState:
		if b.forgetful {
			return errors.New("data is to be kept on the system disk, which has no state partition")
		}
		dir, err := b.state.Dir(ownDataDir)
		if err != nil {
			return err
		}
		if err := bindMount(dir, dataDir); err != nil {
			return err
		}
		b.mounts = append(b.mounts, dataDir)
		b.mountedData("state partition")
		return nil
	}
	now := state.Binding{UUID: diskNamed(disks, d.Disk).UUID, Disk: describe(diskNamed(disks, d.Disk)), BoundAt: time.Now().UTC()}
	if d.Action == disk.Format {
		now.UUID = disk.NewUUID()
	}
	if now.UUID == bound.UUID {
		now.BoundAt, now.More = bound.BoundAt, bound.More
	} else {
		w.Further = nil // those are of another store
	}
	// Before anything is mounted: a store of which a part is missing is not used, nor repaired, nor added to.
	more := disk.DecideMore(disks, d.Disk, now.UUID, w)
	for _, n := range more.Notes {
		b.warn(n)
	}
	if more.Refused != "" {
		return errors.New(more.Refused)
	}
	if d.Action == disk.Format {
		if err := b.state.Bind(now); err != nil {
			return err
		}
	}
	if err := disk.Prepare(ctx, disk.Config{Run: b.reaper.run, Dir: dataDir, Logger: b.logger}, d, now.UUID); err != nil {
		return err
	}
	b.mounts = append(b.mounts, dataDir)
	if d.Action == disk.Format || !isBound || !bound.Ready {
		now.Ready = true
		if err := b.state.Bind(now); err != nil {
			return err
		}
	}
	now.Ready = true
	names := []string{d.Disk}
	for _, m := range more.Disks {
		if err := b.useMore(ctx, disks, m, &now); err != nil {
			return err
		}
		names = append(names, m.Disk)
	}
	if orders.TakeDisk != "" {
		if err := b.state.Give(state.Orders{}); err != nil {
			return err
		}
	}
	b.dataDisks = names
	b.mountedData(strings.Join(names, " + "))
	return nil
}

// useMore mounts a further data disk, which is remembered as the first one is: before it is formatted, and as ready
// before its first use.
func (b *systemBox) useMore(ctx context.Context, disks []disk.Disk, m disk.More, now *state.Binding) error {
	note := func(ready bool) error {
		x := state.MoreDisk{Number: m.Number, Disk: describe(diskNamed(disks, m.Disk)), Ready: ready}
		i := slices.IndexFunc(now.More, func(y state.MoreDisk) bool { return y.Number == m.Number })
		if i >= 0 && now.More[i] == x {
			return nil
		}
		now.More = slices.Clone(now.More)
		if i >= 0 {
			now.More[i] = x
		} else {
			now.More = append(now.More, x)
		}
		return b.state.Bind(*now)
	}
	if m.Format {
		if err := note(false); err != nil {
			return err
		}
	}
	dir := fmt.Sprintf("%s/%d", moreDir, m.Number)
	if err := disk.PrepareMore(ctx, disk.Config{Run: b.reaper.run, Dir: dir, Logger: b.logger}, m); err != nil {
		return err
	}
	b.mounts = append(b.mounts, dir)
	if err := note(true); err != nil {
		return err
	}
	// millraced wants it to be there, so as not to write where a disk should be mounted and is not.
	store := path.Join(dir, path.Base(storeDir))
	if err := os.MkdirAll(store, 0o700); err != nil {
		return fmt.Errorf("make folder for data: %w", err)
	}
	root, err := os.Open(dir)
	if err != nil {
		return fmt.Errorf("make folder for data: %w", err)
	}
	if err := errors.Join(root.Sync(), root.Close()); err != nil {
		return fmt.Errorf("make folder for data: %w", err)
	}
	b.extraDirs = append(b.extraDirs, store)
	return nil
}

// diskNamed returns the disk of a kernel name.
func diskNamed(disks []disk.Disk, name string) disk.Disk {
	i := slices.IndexFunc(disks, func(x disk.Disk) bool { return x.Name == name })
	return disks[i]
}

// describe describes a disk to people who look for it.
func describe(d disk.Disk) string { return fmt.Sprintf("%s, %s", d, gib(d.Bytes)) }

// mountedData notes that there is a place for data.
func (b *systemBox) mountedData(name string) {
	b.data, b.dataAt = dataDir, name
	var size, free int64
	for _, dir := range append([]string{dataDir}, b.extraDirs...) {
		s, f, err := disk.Usage(dir)
		if err != nil {
			return
		}
		size, free = size+s, free+f
	}
	b.dataAt = fmt.Sprintf("%s, %s, %s free", name, gib(size), gib(free))
}

// readConfig reads the owner's configuration: what the state has, unless flashing brought another; the
// built-in one when there is none; and lets the kernel command line change it.
//
// When the owner's file cannot be read the box does not serve: the built-in configuration lets
// everybody in where the owner's may not.
func (b *systemBox) readConfig() (*File, error) {
	name, text := "built-in configuration", ""
	var flashed []byte
	found := false
	if b.system != nil {
		var err error
		if flashed, found, err = disk.ReadESP(*b.system, espDir, espConfig); err != nil {
			return nil, fmt.Errorf("read configuration: %w", err)
		}
	} else if _, err := os.Stat("/sys/firmware/efi"); err == nil {
		return nil, fmt.Errorf("read configuration: the disk this box was started from is not known: %s", b.stateAt)
	}
	if found {
		name, text = espConfig, string(flashed)
		if !b.forgetful {
			imported, err := b.state.Import(text)
			if err != nil {
				return nil, err
			}
			if imported {
				b.logger.Info("taking over the configuration that was flashed", "file", espConfig)
			}
		}
	}
	switch own, has, err := b.state.Config(); {
	case err != nil:
		return nil, err
	case has:
		name, text, found = runConfig, own, true
	case b.stateLost && !found:
		return nil, errors.New("read configuration: it is in the state of this box, which cannot be read; the built-in one would let everybody in")
	}
	if found {
		b.logger.Info("using configuration " + name)
	}
	f, err := ParseConfig(name, text)
	if err != nil {
		return nil, err
	}
	cmdline, err := os.ReadFile("/proc/cmdline")
	if err != nil {
		return nil, fmt.Errorf("read kernel command line: %w", err)
	}
	return f, ParseCmdline(string(cmdline)).apply(&f.Settings)
}

// identify makes or finds who this box is.
func (b *systemBox) identify(hostname string) error {
	id, made, err := b.state.Identity(hostname, time.Now())
	if err != nil {
		return err
	}
	if b.key, err = id.Key(); err != nil {
		return err
	}
	b.name = id.Name
	if made {
		b.logger.Info("this box has a new identity", "name", b.name, "key", b.key)
	}
	return nil
}

// uploads returns where images are uploaded to; nil on a box that remembers nothing.
func (b *systemBox) uploads() (*update.Uploads, error) {
	if b.forgetful {
		return nil, nil
	}
	dir, err := b.state.Dir(uploadDir)
	if err != nil {
		return nil, err
	}
	return update.OpenUploads(dir), nil
}
