package main

import (
	"testing"
	"time"
)

// A box that takes so many bytes a second is kept busy, and little waits before it, however far away it is.
func TestPace(t *testing.T) {
	const most = 256 << 10
	for _, tt := range []struct {
		name     string
		rate     float64 // bytes a second
		away     time.Duration
		min, max int64 // of a chunk in the end
	}{
		{"a fast box", 100e6, time.Millisecond, most, most},
		{"a fast box far away", 100e6, 300 * time.Millisecond, most, most},
		{"a slow box", 600e3, time.Millisecond, minPiece, 64 << 10},
		{"a slow box far away", 600e3, 300 * time.Millisecond, minPiece, 64 << 10},
		{"a very slow box", 10e3, time.Millisecond, minPiece, minPiece},
	} {
		p := newPace(most)
		p.answered(tt.away) // of a request without data
		for range 1000 {
			p.answered(tt.away + time.Duration(float64(uploadFlight*p.piece)/tt.rate*float64(time.Second)))
		}
		if p.piece < tt.min || p.piece > tt.max {
			t.Errorf("%s: chunks of %d bytes, want %d to %d", tt.name, p.piece, tt.min, tt.max)
		}
	}
	p := newPace(1000) // a server that takes small payloads only
	for _, took := range []time.Duration{time.Millisecond, time.Hour, time.Hour, time.Millisecond} {
		if p.answered(took); p.piece <= 0 || p.piece > 1000 {
			t.Errorf("chunks of %d bytes", p.piece)
		}
	}
}
