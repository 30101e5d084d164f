//go:build !linux

package cluster

import (
	"fmt"
	"net"
	"net/netip"
)

// Network exists on Linux only.
type Network struct{}

// Host exists on Linux only.
type Host struct{ network *Network }

// NewNetwork returns ErrNoNetwork.
func NewNetwork(int) (*Network, error) { return nil, fmt.Errorf("%w: not on Linux", ErrNoNetwork) }

// Dial returns ErrNoNetwork.
func (n *Network) Dial(network, addr string) (net.Conn, error) { return nil, ErrNoNetwork }

// Set does nothing.
func (n *Network) Set(from, to int, l Link) {}

// Isolate does nothing.
func (n *Network) Isolate(host int, alone bool) {}

// Heal does nothing.
func (n *Network) Heal() {}

// Close does nothing.
func (n *Network) Close() error { return nil }

func (n *Network) host(i int) *Host { return nil }

func (h *Host) address() netip.Addr   { return netip.Addr{} }
func (h *Host) do(func() error) error { return ErrNoNetwork }
