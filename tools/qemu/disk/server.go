package disk

import (
	"bufio"
	"encoding/binary"
	"errors"
	"fmt"
	"io"
	"net"
	"sync"
)

// Server offers a disk on a unix socket, to one machine after the other.
type Server struct {
	disk     *Disk
	listener net.Listener
	wg       sync.WaitGroup

	mu     sync.Mutex
	conns  map[net.Conn]bool
	closed bool
	err    error // the first that was not a client going away
}

// Serve offers a disk at the path of a socket, which must be shorter than 108 bytes. The caller closes the server
// and then the disk.
func Serve(d *Disk, socket string) (*Server, error) {
	l, err := net.Listen("unix", socket)
	if err != nil {
		return nil, fmt.Errorf("serve disk: %w", err)
	}
	s := &Server{disk: d, listener: l, conns: make(map[net.Conn]bool)}
	s.wg.Go(s.accept)
	return s, nil
}

// Close ends all connections. It returns what went wrong while serving, if anything did.
func (s *Server) Close() error {
	s.mu.Lock()
	s.closed = true
	err := s.listener.Close()
	for c := range s.conns {
		c.Close()
	}
	s.mu.Unlock()
	s.wg.Wait()
	return errors.Join(err, s.err)
}

func (s *Server) accept() {
	for {
		conn, err := s.listener.Accept()
		if err != nil {
			return // closed
		}
		s.mu.Lock()
		if s.closed {
			s.mu.Unlock()
			conn.Close()
			return
		}
		s.conns[conn] = true
		s.mu.Unlock()
		s.wg.Go(func() {
			err := s.serve(conn)
			s.mu.Lock()
			defer s.mu.Unlock()
			delete(s.conns, conn)
			conn.Close()
			var network *net.OpError
			gone := errors.Is(err, io.EOF) || errors.Is(err, io.ErrUnexpectedEOF) || errors.As(err, &network) || errors.Is(err, errEnd)
			if s.err == nil && !gone {
				s.err = fmt.Errorf("serve disk %s: %w", s.disk.cfg.Path, err)
			}
		})
	}
}

// request is the head of a request.
type request struct {
	Magic  uint32
	Flags  uint16
	Type   uint16
	Handle uint64
	At     uint64
	Len    uint32
}

// serve answers one client until it is gone or its machine has lost its power.
func (s *Server) serve(conn net.Conn) error {
	power := s.disk.powerOn()
	if err := negotiate(conn, s.disk.Bytes()); err != nil {
		return err
	}
	r := bufio.NewReaderSize(conn, 256<<10)
	for {
		var q request
		if err := binary.Read(r, binary.BigEndian, &q); err != nil {
			return err
		}
		if q.Magic != magicRequest || q.Len > maxRequest {
			return fmt.Errorf("request with magic %x for %d bytes", q.Magic, q.Len)
		}
		if q.Type == cmdEnd {
			return errEnd
		}
		var data []byte
		if q.Type == cmdWrite {
			data = make([]byte, q.Len)
			if _, err := io.ReadFull(r, data); err != nil {
				return err
			}
		}
		answer, code, on, failed := s.disk.do(power, q, data)
		if !on {
			_, err := io.Copy(io.Discard, r) // nobody is there to answer
			return errors.Join(err, io.EOF)
		}
		if err := send(conn, uint32(magicAnswer), code, q.Handle, answer); err != nil {
			return err
		}
		if failed != nil {
			return failed
		}
	}
}
