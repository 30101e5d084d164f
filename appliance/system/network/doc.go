// Package network brings the network of a box up: links, addresses by DHCP or as configured, and
// the hostname. It does not filter traffic; system/boot calls it.
//
// Reading order:
//
//	config.go   Config and its checks; pure
//	network.go  Up: links, static addresses, hostname
//	dhcp.go     one link's DHCP lease: ask, configure, renew
package network
