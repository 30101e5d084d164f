// Package sim runs whole nodes, the real raft host over the real journal, against a simulated network,
// disk and clock, and checks everything that they promise. It does not replace tests of the parts; it looks
// for what the parts do to each other when nodes fail. Tests only.
//
// # Model
//
// A run has 3 to 5 nodes and 1 to 5 groups, each of three or more replicas. It is one goroutine that works off
// events in virtual time; every decision is drawn from the seed, so that one seed is one run, to the byte
// (TestEqualSeedsGiveEqualRuns). A node is a disk (vfs.Mem and a catalog), a clock, and while it is up a
// process: journal.Log and raft.Host, both in manual mode.
//
//   - world.go: virtual time, sources of decisions, trace and its hash.
//   - network.go: lanes with delay, rate, bounded room; lost frames, cut directions, connections that end.
//   - disk.go, content.go: what outlives a process; crashes at any operation, flipped bits, a full disk.
//   - clock.go: clocks that are at another time than others and run at another speed.
//   - node.go, replica.go, store.go: one process, and what it is made of.
//   - machine.go: what is replicated: registers, and messages that are published once. Messages stay in the
//     entries of the log and their records in objects, so that snapshots, compaction, retained parts of
//     entries, the journal's mover and transfers all have work.
//   - client.go: clients that do one operation after the other, at any node.
//   - operator.go: membership: learners, promotion and removal in one change, replaced replicas.
//   - nemesis.go, faults.go: the faults.
//   - lease.go: the attack on leases.
//   - check.go, history.go, shadow.go, promise.go: the checkers.
//   - mutant.go: deliberate faults, each of which a checker has to find.
//   - ideal.go: logs in memory in place of the journal, to see whose fault a failure is.
//
// # Faults
//
// Power loss of one node or all, between operations on the disk, in the middle of one, or just after a vote or
// an entry was handed to the store; unsynced sectors kept, lost or torn; kill -9; orderly restarts; pauses;
// partitions, also in one direction; slow and lossy links; slow and full disks; clocks within the drift that
// leases allow for, and at its ends while a leader is cut off; hosts that get to their groups long after their
// start; flipped bits; disks that are lost, with replicas that come back under a new id; members that move;
// leaders that hand over; clients that are idle, so that groups sleep. At most one disk at a time is damaged or
// lost, and the next one only when all groups have all their members again.
//
// # Checkers
//
// All the time: what a message promises (a vote, a candidate's term, the log up to an entry, a commit index) is
// on the synced disk of its sender when it leaves; an acknowledged operation is, at that moment, on the synced
// disks of a quorum of the voters; a read sees what was applied anywhere in the group before it began; what a
// store has answered for is on its disk, compared at each start, and now and then by a recovery of what a power
// loss would leave; one index has one content and one digest of the state on all replicas for ever; one leader
// a term; terms, commit and applied index do not go back; stored messages can be read; publishes happen once.
// At the end, when the faults have ended: all groups answer and all replicas become equal within a minute, all
// that was acknowledged is there, in order for each client; registers are linearizable (porcupine); no
// goroutine is left.
//
// # What is not simulated
//
// Goroutines: host and journal have none in manual mode, so races between them are left to the tests under the
// race detector. A piece of work of the journal happens at one moment, at its end; entries that are appended
// while it is under way are part of it. The catalog is durable at once and never damaged. Frames are not
// damaged, and doubled in one test only, which shows that the host bears it: raft.Transport's contract excludes
// both. Files are read without delay. Stale sectors (a lost write that the disk has answered) are not made. A
// run with -tags etcdraft35 cannot be replayed exactly: that library seeds its time-outs from the clock.
//
// # Use
//
//	make sim SEEDS=1000
//	go test ./raft/rafttest/sim -run 'TestSeed$' -seed 17 -v            replay, and print what happens
//	go test ./raft/rafttest/sim -run 'TestSeed$' -seed 17 -v -every     every message, too
//	go test ./raft/rafttest/sim -run 'TestSeed$' -seed 17 -shrink       look for a smaller run
//	go test ./raft/rafttest/sim -run 'TestSeed$' -seed 17 -ideal        without the journal
//
// A bug that was found becomes a line in named_test.go. A change of the simulator may make another run of a
// seed; named seeds are then worth no less than others.
package sim
