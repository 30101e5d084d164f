package meter_test

// Modules for tests, made of bytes: a small assembler, and a generator of valid modules whose shape
// follows the bytes of the fuzzer.

const (
	i32     = 0x7f
	funcref = 0x70
)

func u(v uint32) []byte {
	var b []byte
	for v >= 0x80 {
		b = append(b, byte(v)|0x80)
		v >>= 7
	}
	return append(b, byte(v))
}

// s encodes a small non-negative constant as a signed integer.
func s(v uint32) []byte {
	if v < 64 {
		return []byte{byte(v)}
	}
	return []byte{byte(v)&0x7f | 0x80, byte(v>>7) & 0x7f &^ 0x40, 0}[:2]
}

func cat(parts ...[]byte) []byte {
	var b []byte
	for _, p := range parts {
		b = append(b, p...)
	}
	return b
}

func section(id byte, items ...[]byte) []byte {
	content := cat(append([][]byte{u(uint32(len(items)))}, items...)...)
	return raw(id, content)
}

func raw(id byte, content []byte) []byte { return cat([]byte{id}, u(uint32(len(content))), content) }

func name(s string) []byte { return cat(u(uint32(len(s))), []byte(s)) }

func functionType(params, results string) []byte {
	return cat([]byte{0x60}, name(params), name(results))
}

func export(n string, kind byte, index uint32) []byte { return cat(name(n), []byte{kind}, u(index)) }

// body makes a code entry with n locals of type i32.
func body(n int, code []byte) []byte {
	locals := []byte{0}
	if n > 0 {
		locals = cat([]byte{1}, u(uint32(n)), []byte{i32})
	}
	content := cat(locals, code, []byte{0x0b})
	return cat(u(uint32(len(content))), content)
}

func module(sections ...[]byte) []byte {
	return cat(append([][]byte{{0, 'a', 's', 'm', 1, 0, 0, 0}}, sections...)...)
}

// Functions of a generated module; the imported one comes first.
const (
	fnImport = iota // (i32)->i32
	fnMain          // (i32,i32)->i32, exported
	fnHelper        // (i32,i32)->i32, also in the table
	fnPair          // (i32)->(i32,i32)
	fnStart         // ()->(), the start function
	fnCount
)

// generate makes a valid module that ends for all inputs: calls go to later functions only, and loops
// count down.
func generate(data []byte) []byte {
	g := &generator{data: data}
	bodies := [][]byte{g.function(fnMain, 2), g.function(fnHelper, 2), nil, nil}
	g.begin(fnPair, 1)
	pair := cat(g.expr(3), g.expr(3))
	bodies[2] = body(g.locals-1, pair)
	g.begin(fnStart, 0)
	bodies[3] = body(g.locals, cat([]byte{0x41}, s(8), g.expr(1), []byte{0x36, 2, 0}))
	const two, pairType, none, one = 0, 1, 2, 3
	return module(
		section(1, functionType("\x7f\x7f", "\x7f"), functionType("\x7f", "\x7f\x7f"), functionType("", ""), functionType("\x7f", "\x7f")),
		section(2, cat(name("env"), name("double"), []byte{0, one})),
		section(3, u(two), u(two), u(pairType), u(none)),
		section(4, []byte{funcref, 0, 4}),
		section(5, []byte{1, 1, 3}),
		section(6, []byte{i32, 1, 0x41, 5, 0x0b}, cat([]byte{funcref, 0, 0xd2}, u(fnHelper), []byte{0x0b})),
		section(7, export("main", 0, fnMain), export("memory", 2, 0), export("global", 3, 0)),
		raw(8, u(fnStart)),
		section(9, cat([]byte{0, 0x41, 1, 0x0b}, u(2), u(fnHelper), u(fnHelper)),
			cat([]byte{5, funcref}, u(1), []byte{0xd2}, u(fnHelper), []byte{0x0b})),
		raw(12, u(1)),
		section(10, bodies...),
		section(11, cat([]byte{1}, name("passive!"))),
	)
}

type generator struct {
	data   []byte
	self   int // function being made
	locals int // of it, parameters included
	nodes  int
	loops  int
	labels int // open blocks
}

func (g *generator) next() byte {
	if len(g.data) == 0 {
		return 0
	}
	b := g.data[0]
	g.data = g.data[1:]
	return b
}

func (g *generator) begin(self, params int) {
	g.self, g.locals, g.nodes, g.loops, g.labels = self, params, 60, 3, 0
}

func (g *generator) function(self, params int) []byte {
	g.begin(self, params)
	code := g.expr(6)
	return body(g.locals-params, code)
}

// block opens a label around what f makes.
func (g *generator) block(op byte, typ byte, f func() []byte) []byte {
	g.labels++
	code := f()
	g.labels--
	return cat([]byte{op, typ}, code, []byte{0x0b})
}

// expr makes code that leaves one i32.
func (g *generator) expr(depth int) []byte {
	g.nodes--
	kind := g.next()
	if depth == 0 || g.nodes < 0 {
		kind %= 2
	}
	sub := func() []byte { return g.expr(depth - 1) }
	switch kind % 20 {
	default:
		return cat([]byte{0x41}, s(uint32(g.next())))
	case 1:
		if g.locals == 0 {
			return []byte{0x23, 0}
		}
		return cat([]byte{0x20}, u(uint32(int(g.next())%g.locals)))
	case 2, 3:
		ops := []byte{0x6a, 0x6b, 0x6c, 0x6e, 0x71, 0x73, 0x74, 0x48, 0x6d, 0x70}
		return cat(sub(), sub(), []byte{ops[int(g.next())%len(ops)]})
	case 4:
		return g.block(0x02, i32, sub)
	case 5:
		return cat(sub(), g.block(0x04, i32, func() []byte { return cat(sub(), []byte{0x05}, sub()) }))
	case 6:
		if g.self >= fnHelper {
			return cat(sub(), []byte{0x10}, u(fnImport))
		}
		return cat(sub(), sub(), []byte{0x10}, u(fnHelper))
	case 7:
		if g.self >= fnHelper {
			return []byte{0x23, 0}
		}
		return cat(sub(), sub(), []byte{0x41}, s(uint32(g.next()%5)), []byte{0x11, 0, 0}) // may trap
	case 8:
		return cat(sub(), []byte{0x41}, s(255), []byte{0x71, 0x28, 2, 0})
	case 9: // memory.fill, memory.copy, memory.init: may trap
		length := cat([]byte{0x41}, s(uint32(g.next())))
		op := [][]byte{{0xfc, 11, 0}, {0xfc, 10, 0, 0}, {0xfc, 8, 0, 0}}[g.next()%3]
		return cat(sub(), []byte{0x41}, s(uint32(g.next()%8)), length, op, []byte{0x3f, 0})
	case 10:
		if g.loops == 0 {
			return []byte{0x3f, 0}
		}
		g.loops--
		counter := u(uint32(g.locals))
		g.locals++
		return cat([]byte{0x41}, s(uint32(1+g.next()%4)), []byte{0x21}, counter,
			g.block(0x03, 0x40, func() []byte {
				return cat(sub(), []byte{0x1a, 0x20}, counter, []byte{0x41, 1, 0x6b, 0x22}, counter, []byte{0x0d, 0})
			}), sub())
	case 11:
		if g.self > fnHelper {
			return sub()
		}
		return cat(sub(), g.block(0x04, 0x40, func() []byte { return cat(sub(), []byte{0x0f}) }), sub())
	case 12:
		return g.block(0x02, i32, func() []byte { return cat(sub(), sub(), []byte{0x0d, 0, 0x1a}, sub()) })
	case 13:
		if g.self >= fnPair {
			return []byte{0x41, 7}
		}
		return cat(sub(), []byte{0x10}, u(fnPair), []byte{0x6a})
	case 14:
		return cat(sub(), []byte{0x24, 0, 0x23, 0})
	case 15: // br_table over this block and, in a function with one result, all others outwards
		return g.block(0x02, i32, func() []byte {
			return cat(sub(), sub(), []byte{0x0e, 1, 0, 0})
		})
	case 16:
		return cat(sub(), g.block(0x04, 0x40, func() []byte { return []byte{0x00} }), []byte{0x41, 3}) // may trap
	case 17:
		return cat([]byte{0x41}, s(uint32(g.next()%3)), []byte{0x40, 0})
	case 18: // table.grow and table.size
		return cat([]byte{0xd0, funcref, 0x41}, s(uint32(g.next()%4)), []byte{0xfc, 15, 0, 0x1a, 0xfc, 16, 0})
	case 19: // branch to the function's own label
		if g.self > fnHelper {
			return sub()
		}
		return cat(sub(), g.block(0x04, 0x40, func() []byte { return cat(sub(), []byte{0x0c}, u(uint32(g.labels))) }), sub())
	}
}
