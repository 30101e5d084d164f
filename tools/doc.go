// Package tools holds the programs of developers and operators; it has no code of its own:
//
//	millrace   operator command: plugins
//	mkimage    builds a disk image
//	qemu       boots one; package vm does it for tests too
//	bench      measures against nats-server
//	e2e        end-to-end tests against the real process
//	tidy       the rules of the tree, as a test
package tools
