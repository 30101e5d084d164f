package clock

import (
	"encoding/binary"
	"log/slog"
	"net"
	"strings"
	"testing"
	"time"
)

// server answers questions by SNTP on loopback. answer makes the answer of a question; nil: it stays silent.
func server(t *testing.T, answer func(question []byte) []byte) string {
	t.Helper()
	conn, err := net.ListenPacket("udp4", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	ended := make(chan struct{})
	go func() {
		defer close(ended)
		b := make([]byte, 1024)
		for {
			n, from, err := conn.ReadFrom(b)
			if err != nil {
				return
			}
			if out := answer(b[:n]); out != nil {
				_, _ = conn.WriteTo(out, from)
			}
		}
	}()
	t.Cleanup(func() { conn.Close(); <-ended })
	return conn.LocalAddr().String()
}

// ntpTime writes a time as RFC 5905 section 6 has it: seconds since 1900 and a fraction.
func ntpTime(b []byte, t time.Time) {
	binary.BigEndian.PutUint32(b, uint32(t.Unix()+2208988800))
	binary.BigEndian.PutUint32(b[4:], uint32(uint64(t.Nanosecond())<<32/1e9))
}

// says makes answers of a clock that is ahead of ours (RFC 5905 section 7.3).
func says(ahead time.Duration, stratum byte) func([]byte) []byte {
	return func(q []byte) []byte {
		if len(q) < 48 {
			return nil
		}
		out := make([]byte, 48)
		now := time.Now().Add(ahead)
		out[0], out[1] = 4<<3|4, stratum // version 4, mode server
		ntpTime(out[16:], now.Add(-time.Second))
		copy(out[24:32], q[40:48])
		ntpTime(out[32:], now)
		ntpTime(out[40:], now)
		return out
	}
}

func TestAskSNTP(t *testing.T) {
	s, err := askSNTP(t.Context(), server(t, says(3*time.Hour, 2)))
	if err != nil || (s.Offset-3*time.Hour).Abs() > time.Second {
		t.Errorf("offset %v, error %v, want 3h", s.Offset, err)
	}
	for name, answer := range map[string]func([]byte) []byte{
		"silent":           func([]byte) []byte { return nil },
		"short":            func([]byte) []byte { return []byte{1, 2, 3} },
		"kiss of death":    says(0, 0),
		"not synchronized": says(0, 16),
		"another's answer": func(q []byte) []byte { b := says(0, 2)(q); b[24] ^= 1; return b },
	} {
		began := time.Now()
		if s, err := askSNTP(t.Context(), server(t, answer)); err == nil {
			t.Errorf("%s: %+v", name, s)
		}
		if took := time.Since(began); took > 10*askTimeout {
			t.Errorf("%s: took %v", name, took)
		}
	}
}

// What a box does with servers as they are: good ones, one that hangs, and one whose time would be a disaster.
func TestClockWithServers(t *testing.T) {
	hung := server(t, func([]byte) []byte { return nil })
	for _, tt := range []struct {
		name     string
		servers  []string
		doubtful bool
		want     string // what is done
		said     string
	}{
		{"good", []string{server(t, says(time.Hour, 2))}, false, "step 1h", "off by"},
		{"good, and one hangs", []string{hung, server(t, says(time.Hour, 2))}, false, "step 1h", "nobody else agrees"},
		{"hung", []string{hung}, false, "", "not known"},
		{"ten years ahead", []string{server(t, says(87600*time.Hour, 2))}, false, "", "left as it is"},
		{"ten years ahead, our clock is dead", []string{server(t, says(87600*time.Hour, 2))}, true, "step 87600h", "off by"},
		{"ten years ahead, outvoted", []string{server(t, says(87600*time.Hour, 2)), server(t, says(time.Minute, 3)), server(t, says(time.Minute, 3))}, false, "step 1m", "off by"},
		{"in the past", []string{server(t, says(-175200*time.Hour, 2))}, true, "", "that time has passed"},
	} {
		t.Run(tt.name, func(t *testing.T) {
			t.Parallel()
			var done []string
			said := ""
			k := Start(t.Context(), Config{
				Servers: tt.servers, Doubtful: tt.doubtful, Earliest: time.Date(2020, 1, 1, 0, 0, 0, 0, time.UTC),
				Set: func(a Action, d time.Duration) error {
					text := strings.TrimSuffix(strings.TrimSuffix(d.Round(time.Minute).String(), "0s"), "0m")
					done = append(done, map[Action]string{Step: "step ", Slew: "slew "}[a]+text)
					return nil
				},
				Say: func(s string) { said = s }, Logger: slog.New(slog.DiscardHandler),
			}, 30*time.Second)
			k.Close()
			if got := strings.Join(done, ", "); got != tt.want || !strings.Contains(said, tt.said) {
				t.Errorf("done %q, want %q; said %q, want %q", got, tt.want, said, tt.said)
			}
		})
	}
}
