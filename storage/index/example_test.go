package index_test

import (
	"bytes"
	"fmt"

	"millrace/storage/index"
)

func Example() {
	blocks := index.NewMemory()
	ix := index.New(index.Config{Blocks: blocks, Captured: true})
	for i, subject := range []string{"orders.1.new", "orders.2.new", "orders.1.paid"} {
		m := index.Message{Seq: uint64(i) + 1, Index: 7, Off: uint32(i) * 100, Len: 100, Time: int64(i)}
		if _, err := ix.Append(m, []byte(subject)); err != nil {
			fmt.Println(err)
		}
	}
	m, _, _ := ix.NextMatching(2, index.NewFilter("orders.1.*"))
	fmt.Printf("message %d of %s: %d bytes at %d of entry %d\n", m.Seq, ix.Name(m.Subject), m.Len, m.Off, m.Index)

	state := ix.Capture()
	ix.Remove(1)
	var snapshot bytes.Buffer
	state.WriteTo(&snapshot) // without what came after it was captured
	state.Release()

	other := index.New(index.Config{Blocks: blocks, Captured: true})
	other.Restore(&snapshot)
	fmt.Println(ix.Count(), other.Count())
	// Output:
	// message 3 of orders.1.paid: 100 bytes at 200 of entry 7
	// 2 3
}
