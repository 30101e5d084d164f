// Package e2e tests the server as its users meet it: the real process, killed and restarted, driven
// by the official client library and the official command line client over TCP. It has no code of
// its own outside of tests.
//
// The server under test is built from this module, or is the program named by MILLRACE_TEST_SERVER
// (a nats-server works: it shows what of a test is wrong). The client for the scripts in
// testdata/script is the "nats" of MILLRACE_TEST_NATS or of the PATH. MILLRACE_TEST_KILLS is how
// often the crash test kills the server (default 8). The conformance test compares with the nats-server
// of MILLRACE_TEST_PEER; without it, it installs the version that the Makefile pins.
//
// The cluster_*_test.go hurt clusters of real processes while clients publish, consume and update keys, and
// then check that nothing acknowledged is lost, nothing is there twice, all is in order, all replicas are
// equal and the cluster is whole without a hand. MILLRACE_TEST_CLUSTER=nats-server runs them against
// nats-server, which passes: it shows what of a test is wrong. Long tests run with MILLRACE_CHAOS=minutes
// ("make chaos"), which is also how long the random ones take; MILLRACE_SEED repeats one. Tests that cut
// networks or fill disks need root, and skip without it.
package e2e
