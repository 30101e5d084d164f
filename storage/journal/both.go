package journal

import (
	"sync"
	"sync/atomic"
)

// bothBytes is from how much on a batch is encrypted by two processors. Less is done before another one is
// awake, as is encoding, which is twenty times as fast.
const bothBytes = 64 << 10

// both calls two functions, which may run at the same time, and returns when both have. It calls the second
// itself when no other processor has begun with it by then.
func both(first, second func()) {
	var begun atomic.Bool
	var wg sync.WaitGroup
	wg.Go(func() {
		if begun.CompareAndSwap(false, true) {
			second()
		}
	})
	first()
	if begun.CompareAndSwap(false, true) {
		second()
		return
	}
	wg.Wait()
}
