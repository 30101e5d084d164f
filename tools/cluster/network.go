package cluster

import (
	"errors"
	"net/netip"
	"time"
)

// ErrNoNetwork is returned when this machine or user cannot have network namespaces; its text says what
// is missing.
var ErrNoNetwork = errors.New("no network namespaces")

// Link is how packets travel from one host to another. The zero value is a perfect link.
type Link struct {
	Down  bool          // packets vanish
	Delay time.Duration // from host to host
	Rate  int           // bytes a second; 0: no limit. What waits longer than a second is dropped
}

// mtu of the hosts. Larger than Ethernet's: each packet costs the switch two system calls.
const mtu = 9000

// address of a host by its number.
func address(i int) netip.Addr { return netip.AddrFrom4([4]byte{10, 77, 0, byte(i + 1)}) }
