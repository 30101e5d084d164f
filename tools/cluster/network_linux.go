package cluster

import (
	"context"
	"errors"
	"fmt"
	"net"
	"net/netip"
	"os"
	"runtime"
	"sync"
	"time"

	"github.com/vishvananda/netlink"
	"golang.org/x/sys/unix"
)

// Network is a number of hosts, each a network namespace with one interface, and the switch between
// them. The last host is for clients. Nothing of it can be reached from outside of this process and of
// the processes that it started there, and nothing is left of it when they have ended.
type Network struct {
	hosts []*Host
	wg    sync.WaitGroup
	done  chan struct{}

	mu    sync.RWMutex
	links map[[2]int]*link // from, to; none: perfect
}

// Host is one network namespace.
type Host struct {
	network *Network
	number  int
	space   *os.File
	tun     *os.File // what the kernel of the namespace sends, and gets
}

// NewNetwork makes hosts 0 to n-1 for nodes and one for clients.
func NewNetwork(n int) (_ *Network, err error) {
	network := &Network{links: make(map[[2]int]*link), done: make(chan struct{})}
	defer func() {
		if err != nil {
			err = fmt.Errorf("%w: %w", ErrNoNetwork, errors.Join(err, network.Close()))
		}
	}()
	for i := range n + 1 {
		h := &Host{network: network, number: i}
		if err := h.open(); err != nil {
			return nil, err
		}
		network.hosts = append(network.hosts, h)
	}
	for _, h := range network.hosts {
		network.wg.Go(h.forward)
	}
	return network, nil
}

func (n *Network) host(i int) *Host { return n.hosts[i] }

// Close ends the switch. Processes in the network are to be ended before.
func (n *Network) Close() error {
	close(n.done)
	var errs []error
	for _, h := range n.hosts {
		errs = append(errs, h.tun.Close(), h.space.Close())
	}
	n.Heal()
	n.wg.Wait()
	return errors.Join(errs...)
}

// Set changes how packets travel from one host to another, in this direction only. The host of clients
// is the one after the nodes.
func (n *Network) Set(from, to int, l Link) {
	n.mu.Lock()
	defer n.mu.Unlock()
	key := [2]int{from, to}
	if old := n.links[key]; old != nil {
		old.close()
		delete(n.links, key)
	}
	if l == (Link{}) {
		return
	}
	k := &link{Link: l, to: n.hosts[to]}
	n.links[key] = k
	if !l.Down {
		k.queue = make(chan queued, linkPackets)
		n.wg.Go(k.run)
	}
}

// Isolate drops what one host sends and is sent, or makes its links perfect again.
func (n *Network) Isolate(host int, alone bool) {
	for i := range n.hosts {
		if i != host {
			n.Set(host, i, Link{Down: alone})
			n.Set(i, host, Link{Down: alone})
		}
	}
}

// Heal makes all links perfect.
func (n *Network) Heal() {
	n.mu.Lock()
	defer n.mu.Unlock()
	for _, l := range n.links {
		l.close()
	}
	clear(n.links)
}

// Dial connects a client.
func (n *Network) Dial(network, addr string) (conn net.Conn, err error) {
	err = n.hosts[len(n.hosts)-1].do(func() (err error) {
		conn, err = net.DialTimeout(network, addr, time.Second)
		return err
	})
	return conn, err
}

func (h *Host) address() netip.Addr { return address(h.number) }

// open makes the namespace and its interface.
func (h *Host) open() error {
	return onThread(func() error {
		if err := unix.Unshare(unix.CLONE_NEWNET); err != nil {
			return fmt.Errorf("unshare network namespace (as root): %w", err)
		}
		var err error
		if h.space, err = os.Open("/proc/thread-self/ns/net"); err != nil {
			return err
		}
		fd, err := unix.Open("/dev/net/tun", unix.O_RDWR|unix.O_CLOEXEC, 0)
		if err != nil {
			return fmt.Errorf("open /dev/net/tun: %w", err)
		}
		request, err := unix.NewIfreq("eth0")
		if err != nil {
			return errors.Join(err, unix.Close(fd))
		}
		request.SetUint16(unix.IFF_TUN | unix.IFF_NO_PI)
		if err := unix.IoctlIfreq(fd, unix.TUNSETIFF, request); err != nil {
			return errors.Join(fmt.Errorf("create interface: %w", err), unix.Close(fd))
		}
		if err := unix.SetNonblock(fd, true); err != nil {
			return errors.Join(err, unix.Close(fd))
		}
		h.tun = os.NewFile(uintptr(fd), "tun")
		return h.configure()
	})
}

// configure gives the interface its address. It is called in the namespace.
func (h *Host) configure() error {
	loopback, err := netlink.LinkByName("lo")
	if err != nil {
		return err
	}
	eth, err := netlink.LinkByName("eth0")
	if err != nil {
		return err
	}
	address := &netlink.Addr{IPNet: &net.IPNet{IP: h.address().AsSlice(), Mask: net.CIDRMask(24, 32)}}
	if err := netlink.AddrAdd(eth, address); err != nil {
		return fmt.Errorf("set address: %w", err)
	}
	if err := netlink.LinkSetMTU(eth, mtu); err != nil {
		return fmt.Errorf("set mtu: %w", err)
	}
	return errors.Join(netlink.LinkSetUp(loopback), netlink.LinkSetUp(eth))
}

// do runs f on a thread that is in the namespace.
func (h *Host) do(f func() error) error {
	return onThread(func() error {
		if err := unix.Setns(int(h.space.Fd()), unix.CLONE_NEWNET); err != nil {
			return fmt.Errorf("enter network namespace: %w", err)
		}
		return f()
	})
}

// onThread runs f on a thread whose network namespace it may change. A thread that cannot come back is
// not used for anything else: it ends with the goroutine.
func onThread(f func() error) error {
	result := make(chan error, 1)
	var wg sync.WaitGroup
	wg.Go(func() {
		runtime.LockOSThread()
		own, err := os.Open("/proc/thread-self/ns/net")
		if err != nil {
			result <- err
			return
		}
		defer own.Close()
		result <- f()
		if unix.Setns(int(own.Fd()), unix.CLONE_NEWNET) == nil {
			runtime.UnlockOSThread()
		}
	})
	wg.Wait()
	return <-result
}

// forward carries what the host sends.
func (h *Host) forward() {
	buf := make([]byte, 1<<16)
	for {
		n, err := h.tun.Read(buf)
		if err != nil {
			return // closed
		}
		packet := buf[:n]
		if n < 20 || packet[0]>>4 != 4 {
			continue // not IPv4
		}
		to := -1
		for _, other := range h.network.hosts {
			if [4]byte(packet[16:20]) == other.address().As4() {
				to = other.number
			}
		}
		if to >= 0 {
			h.network.send(h.number, to, packet)
		}
	}
}

// send delivers a packet or drops it, as a network may. The packet is the caller's after it.
func (n *Network) send(from, to int, packet []byte) {
	n.mu.RLock()
	defer n.mu.RUnlock()
	switch l := n.links[[2]int{from, to}]; {
	case l == nil:
		n.hosts[to].tun.Write(packet)
	case !l.Down:
		l.send(packet)
	}
}

// linkPackets is how many packets a slow link holds at most.
const linkPackets = 10_000

// link is a Link with what is on its way.
type link struct {
	Link
	to    *Host
	queue chan queued // nil: the link is down

	mu   sync.Mutex
	free time.Time // when what was sent before has left
}

type queued struct {
	packet []byte
	due    time.Time
}

func (l *link) send(packet []byte) {
	l.mu.Lock()
	defer l.mu.Unlock()
	now := time.Now()
	if l.free.Before(now) {
		l.free = now
	}
	if l.free.Sub(now) > time.Second {
		return
	}
	if l.Rate > 0 {
		l.free = l.free.Add(time.Duration(len(packet)) * time.Second / time.Duration(l.Rate))
	}
	select {
	case l.queue <- queued{append([]byte(nil), packet...), l.free.Add(l.Delay)}:
	default: // the queue is full
	}
}

// run delivers what is on its way, in order.
func (l *link) run() {
	ctx := context.Background()
	for q := range l.queue {
		wait, cancel := context.WithDeadline(ctx, q.due)
		select {
		case <-wait.Done():
		case <-l.to.network.done:
		}
		cancel()
		l.to.tun.Write(q.packet)
	}
}

// close lets what is on its way arrive.
func (l *link) close() {
	if l.queue != nil {
		close(l.queue)
	}
}
