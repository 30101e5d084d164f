// Package appliance holds all code that runs on the box; it has no code of its own. In reading order:
//
//	server/wire        protocol of clients: parse and append; pure
//	server/subject     rules of subjects, subscription trie; pure
//	server/broker      connections, accounts, subscriptions; knows no streams
//	server/jetstream   the stream engine and, below it, its pure machines
//	node               the composition of one server process
//	cmd/millraced      main of the server
//	system/boot        what PID 1 does, in order
//	system/disk        the data disk: find, refuse, format, check
//	system/network     links, DHCP, static addresses
//	cmd/uinit          main of PID 1
package appliance
