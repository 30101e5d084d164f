package disk

import (
	"bytes"
	"encoding/binary"
	"errors"
	"fmt"
	"io"
)

// The network block device protocol, "fixed newstyle", as in the protocol description of the NBD project. Numbers are
// big endian.
const (
	magicServer  = 0x4e42444d41474943 // "NBDMAGIC"
	magicOption  = 0x49484156454f5054 // "IHAVEOPT"
	magicReply   = 0x0003e889045565a9 // of an option
	magicRequest = 0x25609513
	magicAnswer  = 0x67446698

	flagFixedNewstyle = 1 << 0
	flagNoZeroes      = 1 << 1 // no 124 bytes of zeros behind the answer to optExportName

	optExportName = 1
	optAbort      = 2
	optGo         = 7

	replyAck         = 1
	replyInfo        = 3
	replyUnsupported = 1<<31 + 1

	infoExport    = 0
	infoBlockSize = 3

	sendFlags = 1 << 0
	sendFlush = 1 << 2 // the disk has a cache, and flushes it
	sendFUA   = 1 << 3 // and writes past it

	cmdRead  = 0
	cmdWrite = 1
	cmdEnd   = 2
	cmdFlush = 3
	cmdFUA   = 1 << 0 // flag of a command

	errIO      = 5
	errInvalid = 22

	// maxRequest bounds what one request carries, in bytes; clients are told.
	maxRequest = 32 << 20

	// maxOption bounds the data of an option, in bytes: names are at most 4096.
	maxOption = 8 << 10
)

// errEnd says that a client has ended the connection in order.
var errEnd = errors.New("disk: client has ended")

// send writes numbers, big endian, and bytes, at once.
func send(w io.Writer, parts ...any) error {
	var b bytes.Buffer
	for _, p := range parts {
		if err := binary.Write(&b, binary.BigEndian, p); err != nil {
			panic(fmt.Sprintf("BUG: %T in a message: %v", p, err))
		}
	}
	_, err := w.Write(b.Bytes())
	return err
}

// negotiate is the handshake up to where requests begin. Any name of an export is this disk.
func negotiate(rw io.ReadWriter, size int64) error {
	if err := send(rw, uint64(magicServer), uint64(magicOption), uint16(flagFixedNewstyle|flagNoZeroes)); err != nil {
		return err
	}
	var flags uint32
	if err := binary.Read(rw, binary.BigEndian, &flags); err != nil {
		return err
	}
	for {
		var o struct {
			Magic       uint64
			Option, Len uint32
		}
		if err := binary.Read(rw, binary.BigEndian, &o); err != nil {
			return err
		}
		if o.Magic != magicOption || o.Len > maxOption {
			return fmt.Errorf("option %d with magic %x and %d bytes", o.Option, o.Magic, o.Len)
		}
		if _, err := io.CopyN(io.Discard, rw, int64(o.Len)); err != nil {
			return err
		}
		reply := func(kind uint32, parts ...any) error {
			n := 0
			for _, p := range parts {
				n += binary.Size(p)
			}
			return send(rw, append([]any{uint64(magicReply), o.Option, kind, uint32(n)}, parts...)...)
		}
		export := []any{uint64(size), uint16(sendFlags | sendFlush | sendFUA)}
		switch o.Option {
		case optExportName:
			if flags&flagNoZeroes == 0 {
				export = append(export, make([]byte, 124))
			}
			return send(rw, export...)
		case optAbort:
			return errors.Join(reply(replyAck), errEnd)
		case optGo:
			return errors.Join(
				reply(replyInfo, append([]any{uint16(infoExport)}, export...)...),
				reply(replyInfo, uint16(infoBlockSize), uint32(SectorBytes), uint32(4096), uint32(maxRequest)),
				reply(replyAck),
			)
		default:
			if err := reply(replyUnsupported); err != nil {
				return err
			}
		}
	}
}
