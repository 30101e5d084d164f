package meter

import (
	"fmt"
	"slices"
)

// Names that the pass adds to a module. A module that has them already must be refused.
const (
	YieldImport = "__yield" // function ()->(): the fuel is used up
	FuelExport  = "__fuel"  // mutable i64: what is left; negative when YieldImport is called
	DepthExport = "__depth" // mutable i32: nested calls now, a call with many locals counting more
)

// Version counts the changes of what Rewrite produces. It is part of the names of cached modules.
const Version = 1

// Options say how Rewrite meters.
type Options struct {
	Import string // module name that YieldImport is imported from
	Slice  int64  // fuel at the start, so that a start function can run
	Depth  uint32 // nested calls at which the guest traps
}

const (
	bytesPerFuelShift = 2  // one unit of fuel for 4 bytes that a bulk instruction moves
	localsPerFrame    = 32 // a call counts as one nested call for each 32 locals begun
)

// Reserved returns the first name of the module that belongs to the pass, or "".
func (m *Module) Reserved() string {
	for _, im := range m.Imports {
		if im.Name == YieldImport {
			return im.Module + "." + im.Name
		}
	}
	for _, ex := range m.Exports {
		if ex.Name == FuelExport || ex.Name == DepthExport || ex.Name == YieldImport {
			return ex.Name
		}
	}
	return ""
}

// Rewrite returns the metered module. m must have been validated by a WebAssembly engine before; the
// pass itself returns ErrModule, and never panics, for code that it cannot follow.
func (m *Module) Rewrite(o Options) ([]byte, error) {
	p := &pass{m: m, o: o, fuel: m.importGlobals + m.globals, resultTypes: map[string]uint32{}}
	p.depth = p.fuel + 1
	p.types = slices.Clone(m.types)
	p.yieldType = p.typeIndex(FuncType{})
	code, err := p.code()
	if err != nil {
		return nil, err
	}
	out := append(make([]byte, 0, 2*len(code)), magic...)
	for _, id := range sectionOrder {
		payload := m.sections[id]
		switch id {
		case secType:
			payload = p.typeSection()
		case secImport:
			payload, err = p.importSection(payload)
		case secTable:
			payload, err = p.tableSection(payload)
		case secGlobal:
			payload, err = p.globalSection(payload)
		case secExport:
			payload = p.exportSection()
		case secStart:
			payload, err = p.startSection(payload)
		case secElement:
			payload, err = p.elementSection(payload)
		case secCode:
			payload = code
		}
		if err != nil {
			return nil, fmt.Errorf("section %d: %w", id, err)
		}
		if len(payload) > 0 {
			out = appendU32(append(out, id), uint32(len(payload)))
			out = append(out, payload...)
		}
	}
	if names := p.nameSection(m.Custom["name"]); names != nil {
		content := append(appendName(nil, "name"), names...)
		out = appendU32(append(out, secCustom), uint32(len(content)))
		out = append(out, content...)
	}
	return out, nil
}

// pass is the state of one rewrite.
type pass struct {
	m           *Module
	o           Options
	fuel, depth uint32 // indices of the added globals
	types       []FuncType
	yieldType   uint32
	resultTypes map[string]uint32 // type ()->results by results
}

func (p *pass) typeIndex(t FuncType) uint32 {
	if i := slices.Index(p.types, t); i >= 0 {
		return uint32(i)
	}
	p.types = append(p.types, t)
	return uint32(len(p.types) - 1)
}

// shift maps a function index of the original to the rewritten module, in which the added import
// stands before the defined functions.
func (p *pass) shift(index uint32) uint32 {
	if index >= p.m.importFuncs {
		return index + 1
	}
	return index
}

func (p *pass) typeSection() []byte {
	out := appendU32(nil, uint32(len(p.types)))
	for _, t := range p.types {
		out = appendName(append(out, 0x60), t.Params)
		out = appendName(out, t.Results)
	}
	return out
}

func (p *pass) importSection(payload []byte) ([]byte, error) {
	r := &reader{b: payload}
	if p.m.present[secImport] {
		r.u32()
	}
	out := appendU32(nil, uint32(len(p.m.Imports)+1))
	out = append(out, payload[r.off:]...)
	out = appendName(out, p.o.Import)
	out = appendName(out, YieldImport)
	return appendU32(append(out, byte(KindFunc)), p.yieldType), r.err
}

// tableSection gives every table a maximum, because nothing else bounds table.grow.
func (p *pass) tableSection(payload []byte) ([]byte, error) {
	if !p.m.present[secTable] {
		return nil, nil
	}
	r := &reader{b: payload}
	n := r.u32()
	out := appendU32(nil, n)
	for range n {
		out = append(out, r.byte(), 1)
		least, most, bounded := r.limitsOf()
		if !bounded {
			most = p.m.limits.Table
		}
		out = appendU32(out, least)
		out = appendU32(out, min(most, max(p.m.limits.Table, least)))
	}
	return out, r.err
}

func (p *pass) globalSection(payload []byte) ([]byte, error) {
	r := &reader{b: payload}
	if p.m.present[secGlobal] {
		r.u32()
	}
	out := appendU32(nil, p.m.globals+2)
	for range p.m.globals {
		out = append(out, r.take(2)...)
		out = p.constant(r, out)
	}
	out = append(out, 0x7e, 1, opI64Const)
	out = append(appendS64(out, p.o.Slice), opEnd)
	return append(out, 0x7f, 1, opI32Const, 0, opEnd), r.err
}

// constant copies a constant expression with its end.
func (p *pass) constant(r *reader, out []byte) []byte {
	for r.more() {
		in := r.next()
		if r.err != nil {
			break
		}
		if in.op == opRefFunc {
			out = appendU32(append(out, opRefFunc), p.shift(in.index))
			continue
		}
		out = append(out, r.b[in.start:r.off]...)
		if in.op == opEnd {
			return out
		}
	}
	r.fail("constant expression without end")
	return out
}

func (p *pass) exportSection() []byte {
	out := appendU32(nil, uint32(len(p.m.Exports)+2))
	for _, ex := range p.m.Exports {
		index := ex.Index
		if ex.Kind == KindFunc {
			index = p.shift(index)
		}
		out = appendU32(append(appendName(out, ex.Name), byte(ex.Kind)), index)
	}
	out = appendU32(append(appendName(out, FuelExport), byte(KindGlobal)), p.fuel)
	return appendU32(append(appendName(out, DepthExport), byte(KindGlobal)), p.depth)
}

func (p *pass) startSection(payload []byte) ([]byte, error) {
	if !p.m.present[secStart] {
		return nil, nil
	}
	r := &reader{b: payload}
	return appendU32(nil, p.shift(r.u32())), r.err
}

func (p *pass) elementSection(payload []byte) ([]byte, error) {
	if !p.m.present[secElement] {
		return nil, nil
	}
	r := &reader{b: payload}
	n := r.count("element segments")
	if err := over("element segments", uint64(n), uint64(p.m.limits.Segments)); err != nil {
		return nil, err
	}
	var elements uint64
	out := appendU32(nil, n)
	for range n {
		flags := r.u32()
		if flags > 7 {
			r.fail("element segment flags %d", flags)
			break
		}
		out = appendU32(out, flags)
		if flags&1 == 0 { // active: has an offset
			if flags&2 != 0 {
				out = appendU32(out, r.u32())
			}
			out = p.constant(r, out)
		}
		if flags&3 != 0 { // element kind or reference type
			out = append(out, r.byte())
		}
		count := r.count("elements")
		out = appendU32(out, count)
		elements += uint64(count)
		if err := over("elements", elements, p.m.limits.Elements); err != nil {
			return nil, err
		}
		for range count {
			if flags&4 != 0 {
				out = p.constant(r, out)
			} else {
				out = appendU32(out, p.shift(r.u32()))
			}
			if r.err != nil {
				return nil, r.err
			}
		}
	}
	return out, r.err
}

// nameSection keeps the module's and the functions' names, which traps are reported with. A section
// that cannot be read is dropped.
func (p *pass) nameSection(content []byte) []byte {
	r := &reader{b: content}
	var out []byte
	for r.more() {
		id := r.byte()
		sub := r.take(r.u32())
		if r.err != nil || id > 1 {
			break
		}
		if id == 1 {
			s := &reader{b: sub}
			n := s.count("names")
			sub = appendU32(nil, n)
			for range n {
				sub = appendU32(sub, p.shift(s.u32()))
				sub = appendName(sub, s.name())
			}
			if s.err != nil || s.more() {
				return nil
			}
		}
		out = appendU32(append(out, id), uint32(len(sub)))
		out = append(out, sub...)
	}
	if r.err != nil {
		return nil
	}
	return out
}
