package disk

import (
	"fmt"
	"os"
	"path/filepath"
	"strconv"
	"strings"
	"sync"
)

// notDisks are the kernel name prefixes of block devices that are no disks of their own.
var notDisks = []string{"loop", "ram", "zram", "sr", "fd", "dm-", "md", "nbd", "mtdblock"}

// Scan looks at every disk of the machine.
func Scan() ([]Disk, error) {
	entries, err := os.ReadDir("/sys/block")
	if err != nil {
		return nil, fmt.Errorf("list disks: %w", err)
	}
	var disks []Disk
	for _, e := range entries {
		if isDisk(e.Name()) {
			disks = append(disks, Disk{Name: e.Name()})
		}
	}
	// All at once: one that is slow, or of which much must be read, keeps no other waiting.
	var looking sync.WaitGroup
	for i := range disks {
		looking.Go(func() { disks[i] = look(disks[i].Name) })
	}
	looking.Wait()
	return disks, nil
}

// isDisk tells disks from other block devices by the kernel name.
func isDisk(name string) bool {
	for _, p := range notDisks {
		if strings.HasPrefix(name, p) {
			return false
		}
	}
	return true
}

// look reads one disk's properties and content.
func look(name string) Disk {
	d := Disk{
		Name: name, Removable: attr(name, "removable") == 1, ReadOnly: attr(name, "ro") == 1,
		// Where it stands differs: virtio, NVMe, SCSI and SATA.
		Serial: text(name, "serial", "device/serial", "wwid", "device/wwid"), Model: text(name, "device/model"),
	}
	d.Bytes = attr(name, "size") * 512 // always in units of 512 bytes
	f, err := os.Open(Device(name))
	if err != nil {
		d.Detail = err.Error()
		return d
	}
	defer f.Close()
	d.Found = Classify(f, d.Bytes)
	return d
}

// text reads the first of the attributes of a disk that is there and not empty.
func text(name string, attributes ...string) string {
	for _, a := range attributes {
		b, err := os.ReadFile(filepath.Join("/sys/block", name, a))
		if s := strings.Join(strings.Fields(string(b)), " "); err == nil && s != "" {
			return s
		}
	}
	return ""
}

// attr reads a number from a disk's directory in /sys; 0 when there is none.
func attr(name, attribute string) int64 {
	b, err := os.ReadFile(filepath.Join("/sys/block", name, attribute))
	if err != nil {
		return 0
	}
	n, err := strconv.ParseInt(strings.TrimSpace(string(b)), 10, 64)
	if err != nil {
		return 0
	}
	return n
}

// Device is the device file of a disk.
func Device(name string) string {
	return "/dev/" + name
}

// Partition is the device file of a disk's partition: names that end in a digit get a "p" between.
func Partition(name string, number int) string {
	if last := name[len(name)-1]; last >= '0' && last <= '9' {
		return fmt.Sprintf("/dev/%sp%d", name, number)
	}
	return fmt.Sprintf("/dev/%s%d", name, number)
}
