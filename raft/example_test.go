package raft_test

import (
	"fmt"

	"millrace/raft"
	"millrace/raft/rafttest"
)

// printer is a machine that prints what it applies.
type printer struct {
	ready chan struct{}
	done  chan struct{}
}

func (p *printer) Apply(_ uint64, data []byte) {
	fmt.Printf("apply %s\n", data)
	close(p.done)
}

func (p *printer) Lead(term uint64, ready bool) {
	fmt.Println("lead term", term, ready)
	close(p.ready)
}

func Example() {
	host, err := raft.Open(raft.Config{Node: 1, Log: rafttest.NewSyncedLog()})
	if err != nil {
		fmt.Println(err)
		return
	}
	defer host.Close()
	m := &printer{ready: make(chan struct{}), done: make(chan struct{})}
	group, err := host.Start(raft.GroupSpec{ID: 1, Voters: []uint64{1}}, m)
	if err != nil {
		fmt.Println(err)
		return
	}
	<-m.ready
	if err := group.Propose([]byte("hello")); err != nil {
		fmt.Println(err)
	}
	<-m.done
	// Output:
	// lead term 1 true
	// apply hello
}
