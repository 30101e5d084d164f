package broker

import (
	"bytes"
	"fmt"
	"io"
	"net"

	"github.com/klauspost/compress/s2"
)

// Modes of ClusterConfig.Compression, as INFO names them.
const (
	CompressionOff          = "off"
	CompressionAccept       = "accept" // if the other server asks for it
	CompressionUncompressed = "s2_uncompressed"
	CompressionFast         = "s2_fast"
	CompressionBetter       = "s2_better"
	CompressionBest         = "s2_best"
	compressionAuto         = "s2_auto" // of nats-server: the level follows the round trip time
)

// chooseCompression returns the level to compress with on a route, "" for none, from the modes of
// this server and its peer.
func chooseCompression(own, peer string) (string, error) {
	switch peer {
	case "", CompressionOff:
		return "", nil
	case CompressionAccept:
		if own == CompressionAccept {
			return "", nil
		}
		return own, nil
	case compressionAuto:
		peer = CompressionFast
	case CompressionUncompressed, CompressionFast, CompressionBetter, CompressionBest:
	default:
		return "", fmt.Errorf("unsupported route compression mode %q", peer)
	}
	if own == CompressionAccept {
		return peer, nil
	}
	return own, nil
}

// compressor turns what is written into S2 streams, one a flush. It belongs to the writer.
type compressor struct {
	w   *s2.Writer
	buf bytes.Buffer
}

func newCompressor(level string) *compressor {
	opts := []s2.WriterOption{s2.WriterConcurrency(1)}
	switch level {
	case CompressionUncompressed:
		opts = append(opts, s2.WriterUncompressed())
	case CompressionBetter:
		opts = append(opts, s2.WriterBetterCompression())
	case CompressionBest:
		opts = append(opts, s2.WriterBestCompression())
	}
	return &compressor{w: s2.NewWriter(nil, opts...)}
}

// compressedMax is the memory that a compressor keeps between flushes.
const compressedMax = 1 << 20

// write compresses bufs and writes them to nc. It returns the bytes of bufs: all of them, or none with
// an error.
func (z *compressor) write(nc net.Conn, bufs [][]byte) (int, error) {
	if z.buf.Cap() > compressedMax {
		z.buf = bytes.Buffer{}
	}
	z.buf.Reset()
	z.w.Reset(&z.buf)
	n := 0
	for _, b := range bufs {
		if _, err := z.w.Write(b); err != nil {
			return 0, err
		}
		n += len(b)
	}
	if err := z.w.Close(); err != nil {
		return 0, err
	}
	if _, err := nc.Write(z.buf.Bytes()); err != nil {
		return 0, err
	}
	return n, nil
}

// compress makes everything queued from now on leave compressed, after what is queued now has left as
// it is.
func (c *conn) compress(level string) {
	o := &c.out
	o.mu.Lock()
	for o.pending > 0 && !o.closing {
		empty := make(chan struct{})
		o.empty = empty
		o.signalLocked()
		o.mu.Unlock()
		<-empty
		o.mu.Lock()
	}
	c.raw, o.compressor = nil, newCompressor(level)
	o.mu.Unlock()
}

// decompressed reads what follows rest on the connection, rest included, and decompresses it.
func (c *conn) decompressed(rest []byte) io.Reader {
	return s2.NewReader(io.MultiReader(bytes.NewReader(bytes.Clone(rest)), c.nc))
}
