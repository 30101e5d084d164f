package vm

import (
	"sync"
	"testing"
	"testing/synctest"
)

// A line that the guest has written only half is not taken for a whole one.
func TestRestOfLine(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		c := newConsole(nil)
		write := func(text string) {
			if _, err := c.Write([]byte(text)); err != nil {
				t.Fatal(err)
			}
		}
		var got string
		var ok, done bool
		var wg sync.WaitGroup
		write("loader\r\nbox: starting, image 1.1")
		wg.Go(func() {
			got, ok, _ = c.restOfLine(t.Context(), "image ")
			done = true
		})
		synctest.Wait()
		if done {
			t.Fatalf("half a line is %q", got)
		}
		write(".0, kernel 6\r\nnext")
		wg.Wait()
		if !done || !ok || got != "1.1.0, kernel 6" {
			t.Errorf("the line is %q, %t", got, ok)
		}
		c.finish()
		if _, ok, err := c.restOfLine(t.Context(), "next"); ok || err != nil {
			t.Errorf("a line without an end: %t, %v", ok, err)
		}
	})
}
