package main

// heapSlack is memory that nobody uses and that takes none. The collector lets the heap grow to twice what is reachable, which is
// little in a node: most of what it allocates passes through, from connections to the disk. With this it
// collects once for each so many bytes more.
var heapSlack []byte

// reserveHeapSlack reserves a 32nd of the machine's memory, at most 128 MiB.
func reserveHeapSlack(memory uint64) {
	heapSlack = make([]byte, min(memory/32, 128<<20))
}
