package flash

import (
	"os"
	"path/filepath"
	"testing"
)

func TestMounted(t *testing.T) {
	const mounts = "22 1 8:1 / / rw,relatime - ext4 /dev/sda1 rw\n" +
		"23 1 8:18 / /home rw - xfs /dev/sdb2 rw\n" +
		"24 1 259:3 / /x rw shared:1 - vfat /dev/nvme0n1p3 rw\n" +
		"25 1 8:33 / /y rw - ext4 /dev/root rw\n"
	for _, tt := range []struct{ name, number, want string }{
		{"sda", "", "/dev/sda1 is mounted on /"},
		{"sdb", "", "/dev/sdb2 is mounted on /home"},
		{"nvme0n1", "", "/dev/nvme0n1p3 is mounted on /x"},
		{"sdc", "8:33", "/dev/root is mounted on /y"},
		{"sd", "", ""},
		{"sdd", "8:49", ""},
	} {
		if got, ok := mounted(tt.name, map[string]bool{tt.number: true}, mounts); got != tt.want || ok != (tt.want != "") {
			t.Errorf("%s: %q, want %q", tt.name, got, tt.want)
		}
	}
}

func TestNumbers(t *testing.T) {
	dir := sysfs(t, "block/sda", map[string]string{"dev": "8:0\n", "sda1/dev": "8:1\n", "sda1/partition": "1\n", "queue/dev": "9:9"})
	if got := numbers(dir); len(got) != 2 || !got["8:0"] || !got["8:1"] {
		t.Errorf("got %v", got)
	}
}

// sysfs makes a folder as the kernel has for a block device.
func sysfs(t *testing.T, path string, files map[string]string) string {
	t.Helper()
	dir := filepath.Join(t.TempDir(), path)
	for name, text := range files {
		name = filepath.Join(dir, name)
		if err := os.MkdirAll(filepath.Dir(name), 0o755); err != nil {
			t.Fatal(err)
		}
		if err := os.WriteFile(name, []byte(text), 0o644); err != nil {
			t.Fatal(err)
		}
	}
	return dir
}

func TestDescribe(t *testing.T) {
	for _, tt := range []struct {
		path  string
		files map[string]string
		want  Target
	}{
		{"pci0/ata1/host0/block/sda", map[string]string{
			"size": "1000\n", "ro": "0\n", "removable": "0\n", "queue/logical_block_size": "512\n",
			"device/vendor": "ATA     \n", "device/model": "Acme SSD\n", "device/vpd_pg80": "\x00\x80\x00\x04 S 1",
		}, Target{Name: "sda", Model: "ATA Acme SSD", Serial: "S 1", Bytes: 512000, SectorBytes: 512}},
		{"pci0/usb1/1-1/host2/block/sdb", map[string]string{
			"size": "2048", "ro": "1", "removable": "0", "queue/logical_block_size": "4096",
		}, Target{Name: "sdb", Bytes: 1 << 20, SectorBytes: 4096, Removable: true, ReadOnly: true}},
		{"pci0/virtio1/block/vda", map[string]string{
			"size": "8", "ro": "0", "removable": "0", "queue/logical_block_size": "512", "serial": "data\n", "device/vendor": "0x1af4\n",
		}, Target{Name: "vda", Serial: "data", Bytes: 4096, SectorBytes: 512}},
		{"block/mmcblk0", map[string]string{
			"size": "8", "ro": "0", "removable": "1", "queue/logical_block_size": "512",
		}, Target{Name: "mmcblk0", Bytes: 4096, SectorBytes: 512, Removable: true}},
		{"block/sda/sda2", map[string]string{"size": "8", "ro": "0", "partition": "2"}, Target{Name: "sda2", Whole: "sda", Bytes: 4096}},
	} {
		got, err := describe("/dev/x", sysfs(t, tt.path, tt.files))
		tt.want.Path, tt.want.Device = "/dev/x", true
		if err != nil || got != tt.want {
			t.Errorf("%s:\n got %+v (error %v)\nwant %+v", tt.path, got, err, tt.want)
		}
	}
}

// TestInspectDisks looks at the disks of this machine, if it shows any, and writes to none: one that is in
// use must be seen to be.
func TestInspectDisks(t *testing.T) {
	mounts, err := os.ReadFile("/proc/self/mountinfo")
	if err != nil {
		t.Fatal(err)
	}
	disks, err := filepath.Glob("/sys/block/*")
	if err != nil {
		t.Fatal(err)
	}
	for _, d := range disks {
		name := filepath.Base(d)
		path := "/dev/" + name
		if st, err := os.Stat(path); err != nil || st.Mode()&os.ModeDevice == 0 {
			continue
		}
		target, err := Inspect(path)
		if err != nil {
			continue // not ours to open, or without a medium
		}
		if got, ok := mounted(name, numbers(d), string(mounts)); ok && target.Busy == "" {
			t.Errorf("%s counts as free, but %s", path, got)
		}
	}
}
