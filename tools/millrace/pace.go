package main

import "time"

const (
	// minPiece and firstPiece are bytes of a chunk. With smaller ones what belongs to each chunk takes a busy box longer
	// than what is in it.
	minPiece   = 64 << 10
	firstPiece = 64 << 10

	// maxQueue is for how long an upload may keep what is behind it waiting.
	maxQueue = 300 * time.Millisecond
)

// pace finds out how much of an upload may be on its way: as much as the box takes at once. More would wait before it, in
// front of what the box's streams have to say to each other, and its leaders would look dead to the others. As LEDBAT (RFC
// 6817) it measures how much longer an answer takes than the quickest one.
type pace struct {
	piece, most int64         // bytes of a chunk, and their bound
	least       time.Duration // of all answers; 0: there was none
}

// newPace begins with chunks of at most so many bytes.
func newPace(most int64) pace { return pace{piece: min(firstPiece, most), most: most} }

// answered notes how long an answer took.
func (p *pace) answered(took time.Duration) {
	if p.least == 0 || took < p.least {
		p.least = took
	}
	switch queue := took - p.least; {
	case queue > maxQueue:
		p.piece = max(p.piece/2, min(minPiece, p.most))
	case queue < maxQueue/2:
		p.piece = min(p.piece*5/4, p.most)
	}
}
