// Package meter rewrites a WebAssembly module so that its host stays in control while it runs. It
// does not run or validate code: the caller validates the original module first, because code that
// is invalid before the pass could name what the pass adds and be valid after it.
//
// The pass adds a fuel counter and a count of nested calls, both as exported globals, and one host
// function that is called when the fuel is used up. Fuel is charged at every function entry and
// every loop header, one unit an instruction, and by size before each bulk-memory or table
// instruction. Reading order: module.go (sections), instr.go (instructions), pass.go (the rewrite).
package meter
