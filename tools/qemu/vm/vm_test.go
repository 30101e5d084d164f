package vm

import (
	"bufio"
	"bytes"
	"context"
	"errors"
	"fmt"
	"net"
	"net/netip"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"
	"testing/synctest"
	"time"

	"millrace/board"
)

func TestArgs(t *testing.T) {
	b := board.Board{Cmdline: "console=ttyS0", QEMU: board.QEMU{Args: []string{"-machine", "q35"}, Disk: "nvme", NIC: "e1000e", Firmware: "/fw/CODE.fd"}}
	c := Config{Board: b, Image: "out/m.img", DataDisk: "a,b.img", CPUs: 2, MemoryMiB: 512, Forwards: []Forward{{14222, 4222}, {1, 2}}}
	p := paths{nvram: "/t/nvram", qmp: "/t/qmp"}

	firmware := strings.Join(args(c, p), " ")
	c.Reboots = true
	reboots := strings.Join(args(c, p), " ")
	if !strings.Contains(firmware, "-no-reboot") || strings.Contains(reboots, "-no-reboot") {
		t.Errorf("a guest that starts anew: %s\nthat does so in the machine: %s", firmware, reboots)
	}
	c.Direct, c.Cmdline, c.DataDisk = true, "millrace.disk=vdb", ""
	direct := args(c, p)
	for _, want := range []string{
		"-machine q35 -smp 2 -m 512 ", "-qmp unix:/t/qmp,server=on,wait=off", "unit=0,readonly=on,file=/fw/CODE.fd",
		"unit=1,file=/t/nvram", "readonly=on,file=out/m.img", "discard=unmap,file=a,,b.img",
		"-device nvme,drive=data,serial=data", "-device e1000e,netdev=net,romfile=",
		"restrict=on,hostfwd=tcp:127.0.0.1:14222-:4222,hostfwd=tcp:127.0.0.1:1-:2",
	} {
		if !strings.Contains(firmware, want) {
			t.Errorf("firmware boot lacks %q:\n%s", want, firmware)
		}
	}
	i := slices.Index(direct, "-append")
	if i < 0 || direct[i+1] != "console=ttyS0 millrace.disk=vdb" {
		t.Errorf("direct boot has no right command line: %q", direct)
	}
	all := strings.Join(direct, " ")
	if !strings.Contains(all, "-kernel out/m.vmlinuz -initrd out/m.initramfs") || strings.Contains(all, "pflash") || strings.Contains(all, "data") {
		t.Errorf("direct boot: %s", all)
	}
}

func TestArgsNetwork(t *testing.T) {
	c := Config{
		Board: board.Board{QEMU: board.QEMU{NIC: "e1000e"}}, Image: "m.img", SystemDisk: "n1.img",
		Network: &Network{Socket: "/t/0", MAC: net.HardwareAddr{2, 0, 0, 0, 0, 1}},
	}
	machine := strings.Join(args(c, paths{}), " ")
	gateway := strings.Join(gatewayArgs("/t/1", netip.MustParsePrefix("10.77.0.0/24"), netip.MustParseAddr("10.77.0.254"),
		[]GatewayForward{{14222, netip.MustParseAddr("10.77.0.1"), 4222}}), " ")
	for want, text := range map[string]string{
		"addr.path=/t/0 -device e1000e,netdev=net,romfile=,mac=02:00:00:00:00:01":       machine,
		"id=boot,format=raw,file=n1.img":                                                machine,
		"net=10.77.0.0/24,host=10.77.0.254,hostfwd=tcp:127.0.0.1:14222-10.77.0.1:4222 ": gateway,
		"addr.path=/t/1": gateway,
	} {
		if !strings.Contains(text, want) {
			t.Errorf("lacks %q:\n%s", want, text)
		}
	}
	if strings.Contains(machine, "user") {
		t.Errorf("a machine behind a switch has the emulator's network too:\n%s", machine)
	}
}

func TestArgsSockets(t *testing.T) {
	c := Config{Image: "m.img", Direct: true, SystemDisk: "n1.img", SystemSocket: "/t/s", DataDisk: "d.img", DataSocket: "/t/a,b"}
	all := strings.Join(args(c, paths{}), " ")
	for _, want := range []string{
		"id=boot,format=raw,file.driver=nbd,file.server.type=unix,file.server.path=/t/s -device",
		"discard=unmap,file.driver=nbd,file.server.type=unix,file.server.path=/t/a,,b -device",
	} {
		if !strings.Contains(all, want) {
			t.Errorf("lacks %q:\n%s", want, all)
		}
	}
	if strings.Contains(all, ".img") || strings.Contains(all, "readonly") {
		t.Errorf("files beside sockets, or a disk that cannot be written:\n%s", all)
	}
}

func TestStartRefuses(t *testing.T) {
	for name, c := range map[string]Config{
		"no emulator":                 {Image: "x"},
		"no image":                    {Board: board.All()[0]},
		"ports behind a switch":       {Board: board.All()[0], Image: "x", Network: &Network{}, Forwards: []Forward{{1, 2}}},
		"command line and firmware":   {Board: board.All()[0], Image: "x", Cmdline: "a"},
		"emulator that is not there":  {Board: board.Board{QEMU: board.QEMU{Binary: "/no/such/qemu"}}, Image: "x", Direct: true},
		"firmware that is not there":  {Board: board.Board{QEMU: board.QEMU{Binary: "true", NVRAM: "/no/such/vars"}}, Image: "x"},
		"data disk in a missing path": {Board: board.Board{QEMU: board.QEMU{Binary: "true"}}, Image: "x", Direct: true, DataDisk: "/no/such/disk"},
	} {
		if v, err := Start(c); err == nil {
			v.Kill()
			t.Errorf("%s: started", name)
		}
	}
}

// TestVMEndsEarly runs a program that is no emulator: it prints and ends.
func TestVMEndsEarly(t *testing.T) {
	dir := t.TempDir()
	fake := filepath.Join(dir, "qemu")
	if err := os.WriteFile(fake, []byte("#!/bin/sh\necho guest says hello\necho bad option >&2\nexit 3\n"), 0o755); err != nil {
		t.Fatal(err)
	}
	log, data := filepath.Join(dir, "log"), filepath.Join(dir, "data")
	var mirror bytes.Buffer
	v, err := Start(Config{Board: board.Board{QEMU: board.QEMU{Binary: fake}}, Image: "x", Direct: true,
		ConsoleLog: log, Console: &mirror, DataDisk: data, DataBytes: 1 << 20})
	if err != nil {
		t.Fatal(err)
	}
	err = v.WaitConsole(t.Context(), ReadyText)
	if !errors.Is(err, ErrEnded) || !strings.Contains(err.Error(), "bad option") || !strings.Contains(err.Error(), "guest says hello") {
		t.Errorf("got error %v", err)
	}
	if err := v.WaitConsole(t.Context(), "says hello"); err != nil {
		t.Errorf("text printed before the end: %v", err)
	}
	v.Kill()
	if b, err := os.ReadFile(log); err != nil || string(b) != "guest says hello\n" || mirror.String() != string(b) {
		t.Errorf("log %q, error %v; mirror %q", b, err, mirror.String())
	}
	if st, err := os.Stat(data); err != nil || st.Size() != 1<<20 {
		t.Errorf("data disk: %v, error %v", st, err)
	}
	if _, err := os.Stat(v.dir); !errors.Is(err, os.ErrNotExist) {
		t.Errorf("temporary files are left: %v", err)
	}
}

// A box that says that it will not serve is not waited for.
func TestBootRefused(t *testing.T) {
	fake := filepath.Join(t.TempDir(), "qemu")
	if err := os.WriteFile(fake, []byte("#!/bin/sh\necho 'millrace: ERROR: not serving, cause no reason'\nexec sleep 600\n"), 0o755); err != nil {
		t.Fatal(err)
	}
	v, err := Boot(t.Context(), Config{Board: board.Board{QEMU: board.QEMU{Binary: fake}}, Image: "x", Direct: true, BootTimeout: time.Minute})
	if !errors.Is(err, ErrNotServing) || !strings.Contains(err.Error(), "cause no reason") {
		t.Errorf("booted %v, error %v", v, err)
	}
}

func TestConsoleWait(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		c := newConsole(nil)
		go func() {
			for _, s := range []string{"boot", "ing\nmillrace: re", "ady, nats\n"} {
				<-time.After(time.Second)
				fmt.Fprint(c, s)
			}
			<-time.After(time.Second)
			c.finish()
		}()
		ctx, cancel := context.WithTimeout(t.Context(), 1500*time.Millisecond)
		defer cancel()
		if _, _, err := c.wait(ctx, ReadyText); !errors.Is(err, context.DeadlineExceeded) {
			t.Errorf("half a line: got error %v", err)
		}
		if found, ok, err := c.wait(t.Context(), ReadyText, "soft lockup"); err != nil || !ok || found != ReadyText {
			t.Errorf("got %q, %v, %v", found, ok, err)
		}
		if _, ok, err := c.wait(t.Context(), "never"); ok || err != nil {
			t.Errorf("after the end: got %v, %v", ok, err)
		}
	})
}

func TestConsoleKeepsNewest(t *testing.T) {
	c := newConsole(nil)
	chunk := bytes.Repeat([]byte("."), maxConsole/4)
	for range 10 {
		c.Write(chunk)
	}
	c.Write([]byte("newest"))
	if s := c.String(); len(s) > maxConsole || !strings.HasSuffix(s, "newest") {
		t.Errorf("console holds %d bytes, ending in %q", len(s), s[len(s)-10:])
	}
}

// qmpServer answers one connection with the given lines, one after each line it reads, the first at
// once.
func qmpServer(t *testing.T, answers ...string) string {
	t.Helper()
	path := filepath.Join(t.TempDir(), "qmp")
	l, err := net.Listen("unix", path)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { l.Close() })
	go func() {
		c, err := l.Accept()
		if err != nil {
			return
		}
		defer c.Close()
		r := bufio.NewReader(c)
		for i, a := range answers {
			if i > 0 {
				if _, err := r.ReadString('\n'); err != nil {
					return
				}
			}
			fmt.Fprint(c, a)
		}
	}()
	return path
}

func TestQMP(t *testing.T) {
	const hello = "{\"QMP\":{}}\n"
	ok := qmpServer(t, hello, "{\"return\":{}}\n", "{\"event\":\"POWERDOWN\"}\n{\"return\":{}}\n")
	if err := qmp(t.Context(), ok, "system_powerdown"); err != nil {
		t.Error(err)
	}
	bad := qmpServer(t, hello, "{\"return\":{}}\n", "{\"error\":{\"class\":\"CommandNotFound\",\"desc\":\"no such command\"}}\n")
	if err := qmp(t.Context(), bad, "x"); err == nil || !strings.Contains(err.Error(), "no such command") {
		t.Errorf("refused command: got error %v", err)
	}
	if err := qmp(t.Context(), qmpServer(t, hello, "nonsense\n"), "x"); err == nil {
		t.Error("nonsense was taken for an answer")
	}
}

func TestWaitNATS(t *testing.T) {
	l, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	defer l.Close()
	go func() {
		// As the emulator does: connections are accepted, and closed while nothing listens behind.
		for _, greeting := range []string{"", "", "INFO {\"server_id\":\"x\"}\r\n"} {
			c, err := l.Accept()
			if err != nil {
				return
			}
			fmt.Fprint(c, greeting)
			c.Close()
		}
	}()
	ctx, cancel := context.WithTimeout(t.Context(), 10*time.Second)
	defer cancel()
	if err := WaitNATS(ctx, l.Addr().String()); err != nil {
		t.Error(err)
	}
	for _, greeting := range []string{"INFO {", "+OK\r\n", "INFO nonsense\r\n"} {
		go func() {
			c, err := l.Accept()
			if err != nil {
				return
			}
			fmt.Fprint(c, greeting)
			c.Close()
		}()
		if err := readInfo(ctx, l.Addr().String()); err == nil {
			t.Errorf("greeting %q was taken", greeting)
		}
	}
}

func TestPickPorts(t *testing.T) {
	got, err := pickPorts([]Forward{{0, 4222}, {15000, 1}, {0, 2}})
	if err != nil {
		t.Fatal(err)
	}
	if got[0].Host == 0 || got[1].Host != 15000 || got[2].Host == 0 || got[0].Host == got[2].Host {
		t.Errorf("got %v", got)
	}
	v := &VM{cfg: Config{Forwards: got}}
	if addr := v.Addr(1); addr != "127.0.0.1:15000" {
		t.Errorf("address %s", addr)
	}
}
