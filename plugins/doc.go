// Package plugins runs consumer plugins: WebAssembly modules of the interface CPI 1 (ABI.md), on
// wazero, metered so that a hostile guest cannot hold the process. It knows no streams: the service
// package and the command line tool hand it messages and take the effects.
//
// Reading order of the folder:
//
//	ABI.md           normative text of CPI 1
//	DESIGN.md        how a guest is kept within its limits
//	abi              names, codes and message layout, shared with guests
//	meter            the rewrite that adds fuel and call depth to a module
//	runtime.go       Runtime, Module: validate, meter, compile, cache
//	instance.go      Instance: one running guest, its budget and transaction
//	runner.go        Runner: batches, one-by-one re-run, fresh instance after a trap
//	service          registry, bindings and the $MILLRACE.API.PLUGIN API
//	sdk, sdk/c       what guests are written with, in Go and in C
//	examples         guests to start from
package plugins
