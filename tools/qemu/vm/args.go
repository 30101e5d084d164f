package vm

import (
	"fmt"
	"strings"

	"millrace/image"
)

// paths are the files of one running machine.
type paths struct {
	nvram string // its UEFI variable store
	qmp   string // its control socket
}

// args returns the emulator's arguments. forwards have their host ports filled in.
func args(c Config, p paths) []string {
	a := append([]string(nil), c.Board.QEMU.Args...)
	a = append(a,
		"-smp", fmt.Sprint(c.CPUs), "-m", fmt.Sprint(c.MemoryMiB),
		"-display", "none", "-nodefaults",
		// signal=off: the console passes ^C on instead of dying of it.
		"-chardev", "stdio,id=console,signal=off", "-serial", "chardev:console",
		"-qmp", "unix:"+escape(p.qmp)+",server=on,wait=off",
		// Without a random source the guest waits minutes for its generator.
		"-device", "virtio-rng-pci",
	)
	if !c.Reboots {
		a = append(a, "-no-reboot")
	}
	out := image.Outputs(c.Image)
	if c.Direct {
		a = append(a, "-kernel", out.Kernel, "-initrd", out.Initramfs,
			"-append", strings.TrimSpace(c.Board.Cmdline+" "+c.Cmdline))
	} else {
		a = append(a,
			"-drive", "if=pflash,format=raw,unit=0,readonly=on,file="+escape(c.Board.QEMU.Firmware),
			"-drive", "if=pflash,format=raw,unit=1,file="+escape(p.nvram))
	}
	system := c.SystemDisk
	shared := ",readonly=on" // several machines may boot one image
	if system == "" {
		system = out.Image
	}
	if c.SystemDisk != "" || c.SystemSocket != "" {
		shared = ""
	}
	disk := c.Board.QEMU.Disk
	a = append(a, "-drive", "if=none,id=boot,format=raw"+shared+drive(system, c.SystemSocket),
		"-device", disk+",drive=boot,serial=system,bootindex=1")
	if c.DataDisk != "" || c.DataSocket != "" {
		a = append(a, "-drive", "if=none,id=data,format=raw,discard=unmap"+drive(c.DataDisk, c.DataSocket),
			"-device", disk+",drive=data,serial=data")
	}
	for i, name := range c.MoreDisks {
		id := fmt.Sprintf("data%d", i+2)
		a = append(a, "-drive", "if=none,id="+id+",format=raw,discard=unmap,file="+escape(name),
			"-device", disk+",drive="+id+",serial="+id)
	}
	return append(a, network(c)...)
}

// drive says where a disk's content is: a file, or what serves it at a socket.
func drive(file, socket string) string {
	if socket == "" {
		return ",file=" + escape(file)
	}
	return ",file.driver=nbd,file.server.type=unix,file.server.path=" + escape(socket)
}

// network returns the arguments of the network card.
func network(c Config) []string {
	card := c.Board.QEMU.NIC + ",netdev=net,romfile=" // no network boot, which costs seconds
	if n := c.Network; n != nil {
		return []string{
			"-netdev", "stream,id=net,server=off,addr.type=unix,addr.path=" + escape(n.Socket),
			"-device", card + ",mac=" + n.MAC.String(),
		}
	}
	user := "user,id=net,restrict=on"
	for _, f := range c.Forwards {
		user += fmt.Sprintf(",hostfwd=tcp:127.0.0.1:%d-:%d", f.Host, f.Guest)
	}
	return []string{"-netdev", user, "-device", card}
}

// escape doubles commas, which separate options in QEMU's arguments.
func escape(path string) string {
	return strings.ReplaceAll(path, ",", ",,")
}
