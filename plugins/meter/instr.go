package meter

// Opcodes that the pass looks at; all others are copied.
const (
	opUnreachable = 0x00
	opBlock       = 0x02
	opLoop        = 0x03
	opIf          = 0x04
	opEnd         = 0x0b
	opBr          = 0x0c
	opReturn      = 0x0f
	opCall        = 0x10
	opCallIndir   = 0x11
	opLocalGet    = 0x20
	opLocalTee    = 0x22
	opGlobalGet   = 0x23
	opGlobalSet   = 0x24
	opI32Const    = 0x41
	opI64Const    = 0x42
	opI32GtU      = 0x4b
	opI64LtS      = 0x53
	opI32Add      = 0x6a
	opI32Sub      = 0x6b
	opI64Sub      = 0x7d
	opI64ShrU     = 0x88
	opI64ExtendU  = 0xad
	opRefFunc     = 0xd2
	opMisc        = 0xfc
	opVector      = 0xfd

	emptyBlock = 0x40
)

// Sub-opcodes of opMisc.
const (
	miscMemoryInit = 8
	miscDataDrop   = 9
	miscMemoryCopy = 10
	miscMemoryFill = 11
	miscTableInit  = 12
	miscElemDrop   = 13
	miscTableCopy  = 14
	miscTableGrow  = 15
	miscTableSize  = 16
	miscTableFill  = 17
)

// instr is one instruction: its place in the function body, and the index that opCall and opRefFunc
// carry.
type instr struct {
	op    byte
	sub   uint32
	index uint32
	start int
}

// next reads one instruction of WebAssembly 2.0.
func (r *reader) next() instr {
	in := instr{start: r.off}
	in.op = r.byte()
	switch op := in.op; {
	case op == opBlock, op == opLoop, op == opIf:
		r.s33()
	case op <= 0x01, op == 0x05, op == opEnd, op == opReturn, op == 0x1a, op == 0x1b:
	case op == opBr, op == 0x0d, op >= 0x20 && op <= 0x26:
		r.u32()
	case op == 0x0e:
		for range r.count("branch targets") {
			r.u32()
		}
		r.u32()
	case op == opCall, op == opRefFunc:
		in.index = r.u32()
	case op == opCallIndir:
		r.u32()
		r.u32()
	case op == 0x1c:
		r.take(r.u32())
	case op >= 0x28 && op <= 0x3e:
		r.memarg()
	case op == 0x3f, op == 0x40, op == 0xd0:
		r.byte()
	case op == opI32Const:
		r.leb(5)
	case op == opI64Const:
		r.leb(10)
	case op == 0x43:
		r.skip(4)
	case op == 0x44:
		r.skip(8)
	case op >= 0x45 && op <= 0xc4, op == 0xd1:
	case op == opMisc:
		in.sub = r.u32()
		r.misc(in.sub)
	case op == opVector:
		in.sub = r.u32()
		r.vector(in.sub)
	default:
		r.off--
		r.fail("instruction 0x%02x is not part of WebAssembly 2.0", op)
	}
	return in
}

func (r *reader) memarg() {
	r.u32()
	r.u32()
}

func (r *reader) misc(sub uint32) {
	switch sub {
	case 0, 1, 2, 3, 4, 5, 6, 7: // saturating truncation
	case miscMemoryInit:
		r.u32()
		r.byte()
	case miscDataDrop, miscElemDrop, miscTableGrow, miscTableSize, miscTableFill:
		r.u32()
	case miscMemoryCopy:
		r.skip(2)
	case miscMemoryFill:
		r.byte()
	case miscTableInit, miscTableCopy:
		r.u32()
		r.u32()
	default:
		r.fail("instruction 0xfc %d is not part of WebAssembly 2.0", sub)
	}
}

func (r *reader) vector(sub uint32) {
	switch {
	case sub <= 11, sub == 92, sub == 93: // loads and stores
		r.memarg()
	case sub == 12, sub == 13: // v128.const, i8x16.shuffle
		r.skip(16)
	case sub >= 21 && sub <= 34: // lane access
		r.byte()
	case sub >= 84 && sub <= 91: // lane loads and stores
		r.memarg()
		r.byte()
	case sub > 255:
		r.fail("instruction 0xfd %d is not part of WebAssembly 2.0", sub)
	}
}
