package abi

import (
	"encoding/binary"
	"errors"
)

// FrameHeaderSize is the length of the fixed part of a frame, which holds one message in the guest's
// inbox. Little-endian; frames lie back to back, each padded with zeros to a multiple of 8 bytes:
//
//	 0  u32 frame_len, padding included   24  i64 time_ns, stream timestamp
//	 4  u32 delivered, 1 = first try      32  u32 subject_len
//	 8  u64 stream_seq                    36  u32 header_len
//	16  u64 consumer_seq                  40  u32 data_len
//	                                      44  u32 flags
//	48  subject | raw "NATS/1.0\r\n..." header block | data
const FrameHeaderSize = 48

// FlagAfterTrap in a frame's flags: a batch with this message failed, now it runs alone.
const FlagAfterTrap = 1

// ErrFrame is returned when bytes are not a frame: too short, or lengths that contradict each other.
var ErrFrame = errors.New("abi: malformed frame")

// Frame is one message as host and guest exchange it.
type Frame struct {
	Delivered   uint32
	StreamSeq   uint64
	ConsumerSeq uint64
	TimeNS      int64
	Flags       uint32
	Subject     []byte
	Header      []byte
	Data        []byte
}

// FrameSize returns the bytes that a frame with fields of these lengths takes, padding included.
func FrameSize(subjectLen, headerLen, dataLen int) int {
	return (FrameHeaderSize + subjectLen + headerLen + dataLen + 7) &^ 7
}

// PutFrame writes f to the start of b, which must hold FrameSize bytes, and returns that size.
func PutFrame(b []byte, f *Frame) int {
	size := FrameSize(len(f.Subject), len(f.Header), len(f.Data))
	le := binary.LittleEndian
	le.PutUint32(b[0:], uint32(size))
	le.PutUint32(b[4:], f.Delivered)
	le.PutUint64(b[8:], f.StreamSeq)
	le.PutUint64(b[16:], f.ConsumerSeq)
	le.PutUint64(b[24:], uint64(f.TimeNS))
	le.PutUint32(b[32:], uint32(len(f.Subject)))
	le.PutUint32(b[36:], uint32(len(f.Header)))
	le.PutUint32(b[40:], uint32(len(f.Data)))
	le.PutUint32(b[44:], f.Flags)
	n := FrameHeaderSize
	n += copy(b[n:], f.Subject)
	n += copy(b[n:], f.Header)
	n += copy(b[n:], f.Data)
	clear(b[n:size])
	return size
}

// ParseFrame reads the frame at the start of b into f, whose fields then point into b, and returns
// the bytes after it. It returns ErrFrame when b does not start with a frame.
func ParseFrame(b []byte, f *Frame) (rest []byte, err error) {
	if len(b) < FrameHeaderSize {
		return nil, ErrFrame
	}
	le := binary.LittleEndian
	size := uint64(le.Uint32(b[0:]))
	subject, header, data := uint64(le.Uint32(b[32:])), uint64(le.Uint32(b[36:])), uint64(le.Uint32(b[40:]))
	used := FrameHeaderSize + subject + header + data
	if size > uint64(len(b)) || size != (used+7)&^7 {
		return nil, ErrFrame
	}
	f.Delivered = le.Uint32(b[4:])
	f.StreamSeq = le.Uint64(b[8:])
	f.ConsumerSeq = le.Uint64(b[16:])
	f.TimeNS = int64(le.Uint64(b[24:]))
	f.Flags = le.Uint32(b[44:])
	p := b[FrameHeaderSize:used:used]
	f.Subject = p[:subject:subject]
	f.Header = p[subject : subject+header : subject+header]
	f.Data = p[subject+header:]
	return b[size:], nil
}
