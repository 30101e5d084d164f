package vm

import (
	"bytes"
	"errors"
	"fmt"
	"net/netip"
	"os/exec"
	"sync"
	"syscall"

	"millrace/board"
)

// GatewayForward makes a TCP port of a machine behind a switch reachable on 127.0.0.1 of this machine.
type GatewayForward struct {
	Host  int        // port here; 0 takes a free one
	Guest netip.Addr // the machine
	Port  int        // its port
}

// Gateway is how this machine reaches machines behind a switch: an emulator without a machine, whose
// network card's place a port of the switch has. The machines reach nothing through it.
//
// It is not on the wire between a machine and the switch: the emulator's network answers whatever passes,
// also what is for other machines. Behind the switch it gets what is for it.
type Gateway struct {
	cmd      *exec.Cmd
	forwards []GatewayForward
	stderr   bytes.Buffer
	wg       sync.WaitGroup
}

// StartGateway starts a gateway for the machines of a network, with an address of it that no machine has.
// socket is as Switch.Plug returns it. The caller closes it.
func StartGateway(b board.Board, socket string, network netip.Prefix, address netip.Addr, forwards []GatewayForward) (*Gateway, error) {
	ports := make([]Forward, len(forwards))
	for i, f := range forwards {
		ports[i] = Forward{Host: f.Host, Guest: f.Port}
	}
	ports, err := pickPorts(ports)
	if err != nil {
		return nil, fmt.Errorf("start gateway: %w", err)
	}
	g := &Gateway{forwards: append([]GatewayForward(nil), forwards...)}
	for i := range g.forwards {
		g.forwards[i].Host = ports[i].Host
	}
	g.cmd = exec.Command(b.QEMU.Binary, gatewayArgs(socket, network, address, g.forwards)...)
	g.cmd.Stderr = &g.stderr
	g.cmd.SysProcAttr = &syscall.SysProcAttr{Setpgid: true, Pdeathsig: syscall.SIGKILL} // as of a VM
	if err := g.cmd.Start(); err != nil {
		return nil, fmt.Errorf("start gateway: %w", err)
	}
	g.wg.Go(func() { _ = g.cmd.Wait() }) // Close kills it, so the error says nothing
	return g, nil
}

// gatewayArgs returns the emulator's arguments.
func gatewayArgs(socket string, network netip.Prefix, address netip.Addr, forwards []GatewayForward) []string {
	user := fmt.Sprintf("user,id=user,restrict=on,ipv6=off,net=%s,host=%s", network.Masked(), address)
	for _, f := range forwards {
		user += fmt.Sprintf(",hostfwd=tcp:127.0.0.1:%d-%s:%d", f.Host, f.Guest, f.Port)
	}
	return []string{
		"-machine", "none", "-display", "none", "-nodefaults", "-monitor", "none", "-serial", "none",
		"-netdev", user, "-netdev", "hubport,id=hub0,hubid=0,netdev=user",
		"-netdev", "stream,id=switch,server=off,addr.type=unix,addr.path=" + escape(socket),
		"-netdev", "hubport,id=hub1,hubid=0,netdev=switch",
	}
}

// Port returns the port on 127.0.0.1 of a machine's port; 0 when it is not forwarded.
func (g *Gateway) Port(guest netip.Addr, port int) int {
	for _, f := range g.forwards {
		if f.Guest == guest && f.Port == port {
			return f.Host
		}
	}
	return 0
}

// Close ends the gateway.
func (g *Gateway) Close() error {
	err := g.cmd.Process.Kill()
	g.wg.Wait()
	if err != nil {
		return errors.New("gateway ended by itself: " + g.stderr.String())
	}
	return nil
}
