// Package storagetest holds the tests that a store of Millrace has to pass: Suite for its contract
// and Crash for power loss at every single operation. Only tests import it.
package storagetest
