package index

// nameRef says where a name lies: number of the page and offset in it.
type nameRef uint64

// Pages of names. A record is the subject number (u32), the length (u16) and the name.
const (
	pageLen    = 64 << 10
	nameHeader = 6
	maxName    = 1<<16 - 1
)

// names holds the names of subjects, without pointers for the garbage collector. Records are only
// appended; a page of which half is garbage is emptied into the newest and dropped.
type names struct {
	pages [][]byte
	waste []int // bytes of dropped names, by page
	free  []int // pages that were dropped
	open  int   // the page that grows; -1: none
}

func newNames() names { return names{open: -1} }

// get returns a name. The slice belongs to the page.
func (n *names) get(r nameRef) []byte {
	p := n.pages[r>>32][uint32(r):]
	return p[nameHeader : nameHeader+int(le.Uint16(p[4:]))]
}

func (n *names) add(id uint32, name []byte) nameRef {
	if n.open < 0 || len(n.pages[n.open]) > 0 && len(n.pages[n.open])+nameHeader+len(name) > pageLen {
		if k := len(n.free); k > 0 {
			n.open, n.free = n.free[k-1], n.free[:k-1]
		} else {
			n.open = len(n.pages)
			n.pages, n.waste = append(n.pages, nil), append(n.waste, 0)
		}
	}
	p := n.pages[n.open]
	r := nameRef(n.open)<<32 | nameRef(len(p))
	p = le.AppendUint32(p, id)
	p = le.AppendUint16(p, uint16(len(name)))
	n.pages[n.open] = append(p, name...)
	return r
}

// drop forgets the name at r. It returns the page that should be emptied now, or -1.
func (n *names) drop(r nameRef) int {
	page := int(r >> 32)
	n.waste[page] += nameHeader + len(n.get(r))
	if page == n.open {
		if n.waste[page] < pageLen/2 {
			return -1
		}
		n.open = -1
	}
	if n.waste[page] <= len(n.pages[page])/2 {
		return -1
	}
	return page
}

// empty calls move with each record of a page and drops the page.
func (n *names) empty(page int, move func(id uint32, r nameRef, name []byte)) {
	p := n.pages[page]
	for off := 0; off < len(p); {
		name := p[off+nameHeader : off+nameHeader+int(le.Uint16(p[off+4:]))]
		move(le.Uint32(p[off:]), nameRef(page)<<32|nameRef(off), name)
		off += nameHeader + len(name)
	}
	n.pages[page], n.waste[page] = nil, 0
	n.free = append(n.free, page)
}
