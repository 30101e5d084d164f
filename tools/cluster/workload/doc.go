// Package workload publishes, consumes and updates keys while something else hurts the servers, and then
// checks what they hold against what they had acknowledged. It starts and stops no server, which package
// cluster does.
//
//	publisher.go   numbered messages with ids, tried again until acknowledged
//	worker.go      a durable pull consumer with explicit acknowledgements
//	kv.go          keys with revision-checked updates, and the check of their history
//	content.go     what a stream holds, as its leader tells it, and the checks of it
//	leader.go      moving leaders, to read each replica
//
// The checks are functions of what was recorded, and return all they find.
package workload
