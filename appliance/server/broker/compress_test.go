package broker_test

import (
	"bytes"
	"fmt"
	"math/rand/v2"
	"strings"
	"testing"

	"millrace/appliance/server/broker"
)

// TestRouteCompression has pairs of servers with every two modes, which exchange messages that compress
// well and badly, small and large, both ways.
func TestRouteCompression(t *testing.T) {
	modes := []string{
		broker.CompressionOff, broker.CompressionAccept, broker.CompressionUncompressed, broker.CompressionFast,
		broker.CompressionBetter, broker.CompressionBest,
	}
	random := make([]byte, 300_000)
	for i := range random {
		random[i] = byte(rand.Uint32())
	}
	payloads := [][]byte{[]byte("small"), {}, bytes.Repeat([]byte("well "), 100_000), random}
	for _, first := range modes {
		for _, second := range modes {
			t.Run(first+"/"+second, func(t *testing.T) {
				a := join(t, "a", func(c *broker.Config) { c.Cluster.Compression = first })
				b := join(t, "b", func(c *broker.Config) { c.Cluster.Compression = second }, a.routes)
				meshed(t, a, b)
				none := first == second && first == broker.CompressionAccept || first == broker.CompressionOff || second == broker.CompressionOff
				if mode := b.Routez().Routes[0].Compression; strings.HasPrefix(mode, "s2_") == none {
					t.Errorf("compression %q", mode)
				}
				for _, way := range [][2]*member{{a, b}, {b, a}} {
					got := make(chan []byte, len(payloads))
					subject := "from." + way[0].Name()
					if _, err := way[1].Account("$G").Subscribe(subject, "", func(m *broker.Msg) { got <- bytes.Clone(m.Data) }); err != nil {
						t.Fatal(err)
					}
					interested(t, way[0], subject, true)
					for _, p := range payloads {
						way[0].Account("$G").Publish(subject, "", nil, p)
					}
					for i, p := range payloads {
						if data := <-got; !bytes.Equal(data, p) {
							t.Fatalf("message %d: %d bytes, want %d", i, len(data), len(p))
						}
					}
				}
			})
		}
	}
}

// TestRouteCompressionRefusals has a peer that wants what there is not, and one that lies.
func TestRouteCompressionRefusals(t *testing.T) {
	m := join(t, "m", nil)
	p := &peer{dial(t, m.routes)}
	if p.info.Compression != broker.CompressionAccept {
		t.Errorf("INFO %+v", p.info)
	}
	info := strings.Replace(fmt.Sprintf(peerInfo, "P", "p"), `"cluster"`, `"compression":"%s","cluster"`, 1)
	p.send(`CONNECT {"name":"P","cluster":"C"}` + "\r\n" + fmt.Sprintf(info, "zip"))
	p.expect("-ERR 'unsupported route compression mode \"zip\"'\r\n")
	p.expectClosed()

	p = &peer{dial(t, m.routes)}
	p.send(`CONNECT {"name":"P","cluster":"C"}` + "\r\n" + fmt.Sprintf(info, "s2_fast") + "RS+ $G plain\r\n")
	if b, err := p.r.Peek(10); err != nil || !bytes.Equal(b, []byte("\xff\x06\x00\x00S2sTwO")) {
		t.Errorf("got %q, %v, want a stream of S2", b, err)
	}
	eventually(t, "end", func() bool { _, err := p.r.ReadByte(); return err != nil })
	if n := m.Routez().NumRoutes; n != 0 {
		t.Errorf("%d routes", n)
	}
}
