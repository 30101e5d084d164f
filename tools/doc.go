// Package tools holds the programs of developers and operators; it has no code of its own:
//
//	millrace   operator command: plugins
//	mkimage    builds a disk image
//	qemu       boots one; package vm does it for tests too
//	cluster    runs clusters of real processes and hurts them, for the three below
//	dev        a small cluster in the foreground
//	bench      measures against nats-server
//	e2e        end-to-end tests against the real process, and failure tests of clusters
//	tidy       the rules of the tree, as a test
package tools
