package boxlink

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"io"
	"net"
	"strings"
	"sync"
	"testing"
	"testing/synctest"
)

// pair runs both ends of a link until the test ends.
func pair(t *testing.T, a, b Config) (*Link, *Link) {
	t.Helper()
	ca, cb := net.Pipe()
	la, lb := New(ca, a), New(cb, b)
	ctx, cancel := context.WithCancel(context.Background())
	var wg sync.WaitGroup
	for _, l := range []*Link{la, lb} {
		wg.Go(func() {
			if err := l.Run(ctx); err == nil {
				t.Error("Run ended without a reason")
			}
		})
	}
	t.Cleanup(func() { cancel(); wg.Wait() })
	return la, lb
}

func echo(_ context.Context, subject string, data []byte) ([]byte, error) {
	if subject == "fail" {
		return nil, errors.New("no such thing")
	}
	return append([]byte(subject+":"), data...), nil
}

// Both sides ask at once; every answer reaches its request.
func TestLinkCallsBothWays(t *testing.T) {
	la, lb := pair(t, Config{Answer: echo}, Config{Answer: echo})
	var wg sync.WaitGroup
	for i := range maxBusy / 2 {
		for _, l := range []*Link{la, lb} {
			wg.Go(func() {
				want := fmt.Sprintf("s%d:%s", i, strings.Repeat("x", 10*i))
				got, err := l.Call(t.Context(), fmt.Sprint("s", i), []byte(strings.Repeat("x", 10*i)))
				if err != nil || string(got) != want {
					t.Errorf("got %q, %v; want %q", got, err, want)
				}
			})
		}
	}
	wg.Wait()
	var remote RemoteError
	if _, err := la.Call(t.Context(), "fail", nil); !errors.As(err, &remote) || remote != "no such thing" {
		t.Errorf("got %v", err)
	}
	if _, err := la.Call(t.Context(), "big", make([]byte, maxFrame)); err == nil {
		t.Error("a request beyond the bound is sent")
	}
	if _, err := la.Call(t.Context(), "still", nil); err != nil {
		t.Errorf("after a refused request: %v", err)
	}
}

func TestLinkMessagesKeepOrder(t *testing.T) {
	got := make(chan string, 100)
	la, _ := pair(t, Config{Answer: echo}, Config{Answer: echo, Message: func(s string, d []byte) { got <- s + string(d) }})
	for i := range 100 {
		if err := la.Send("m", fmt.Append(nil, i)); err != nil {
			t.Fatal(err)
		}
	}
	for i := range 100 {
		if g, want := <-got, fmt.Sprint("m", i); g != want {
			t.Fatalf("got %s, want %s", g, want)
		}
	}
}

// A side that is asked too much at a time says so and goes on; who no longer waits is forgotten; and
// the end of the connection ends every wait.
func TestLinkBusyAndEnd(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		hold := make(chan struct{})
		slow := Config{Answer: func(ctx context.Context, _ string, _ []byte) ([]byte, error) {
			select {
			case <-hold:
				return []byte("done"), nil
			case <-ctx.Done():
				return nil, ctx.Err()
			}
		}}
		ca, cb := net.Pipe()
		la, lb := New(ca, Config{Answer: echo}), New(cb, slow)
		ctx, cancel := context.WithCancel(t.Context())
		var wg, calls sync.WaitGroup
		wg.Go(func() { _ = la.Run(t.Context()) })
		wg.Go(func() { _ = lb.Run(ctx) })
		errs := make(chan error, maxBusy)
		for range maxBusy {
			calls.Go(func() {
				_, err := la.Call(t.Context(), "x", nil)
				errs <- err
			})
		}
		synctest.Wait()
		var remote RemoteError
		if _, err := la.Call(t.Context(), "x", nil); !errors.As(err, &remote) || string(remote) != ErrBusy.Error() {
			t.Errorf("one too many: %v", err)
		}
		hold <- struct{}{}
		if err := <-errs; err != nil {
			t.Errorf("answered: %v", err)
		}
		gone, stop := context.WithCancel(t.Context())
		stop()
		if _, err := la.Call(gone, "x", nil); !errors.Is(err, context.Canceled) {
			t.Errorf("given up: %v", err)
		}
		cancel()
		calls.Wait()
		for range maxBusy - 1 {
			// The other side may still have told why.
			if err := <-errs; !errors.Is(err, ErrClosed) && !errors.As(err, &remote) {
				t.Errorf("at the end: %v", err)
			}
		}
		wg.Wait()
		if _, err := la.Call(t.Context(), "x", nil); !errors.Is(err, ErrClosed) {
			t.Errorf("after the end: %v", err)
		}
	})
}

func FuzzReadFrame(f *testing.F) {
	f.Add([]byte{})
	f.Add([]byte("\x00\x00\x00\x0e\x01\x00\x00\x00\x00\x00\x00\x00\x05\x00\x02abc"))
	f.Add([]byte("\x00\x00\x00\x0b\x01\x00\x00\x00\x00\x00\x00\x00\x05\xff\xff"))
	f.Fuzz(func(t *testing.T, b []byte) {
		r := bytes.NewReader(b)
		_, _, subject, data, err := readFrame(r)
		if err == nil && 4+headerBytes+len(subject)+len(data) != len(b)-r.Len() {
			t.Fatalf("frame of %d bytes read as subject of %d and data of %d", len(b)-r.Len(), len(subject), len(data))
		}
		if len(b) == 0 && err != io.EOF {
			t.Fatalf("empty input: %v", err)
		}
	})
}
