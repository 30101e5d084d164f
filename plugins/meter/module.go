package meter

import (
	"bytes"
	"fmt"
	"slices"
)

// Limits bound what a module may declare. Zero means that nothing of the kind is allowed.
type Limits struct {
	Bytes     int    // size of the module in bytes
	Functions uint32 // functions the module defines
	Locals    uint64 // locals of all functions together
	Tables    uint32
	Table     uint32 // elements of one table, at its start; the pass keeps it from growing further
	Globals   uint32
	Entries   uint32 // types, imports and exports, each
	Segments  uint32 // element and data segments, each
	Elements  uint64 // of all element segments together
	Memory    uint32 // pages of 64 KiB at the start
}

// Kind is what an import or export refers to.
type Kind byte

// Kinds of imports and exports.
const (
	KindFunc   Kind = 0
	KindTable  Kind = 1
	KindMemory Kind = 2
	KindGlobal Kind = 3
)

// String returns the word for the kind in messages.
func (k Kind) String() string {
	switch k {
	case KindFunc:
		return "function"
	case KindTable:
		return "table"
	case KindMemory:
		return "memory"
	}
	return "global"
}

// FuncType is a function's signature; the bytes are value types of the binary format.
type FuncType struct {
	Params, Results string
}

// String returns the signature as "(i32,i64)->i32".
func (t FuncType) String() string {
	list := func(s string) string {
		var out []byte
		for i := range len(s) {
			if i > 0 {
				out = append(out, ',')
			}
			out = append(out, valueName(s[i])...)
		}
		return string(out)
	}
	if len(t.Results) == 1 {
		return "(" + list(t.Params) + ")->" + list(t.Results)
	}
	return "(" + list(t.Params) + ")->(" + list(t.Results) + ")"
}

func valueName(c byte) string {
	switch c {
	case 0x7f:
		return "i32"
	case 0x7e:
		return "i64"
	case 0x7d:
		return "f32"
	case 0x7c:
		return "f64"
	case 0x7b:
		return "v128"
	case 0x70:
		return "funcref"
	case 0x6f:
		return "externref"
	}
	return fmt.Sprintf("0x%02x", c)
}

// Import is one thing that the module wants from its host. Type is set for functions.
type Import struct {
	Module, Name string
	Kind         Kind
	Type         FuncType
}

// Export is one thing that the module offers. Type is set for functions.
type Export struct {
	Name  string
	Kind  Kind
	Index uint32
	Type  FuncType
}

// section ids of the binary format.
const (
	secCustom    = 0
	secType      = 1
	secImport    = 2
	secFunction  = 3
	secTable     = 4
	secMemory    = 5
	secGlobal    = 6
	secExport    = 7
	secStart     = 8
	secElement   = 9
	secCode      = 10
	secData      = 11
	secDataCount = 12
)

// sectionOrder is the order in which known sections stand in a file.
var sectionOrder = [...]byte{secType, secImport, secFunction, secTable, secMemory, secGlobal, secExport,
	secStart, secElement, secDataCount, secCode, secData}

// Module is a decoded module. It refers to the bytes it was parsed from.
type Module struct {
	Imports []Import
	Exports []Export
	Custom  map[string][]byte // contents of custom sections, the first of each name

	types         []FuncType
	funcTypes     []uint32 // type of each defined function
	importFuncs   uint32
	importGlobals uint32
	globals       uint32 // defined ones
	bodies        [][]byte
	sections      [13][]byte // payloads by id
	present       [13]bool
	limits        Limits
}

var (
	magic          = []byte{0, 'a', 's', 'm', 1, 0, 0, 0}
	componentMagic = []byte{0, 'a', 's', 'm', 0x0d, 0, 1, 0}
)

// Parse decodes the structure of a module and holds it against the limits. It looks at no code. All
// lengths that a decoder may allocate by are checked. It returns ErrModule, ErrComponent or ErrLimit.
func Parse(wasm []byte, limits Limits) (*Module, error) {
	if len(wasm) > limits.Bytes {
		return nil, fmt.Errorf("%w: %d bytes, at most %d are accepted", ErrLimit, len(wasm), limits.Bytes)
	}
	if bytes.HasPrefix(wasm, componentMagic) {
		return nil, ErrComponent
	}
	if !bytes.HasPrefix(wasm, magic) {
		return nil, fmt.Errorf("%w: the file does not start with the bytes of a version 1 module", ErrModule)
	}
	m := &Module{Custom: map[string][]byte{}, limits: limits}
	r := &reader{b: wasm, off: len(magic)}
	next := 0
	for r.more() {
		id := r.byte()
		payload := r.take(r.u32())
		if r.err != nil {
			break
		}
		if id == secCustom {
			c := &reader{b: payload}
			if name := c.name(); c.err == nil && m.Custom[name] == nil {
				m.Custom[name] = payload[c.off:]
			}
			continue
		}
		for next < len(sectionOrder) && sectionOrder[next] != id {
			next++
		}
		if next == len(sectionOrder) {
			r.fail("section %d is unknown, out of order or there twice", id)
			break
		}
		next++
		m.sections[id], m.present[id] = payload, true
		if err := m.section(id, payload); err != nil {
			return nil, err
		}
	}
	if r.err == nil && len(m.bodies) != len(m.funcTypes) {
		r.fail("%d functions declared, %d with code", len(m.funcTypes), len(m.bodies))
	}
	return m, r.err
}

// Core returns the module without its custom sections, for an engine to validate.
func (m *Module) Core() []byte {
	out := slices.Clone(magic)
	for _, id := range sectionOrder {
		if m.present[id] {
			out = appendU32(append(out, id), uint32(len(m.sections[id])))
			out = append(out, m.sections[id]...)
		}
	}
	return out
}

func (m *Module) section(id byte, payload []byte) error {
	r := &reader{b: payload}
	var err error
	switch id {
	case secType:
		err = m.parseTypes(r)
	case secImport:
		err = m.parseImports(r)
	case secFunction:
		err = m.parseFunctions(r)
	case secTable:
		err = m.parseTables(r)
	case secMemory:
		err = m.parseMemories(r)
	case secGlobal:
		m.globals = r.count("globals")
		err = over("globals", uint64(m.globals), uint64(m.limits.Globals))
	case secExport:
		err = m.parseExports(r)
	case secElement:
		_, err = (&pass{m: m}).elementSection(payload) // the rewrite finds all faults
	case secCode:
		err = m.parseCode(r)
	case secData:
		err = m.parseData(r)
	}
	if r.err != nil {
		return fmt.Errorf("section %d: %w", id, r.err)
	}
	return err
}

func over(what string, n, limit uint64) error {
	if n <= limit {
		return nil
	}
	return fmt.Errorf("%w: %d %s, at most %d are accepted", ErrLimit, n, what, limit)
}

func (m *Module) parseTypes(r *reader) error {
	n := r.count("types")
	if err := over("types", uint64(n), uint64(m.limits.Entries)); err != nil {
		return err
	}
	for range n {
		if c := r.byte(); c != 0x60 {
			r.fail("type form 0x%02x", c)
			break
		}
		params := string(r.take(r.u32()))
		m.types = append(m.types, FuncType{Params: params, Results: string(r.take(r.u32()))})
	}
	return nil
}

func (m *Module) typeAt(r *reader, i uint32) FuncType {
	if int64(i) >= int64(len(m.types)) {
		r.fail("type %d of %d", i, len(m.types))
		return FuncType{}
	}
	return m.types[i]
}

// limitsOf reads table or memory limits.
func (r *reader) limitsOf() (min, max uint32, hasMax bool) {
	flag := r.byte()
	min = r.u32()
	switch flag {
	case 0:
	case 1:
		max, hasMax = r.u32(), true
	default:
		r.fail("limits flag 0x%02x (shared and 64-bit memories are not accepted)", flag)
	}
	return min, max, hasMax
}

func (m *Module) parseImports(r *reader) error {
	n := r.count("imports")
	if err := over("imports", uint64(n), uint64(m.limits.Entries)); err != nil {
		return err
	}
	for range n {
		im := Import{Module: r.name(), Name: r.name(), Kind: Kind(r.byte())}
		switch im.Kind {
		case KindFunc:
			im.Type = m.typeAt(r, r.u32())
			m.importFuncs++
		case KindTable:
			r.byte()
			r.limitsOf()
		case KindMemory:
			r.limitsOf()
		case KindGlobal:
			r.skip(2)
			m.importGlobals++
		default:
			r.fail("import kind 0x%02x", byte(im.Kind))
		}
		if r.err != nil {
			break
		}
		m.Imports = append(m.Imports, im)
	}
	return nil
}

func (m *Module) parseFunctions(r *reader) error {
	n := r.count("functions")
	if err := over("functions", uint64(n), uint64(m.limits.Functions)); err != nil {
		return err
	}
	for range n {
		i := r.u32()
		m.typeAt(r, i)
		m.funcTypes = append(m.funcTypes, i)
	}
	return nil
}

func (m *Module) parseTables(r *reader) error {
	n := r.count("tables")
	if err := over("tables", uint64(n), uint64(m.limits.Tables)); err != nil {
		return err
	}
	for range n {
		r.byte()
		min, _, _ := r.limitsOf()
		if err := over("table elements", uint64(min), uint64(m.limits.Table)); err != nil {
			return err
		}
	}
	return nil
}

func (m *Module) parseMemories(r *reader) error {
	for range r.count("memories") {
		min, _, _ := r.limitsOf()
		if err := over("memory pages at the start", uint64(min), uint64(m.limits.Memory)); err != nil {
			return err
		}
	}
	return nil
}

func (m *Module) parseExports(r *reader) error {
	n := r.count("exports")
	if err := over("exports", uint64(n), uint64(m.limits.Entries)); err != nil {
		return err
	}
	for range n {
		ex := Export{Name: r.name(), Kind: Kind(r.byte()), Index: r.u32()}
		if ex.Kind == KindFunc {
			ex.Type = m.funcType(r, ex.Index)
		}
		if r.err != nil {
			break
		}
		m.Exports = append(m.Exports, ex)
	}
	return nil
}

// funcType returns the signature of a function by its index, imported ones first.
func (m *Module) funcType(r *reader, i uint32) FuncType {
	if i < m.importFuncs {
		n := uint32(0)
		for _, im := range m.Imports {
			if im.Kind != KindFunc {
				continue
			}
			if n == i {
				return im.Type
			}
			n++
		}
	}
	if int64(i-m.importFuncs) >= int64(len(m.funcTypes)) {
		r.fail("function %d of %d", i, int(m.importFuncs)+len(m.funcTypes))
		return FuncType{}
	}
	return m.typeAt(r, m.funcTypes[i-m.importFuncs])
}

func (m *Module) parseData(r *reader) error {
	n := r.count("data segments")
	if err := over("data segments", uint64(n), uint64(m.limits.Segments)); err != nil {
		return err
	}
	p := &pass{m: m}
	for range n {
		flags := r.u32()
		if flags > 2 {
			r.fail("data segment flags %d", flags)
		}
		if flags == 2 {
			r.u32()
		}
		if flags != 1 {
			p.constant(r, nil)
		}
		r.take(r.u32())
		if r.err != nil {
			break
		}
	}
	return nil
}

func (m *Module) parseCode(r *reader) error {
	n := r.count("functions")
	if int64(n) != int64(len(m.funcTypes)) {
		r.fail("%d functions declared, %d with code", len(m.funcTypes), n)
		return nil
	}
	var locals uint64
	for range n {
		body := r.take(r.u32())
		if r.err != nil {
			return nil
		}
		m.bodies = append(m.bodies, body)
		b := &reader{b: body}
		for range b.count("groups of locals") {
			locals += uint64(b.u32())
			b.byte()
		}
		if b.err != nil {
			return fmt.Errorf("function %d: %w", len(m.bodies)-1, b.err)
		}
	}
	return over("locals", locals, m.limits.Locals)
}
