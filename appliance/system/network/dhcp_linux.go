package network

import (
	"context"
	"errors"
	"fmt"
	"net"
	"net/netip"
	"slices"
	"time"

	"github.com/insomniacslk/dhcp/dhcpv4"
	"github.com/insomniacslk/dhcp/dhcpv4/nclient4"
	"github.com/u-root/u-root/pkg/dhclient"
	"github.com/vishvananda/netlink"
)

const (
	askTimeout = 2 * time.Second // for one answer
	askTries   = 3
	askAgain   = 10 * time.Second // pause when nobody answered

	// defaultLease is used when a server names no lease time, which RFC 2131 forbids.
	defaultLease = time.Hour

	// minRenew bounds how often a lease is renewed.
	minRenew = 30 * time.Second
)

// lease keeps one link configured by DHCP until ctx ends. It sends to first once, with the first
// address.
func (n *Network) lease(ctx context.Context, link netlink.Link, first chan<- struct{}) {
	name := link.Attrs().Name
	log := n.cfg.Logger.With("link", name)
	var now *nclient4.Lease
	var expires time.Time
	waiting := true
	for {
		next, err := n.ask(ctx, link, now)
		pause := askAgain
		switch {
		case err == nil:
			now = next
			left := now.ACK.IPAddressLeaseTime(defaultLease)
			expires = time.Now().Add(left)
			// RFC 2131 4.4.5: renew after half the time.
			pause = max(left/2, minRenew)
			if a, ok := netip.AddrFromSlice(now.ACK.YourIPAddr.To4()); ok && n.add(a) {
				log.Info("network is up", "address", a.String(), "lease", left.String())
			}
			if waiting {
				waiting = false
				first <- struct{}{}
			}
		case now != nil && time.Now().After(expires):
			log.Warn("DHCP lease ended", "cause", err)
			if err := n.drop(link, now); err != nil {
				log.Warn("address cannot be taken back", "cause", err)
			}
			now = nil
		case now != nil:
			log.Warn("DHCP lease not renewed yet", "cause", err, "left", time.Until(expires).String())
		default:
			log.Debug("no DHCP lease yet", "cause", err)
		}
		select {
		case <-ctx.Done():
			return
		case <-time.After(pause):
		}
	}
}

// ask gets a lease, or renews the one there is, and configures the link with it.
func (n *Network) ask(ctx context.Context, link netlink.Link, now *nclient4.Lease) (*nclient4.Lease, error) {
	name := link.Attrs().Name
	if err := setUp(name); err != nil {
		return nil, err
	}
	c, err := nclient4.New(name, nclient4.WithTimeout(askTimeout), nclient4.WithRetry(askTries))
	if err != nil {
		return nil, fmt.Errorf("open DHCP client on %s: %w", name, err)
	}
	defer c.Close()
	host := dhcpv4.WithOption(dhcpv4.OptHostName(n.hostname))
	var next *nclient4.Lease
	if now != nil {
		next, err = c.Renew(ctx, now, host)
	} else {
		next, err = c.Request(ctx, host)
	}
	if err != nil {
		return nil, fmt.Errorf("ask for a DHCP lease on %s: %w", name, err)
	}
	n.noteTimeServers(next.ACK)
	if err := dhclient.Configure4(link, next.ACK); err != nil {
		return nil, fmt.Errorf("configure %s: %w", name, err)
	}
	return next, nil
}

// noteTimeServers keeps the time servers that an answer names (option 42).
func (n *Network) noteTimeServers(ack *dhcpv4.DHCPv4) {
	n.mu.Lock()
	defer n.mu.Unlock()
	for _, ip := range ack.NTPServers() {
		if s := ip.String(); !slices.Contains(n.timeServers, s) {
			n.timeServers = append(n.timeServers, s)
		}
	}
}

// drop takes an address off a link whose lease ended.
func (n *Network) drop(link netlink.Link, l *nclient4.Lease) error {
	a, ok := netip.AddrFromSlice(l.ACK.YourIPAddr.To4())
	if !ok {
		return errors.New("lease has no address")
	}
	n.remove(a)
	mask := l.ACK.SubnetMask()
	if mask == nil {
		mask = net.CIDRMask(32, 32)
	}
	return netlink.AddrDel(link, &netlink.Addr{IPNet: &net.IPNet{IP: l.ACK.YourIPAddr, Mask: mask}})
}
