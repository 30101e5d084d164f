package meter

import "fmt"

// code rewrites the code section.
func (p *pass) code() ([]byte, error) {
	if len(p.m.bodies) == 0 {
		return nil, nil
	}
	size := 0
	for _, body := range p.m.bodies {
		size += len(body)
	}
	out := appendU32(make([]byte, 0, size+size/4+16), uint32(len(p.m.bodies)))
	var body []byte
	for i := range p.m.bodies {
		f := function{pass: p, body: p.m.bodies[i], typ: p.m.types[p.m.funcTypes[i]]}
		if err := f.survey(); err != nil {
			return nil, fmt.Errorf("function %d: %w", int(p.m.importFuncs)+i, err)
		}
		body = f.rewrite(body[:0])
		out = appendU32(out, uint32(len(body)))
		out = append(out, body...)
	}
	return out, nil
}

// function is the rewrite of one function body. survey finds what rewrite needs to know ahead.
type function struct {
	*pass
	body []byte
	typ  FuncType

	first  int     // offset of the first instruction
	groups uint32  // groups of locals declared
	locals uint32  // parameters and declared locals
	costs  []int64 // instructions of the function's own region, then of each loop's in order
	calls  bool    // calls a function of the module, so that it may nest
	bulk   bool    // moves a number of bytes or elements that is known only when it runs
}

func (f *function) reader() *reader { return &reader{b: f.body, off: f.first} }

// isBulk reports whether the instruction's last operand is a number of bytes (shift > 0) or of table
// elements to charge for.
func (in instr) isBulk() (shift int64, ok bool) {
	if in.op != opMisc {
		return 0, false
	}
	switch in.sub {
	case miscMemoryInit, miscMemoryCopy, miscMemoryFill:
		return bytesPerFuelShift, true
	case miscTableInit, miscTableCopy, miscTableGrow, miscTableFill:
		return 0, true
	}
	return 0, false
}

func (f *function) survey() error {
	r := &reader{b: f.body}
	f.groups = r.count("groups of locals")
	locals := uint64(len(f.typ.Params))
	for range f.groups {
		locals += uint64(r.u32())
		r.byte()
	}
	if locals > 1<<20 {
		r.fail("%d locals", locals)
	}
	f.locals, f.first = uint32(locals), r.off
	f.costs = append(f.costs[:0], 0)
	region := []int{0} // region of each open block; the function's own body is the first
	for r.more() && len(region) > 0 {
		in := r.next()
		current := region[len(region)-1]
		f.costs[current]++
		switch in.op {
		case opLoop:
			f.costs = append(f.costs, 0)
			region = append(region, len(f.costs)-1)
		case opBlock, opIf:
			region = append(region, current)
		case opEnd:
			region = region[:len(region)-1]
		case opCall:
			f.calls = f.calls || in.index >= f.m.importFuncs
		case opCallIndir:
			f.calls = true
		}
		if _, ok := in.isBulk(); ok {
			f.bulk = true
		}
	}
	if r.err == nil && (len(region) > 0 || r.off != len(f.body)) {
		r.fail("code does not end with its function")
	}
	return r.err
}

// rewrite appends the new body to out. A function that can nest is wrapped:
//
//	charge; depth += n; trap if depth > limit; block (results) ORIGINAL end; depth -= n
//
// The added block takes the place of the function's label, so branches keep their depths; a return
// becomes a branch to that block.
func (f *function) rewrite(out []byte) []byte {
	r := &reader{b: f.body}
	r.u32()
	temp := f.locals // index of the local added for bulk instructions
	if f.bulk {
		out = appendU32(out, f.groups+1)
		out = append(out, f.body[r.off:f.first]...)
		out = append(out, 1, 0x7f)
	} else {
		out = append(out, f.body[:f.first]...)
	}
	out = f.charge(out, f.costs[0])
	frame := int64(1 + f.locals/localsPerFrame)
	if f.calls {
		out = f.enter(out, frame)
	}
	r = f.reader()
	open, loops, copied := uint32(1), 0, f.first
	for open > 0 && r.err == nil {
		in := r.next()
		switch in.op {
		case opBlock, opIf:
			open++
		case opLoop:
			open++
			loops++
			out = append(out, f.body[copied:r.off]...)
			copied = r.off
			out = f.charge(out, f.costs[loops])
		case opEnd:
			open--
		case opCall, opRefFunc:
			out = append(out, f.body[copied:in.start]...)
			out = appendU32(append(out, in.op), f.shift(in.index))
			copied = r.off
		case opReturn:
			if f.calls {
				out = append(out, f.body[copied:in.start]...)
				out = appendU32(append(out, opBr), open-1)
				copied = r.off
			}
		}
		if shift, ok := in.isBulk(); ok {
			out = append(out, f.body[copied:in.start]...)
			copied = in.start
			out = f.chargeBulk(out, temp, shift)
		}
	}
	out = append(out, f.body[copied:]...)
	if f.calls {
		out = f.addDepth(out, opI32Sub, frame)
		out = append(out, opEnd)
	}
	return out
}

// charge takes cost from the fuel and yields when none is left.
func (f *function) charge(out []byte, cost int64) []byte {
	out = appendU32(append(out, opGlobalGet), f.fuel)
	out = appendS64(append(out, opI64Const), cost)
	return f.spend(out)
}

// chargeBulk takes the i32 on the top of the stack, divided, from the fuel and leaves it there.
func (f *function) chargeBulk(out []byte, temp uint32, shift int64) []byte {
	out = appendU32(append(out, opLocalTee), temp)
	out = appendU32(append(out, opGlobalGet), f.fuel)
	out = appendU32(append(out, opLocalGet), temp)
	out = append(out, opI64ExtendU)
	if shift > 0 {
		out = append(appendS64(append(out, opI64Const), shift), opI64ShrU)
	}
	return f.spend(out)
}

func (f *function) spend(out []byte) []byte {
	out = appendU32(append(out, opI64Sub, opGlobalSet), f.fuel)
	out = appendU32(append(out, opGlobalGet), f.fuel)
	out = append(out, opI64Const, 0, opI64LtS, opIf, emptyBlock, opCall)
	return append(appendU32(out, f.m.importFuncs), opEnd)
}

func (f *function) addDepth(out []byte, op byte, n int64) []byte {
	out = appendU32(append(out, opGlobalGet), f.depth)
	out = appendS64(append(out, opI32Const), n)
	return appendU32(append(out, op, opGlobalSet), f.depth)
}

func (f *function) enter(out []byte, frame int64) []byte {
	out = f.addDepth(out, opI32Add, frame)
	out = appendU32(append(out, opGlobalGet), f.pass.depth)
	out = appendS64(append(out, opI32Const), int64(int32(f.o.Depth)))
	out = append(out, opI32GtU, opIf, emptyBlock, opUnreachable, opEnd, opBlock)
	switch results := f.typ.Results; len(results) {
	case 0:
		return append(out, emptyBlock)
	case 1:
		return append(out, results[0])
	default:
		i, ok := f.resultTypes[results]
		if !ok {
			i = f.typeIndex(FuncType{Results: results})
			f.resultTypes[results] = i
		}
		return appendS64(out, int64(i))
	}
}
