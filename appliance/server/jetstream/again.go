package jetstream

import (
	"sync"
	"time"

	"millrace/appliance/server/jetstream/api"
	"millrace/appliance/server/wire"
)

// headerAgain marks the copy of a request that is sent for whoever leads when nobody seemed to, see
// [request.await]. A leader that is new may have taken the request itself, before others knew of it.
const headerAgain = "Millrace-Again"

// sentAgain returns the header of the copy.
func sentAgain(header []byte) []byte {
	b := []byte("NATS/1.0\r\n")
	if n := len(header); n > 2 {
		b = append([]byte(nil), header[:n-2]...)
	}
	return append(b, headerAgain+": 1\r\n\r\n"...)
}

// taken are the requests that a node took lately, so that one of which there are two copies is carried out once: a
// second purge would take what was stored after the answer to the first.
type taken struct {
	mu   sync.Mutex
	last map[string]takenRequest // by subject and reply
	keys [takenRequests]string   // a ring of the keys of last
	next int
}

type takenRequest struct {
	at    time.Time
	again bool // it was the copy
	slot  int
}

const takenRequests = 4096

// first reports whether a request is to be carried out: not the copy of one that was, nor one whose copy was.
func (t *taken) first(subject, reply string, header []byte) bool {
	again := len(wire.Header(header, headerAgain)) > 0
	key, now := subject+" "+reply, time.Now()
	t.mu.Lock()
	defer t.mu.Unlock()
	old, ok := t.last[key]
	if ok && (again || old.again) && now.Sub(old.at) < 2*electionWait {
		if !again {
			delete(t.last, key) // who uses a reply twice has asked once more the next time
		}
		return false
	}
	if t.last == nil {
		t.last = map[string]takenRequest{}
	}
	if gone := t.keys[t.next]; t.last[gone].slot == t.next {
		delete(t.last, gone)
	}
	t.keys[t.next] = key
	t.last[key] = takenRequest{now, again, t.next}
	t.next = (t.next + 1) % takenRequests
	return true
}

// changes reports whether a request changes anything.
func changes(v api.Verb) bool {
	switch v {
	case api.VerbDirectGet, api.VerbMsgGet, api.VerbAccountInfo, api.VerbStreamInfo, api.VerbStreamNames, api.VerbStreamList,
		api.VerbConsumerInfo, api.VerbConsumerNames, api.VerbConsumerList:
		return false
	}
	return true
}
