package rafttest

import (
	"slices"
	"sync"

	"millrace/raft"
)

// Mesh connects hosts that have goroutines in memory, each direction and lane by a goroutine of its own.
// It is for load, not for faults; a Network is for those.
type Mesh struct {
	mu    sync.Mutex
	hosts map[uint64]raft.Receiver
	pipes map[pipeName]*pipe
	wg    sync.WaitGroup
}

type pipeName struct {
	from, to uint64
	lane     raft.Lane
}

// pipe is one lane from one node to another.
type pipe struct {
	pipeName
	mesh *Mesh

	mu     sync.Mutex // not held while a host is called
	wake   sync.Cond
	queue  [][]byte
	bytes  int
	full   bool
	closed bool
}

// pipeBytes bounds what is on its way in a pipe.
const pipeBytes = 8 << 20

// meshEnd is a node's raft.Transport.
type meshEnd struct {
	mesh *Mesh
	node uint64
}

// NewMesh returns a mesh without nodes.
func NewMesh() *Mesh {
	return &Mesh{hosts: make(map[uint64]raft.Receiver), pipes: make(map[pipeName]*pipe)}
}

// Endpoint returns the transport of a node, for its host's Config.
func (m *Mesh) Endpoint(node uint64) raft.Transport { return meshEnd{m, node} }

// Attach adds a node's host. All are added before Start.
func (m *Mesh) Attach(node uint64, host raft.Receiver) { m.hosts[node] = host }

// Start connects the hosts.
func (m *Mesh) Start() {
	m.mu.Lock()
	for from := range m.hosts {
		for to := range m.hosts {
			for lane := range raft.Lane(raft.Lanes) {
				if from == to {
					continue
				}
				p := &pipe{pipeName: pipeName{from, to, lane}, mesh: m}
				p.wake.L = &p.mu
				m.pipes[p.pipeName] = p
				m.wg.Go(p.run)
			}
		}
	}
	m.mu.Unlock()
	for from, host := range m.hosts {
		for to := range m.hosts {
			if from != to {
				host.Connected(to, true)
			}
		}
	}
}

// Close ends the goroutines. The hosts are closed.
func (m *Mesh) Close() {
	m.mu.Lock()
	for _, p := range m.pipes {
		p.mu.Lock()
		p.closed = true
		p.mu.Unlock()
		p.wake.Broadcast()
	}
	m.mu.Unlock()
	m.wg.Wait()
}

func (p *pipe) run() {
	for {
		p.mu.Lock()
		for len(p.queue) == 0 && !p.closed {
			p.wake.Wait()
		}
		batch := p.queue
		p.queue = nil
		closed := p.closed
		p.mu.Unlock()
		if closed {
			return
		}
		for _, frame := range batch {
			p.mesh.hosts[p.to].Receive(p.from, p.lane, frame)
			p.mu.Lock()
			p.bytes -= len(frame)
			drained := p.full && p.bytes < pipeBytes/2
			p.full = p.full && !drained
			p.mu.Unlock()
			if drained {
				p.mesh.hosts[p.from].Drained(p.to, p.lane)
			}
		}
	}
}

func (m *Mesh) pipe(from, to uint64, lane raft.Lane) *pipe {
	m.mu.Lock()
	defer m.mu.Unlock()
	return m.pipes[pipeName{from, to, lane}]
}

// Send implements raft.Transport.
func (e meshEnd) Send(node uint64, lane raft.Lane, parts [][]byte) bool {
	p := e.mesh.pipe(e.node, node, lane)
	if p == nil {
		return false
	}
	frame := slices.Concat(parts...)
	p.mu.Lock()
	defer p.mu.Unlock()
	if p.closed || p.bytes > 0 && p.bytes+len(frame) > pipeBytes {
		p.full = true
		return false
	}
	p.queue = append(p.queue, frame)
	p.bytes += len(frame)
	if len(p.queue) == 1 {
		p.wake.Signal()
	}
	return true
}

// Room implements raft.Transport.
func (e meshEnd) Room(node uint64, lane raft.Lane) int {
	p := e.mesh.pipe(e.node, node, lane)
	if p == nil {
		return 0
	}
	p.mu.Lock()
	defer p.mu.Unlock()
	return max(0, pipeBytes-p.bytes)
}
