package delivery

import (
	"bytes"
	"encoding/json"
	"errors"
	"fmt"
	"strconv"
	"time"
)

// onPull runs on the requester's goroutine.
func (c *Consumer) onPull(r Request) {
	if len(r.Reply) == 0 {
		return
	}
	p := pullRequest{reply: string(r.Reply)}
	if len(r.Data) > 0 {
		p.data = bytes.Clone(r.Data)
	}
	if c.inbox.pull(p) {
		c.wake()
	} else {
		c.status(p.reply, "409 Exceeded MaxWaiting")
	}
}

// status sends a status without further headers, such as "404 No Messages".
func (c *Consumer) status(reply, text string) {
	c.cfg.Bus.Publish(reply, "", []byte("NATS/1.0 "+text+"\r\n\r\n"), nil)
}

// statusLeft sends a status that ends a request, with what the request still wanted.
func (c *Consumer) statusLeft(p *pull, text string) {
	c.cfg.Bus.Publish(p.reply, "", fmt.Appendf(nil, "NATS/1.0 %s\r\nNats-Pending-Messages: %d\r\nNats-Pending-Bytes: %d\r\n\r\n",
		text, p.left, p.bytes), nil)
}

// nextRequest is the payload of a pull request (ADR-13, ADR-42).
type nextRequest struct {
	Expires       time.Duration `json:"expires"`
	Batch         int           `json:"batch"`
	MaxBytes      int           `json:"max_bytes"`
	NoWait        bool          `json:"no_wait"`
	Heartbeat     time.Duration `json:"idle_heartbeat"`
	Group         string        `json:"group"`
	MinPending    int64         `json:"min_pending"`
	MinAckPending int64         `json:"min_ack_pending"`
	ID            string        `json:"id"`
	Priority      int           `json:"priority"`
}

// parsePull reads a payload: nothing, a number of messages, or JSON. Other text asks for one message.
func parsePull(data []byte) (nextRequest, error) {
	data = bytes.TrimSpace(data)
	r := nextRequest{Batch: 1}
	if len(data) == 0 {
		return r, nil
	}
	if data[0] != '{' {
		if n, err := strconv.Atoi(string(data)); err == nil {
			r.Batch = n
		}
		return r, nil
	}
	r.Batch = 0
	if err := json.Unmarshal(data, &r); err != nil {
		return r, err
	}
	if r.Heartbeat > 0 && r.Heartbeat > r.Expires/2 {
		return r, errors.New("heartbeat value too large")
	}
	return r, nil
}

// addPull admits a pull request to the waiting ones or answers why not.
func (c *Consumer) addPull(reply string, data []byte) {
	if reply == "" {
		return
	}
	c.lastActive = c.now
	conf := c.conf
	if conf.IsPush() {
		c.status(reply, "409 Consumer is push based")
		return
	}
	r, err := parsePull(data)
	switch {
	case err != nil:
		c.status(reply, "400 Bad Request - "+err.Error())
	case conf.MaxRequestBatch > 0 && r.Batch > conf.MaxRequestBatch:
		c.status(reply, fmt.Sprintf("409 Exceeded MaxRequestBatch of %d", conf.MaxRequestBatch))
	case conf.MaxRequestExpires > 0 && r.Expires > conf.MaxRequestExpires:
		c.status(reply, fmt.Sprintf("409 Exceeded MaxRequestExpires of %v", conf.MaxRequestExpires))
	case conf.MaxRequestMaxBytes > 0 && r.MaxBytes > conf.MaxRequestMaxBytes:
		c.status(reply, fmt.Sprintf("409 Exceeded MaxRequestMaxBytes of %d", conf.MaxRequestMaxBytes))
	case r.MinPending != 0 || r.MinAckPending != 0:
		c.status(reply, "400 Bad Request - Not a Overflow Priority consumer")
	case r.ID != "":
		c.status(reply, "400 Bad Request - Not a Pinned Client Priority consumer")
	case r.Priority < 0 || r.Priority > 9:
		c.status(reply, "400 Bad Request - Priority must be between 0 and 9")
	default:
		c.queuePull(reply, r)
	}
}

func (c *Consumer) queuePull(reply string, r nextRequest) {
	limit := c.conf.MaxWaiting
	if limit > 0 && c.waiting.n >= limit {
		c.sweep(false)
	}
	if r.NoWait {
		available := c.left() + uint64(c.m.NumDue())
		if available == 0 && r.Expires == 0 {
			c.status(reply, "404 No Messages")
			return
		}
		if available > 0 {
			c.sweep(false)
			wanted := uint64(0)
			for p := c.waiting.head; p != nil; p = p.next {
				wanted += uint64(p.left)
			}
			if available < wanted {
				c.status(reply, "408 Requests Pending")
				return
			}
		}
	}
	if limit > 0 && c.waiting.n >= limit {
		// A client with heartbeats notices by their absence; the answer would make it ask at once.
		if r.Heartbeat <= 0 {
			c.status(reply, "409 Exceeded MaxWaiting")
		}
		return
	}
	p := &pull{reply: reply, left: max(r.Batch, 1), bytes: max(r.MaxBytes, 0), noWait: r.NoWait}
	if r.Expires > 0 {
		p.expires = c.now.Add(r.Expires)
	}
	if r.Heartbeat > 0 {
		p.heartbeat, p.beatAt = r.Heartbeat, c.now.Add(r.Heartbeat)
	}
	c.mu.Lock()
	c.waiting.add(p)
	c.mu.Unlock()
}

// removePull takes a request off the queue; its head has prev nil.
func (c *Consumer) removePull(prev, p *pull) {
	c.mu.Lock()
	c.waiting.remove(prev, p)
	c.mu.Unlock()
}

// sweep ends requests that are over: expired, without interest, or, at the end of the stream, those
// that do not wait. It sends idle heartbeats that are due.
func (c *Consumer) sweep(end bool) {
	var due time.Time
	var prev *pull
	for p := c.waiting.head; p != nil; {
		next := p.next
		keep := true
		switch {
		case !p.expires.IsZero() && !c.now.Before(p.expires):
			c.statusLeft(p, "408 Request Timeout")
			c.lastActive = c.now
			keep = false
		case end && p.noWait && (p.expires.IsZero() || p.delivered > 0):
			c.status(p.reply, "404 No Messages")
			c.lastActive = c.now
			keep = false
		case !p.beatAt.IsZero() && !c.now.Before(p.beatAt):
			keep = c.idleHeartbeat(p.reply) > 0
			p.beatAt = c.now.Add(p.heartbeat)
		default:
			keep = c.cfg.Bus.HasInterest(p.reply)
		}
		if keep {
			due = earlier(due, p.due())
			prev = p
		} else {
			c.removePull(prev, p)
		}
		p = next
	}
	c.waiting.dueAt = due
}

// offerPull gives the loaded message to the next request that can take it and reports whether one did.
// size is what counts against the request's bytes.
func (c *Consumer) offerPull(reply string, header, data []byte, size int) bool {
	for {
		p := c.waiting.head
		if p == nil {
			return false
		}
		if !p.expires.IsZero() && !c.now.Before(p.expires) {
			c.statusLeft(p, "408 Request Timeout")
			c.lastActive = c.now
			c.removePull(nil, p)
			continue
		}
		if p.bytes > 0 && size > p.bytes {
			c.statusLeft(p, "409 Message Size Exceeds MaxBytes")
			c.removePull(nil, p)
			continue
		}
		if c.out.PublishAs(p.reply, c.msg.Subject, reply, header, data) == 0 {
			c.removePull(nil, p) // the requester has gone
			continue
		}
		last := p.left == 1
		if p.bytes > 0 {
			p.bytes -= size
			last = last || p.bytes == 0
		}
		p.left--
		p.delivered++
		c.lastActive = c.now
		if last {
			if p.bytes > 0 {
				c.statusLeft(p, "409 Batch Completed")
			}
			c.removePull(nil, p)
			return true
		}
		if p.heartbeat > 0 {
			p.beatAt = c.now.Add(p.heartbeat)
		}
		if c.waiting.n > 1 {
			c.mu.Lock()
			c.waiting.rotate()
			c.mu.Unlock()
		}
		return true
	}
}
