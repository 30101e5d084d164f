// Package e2e tests the server as its users meet it: the real process, killed and restarted, driven
// by the official client library and the official command line client over TCP. It has no code of
// its own outside of tests.
//
// The server under test is built from this module, or is the program named by MILLRACE_TEST_SERVER
// (a nats-server works: it shows what of a test is wrong). The client for the scripts in
// testdata/script is the "nats" of MILLRACE_TEST_NATS or of the PATH. MILLRACE_TEST_KILLS is how
// often the crash test kills the server (default 8). The conformance test compares with the nats-server
// of MILLRACE_TEST_PEER; without it, it installs the version that the Makefile pins.
package e2e
