package index

import (
	"slices"
	"sort"
)

// record is what a block knows of one message.
type record struct {
	seq      uint64
	index    uint64
	time     int64
	off      uint32
	size     uint32 // length times two, plus one with headers
	subject  uint32
	distance uint32 // to the message before it on its subject; 0: none, farBack: unknown
}

// column is where the values of a column lie.
type column struct {
	off   int
	width uint
	mask  uint64
	least uint64
}

// block is a block as it is stored, ready for use.
type block struct {
	raw      []byte
	sum      uint32
	n        int // records
	subjects int // distinct ones
	first    uint64
	cols     [columns]column
}

// at returns value i of a column.
func (k *block) at(col, i int) uint64 {
	c := &k.cols[col]
	bit := uint(i) * c.width
	p := k.raw[c.off+int(bit>>3):]
	bit &= 7
	v := le.Uint64(p) >> bit
	if bit+c.width > 64 {
		v |= uint64(p[8]) << (64 - bit)
	}
	return v&c.mask + c.least
}

func (k *block) seq(i int) uint64     { return k.first + uint64(i) + k.at(colGap, i) }
func (k *block) index(i int) uint64   { return k.at(colIndex, i) }
func (k *block) time(i int) int64     { return int64(k.at(colTime, i)) }
func (k *block) number(i int) int     { return int(k.at(colNumber, i)) }
func (k *block) subject(i int) uint32 { return k.dictionary(k.number(i)) }

// dictionary returns subject number i of the block.
func (k *block) dictionary(i int) uint32 { return uint32(k.at(colSubject, i)) }

// uses returns how many records have subject number i of the block, dead ones too.
func (k *block) uses(i int) int { return int(k.at(colUses, i)) }

func (k *block) record(i int) record {
	return record{
		seq: k.seq(i), index: k.index(i), time: k.time(i), off: uint32(k.at(colOffset, i)),
		size: uint32(k.at(colSize, i)), subject: k.subject(i), distance: uint32(k.at(colDistance, i)),
	}
}

// lower returns the first record at or after seq; n if there is none.
func (k *block) lower(seq uint64) int {
	if seq <= k.first {
		return 0
	}
	// The record of seq is not behind the position that it would have without gaps.
	most := int(min(seq-k.first, uint64(k.n)))
	if k.cols[colGap].width == 0 {
		return most
	}
	return sort.Search(most, func(i int) bool { return k.seq(i) >= seq })
}

// numberOf returns the block's number of a subject.
func (k *block) numberOf(subject uint32) (int, bool) {
	i := sort.Search(k.subjects, func(i int) bool { return k.dictionary(i) >= subject })
	return i, i < k.subjects && k.dictionary(i) == subject
}

// distinct returns the subjects of records, ascending, and how often each occurs.
func distinct(recs []record) (subjects []uint32, uses []uint16) {
	subjects = make([]uint32, len(recs))
	one := true
	for i := range recs {
		subjects[i] = recs[i].subject
		one = one && subjects[i] == subjects[0]
	}
	if one {
		return subjects[:1], []uint16{uint16(len(recs))}
	}
	slices.Sort(subjects)
	uses = make([]uint16, 0, len(recs))
	n := 0
	for i, s := range subjects {
		if i == 0 || s != subjects[n-1] {
			subjects[n] = s
			n++
			uses = append(uses, 0)
		}
		uses[n-1]++
	}
	return subjects[:n], uses
}

// numberOf returns the position of subject in an ascending list that has it.
func numberOf(subjects []uint32, subject uint32) int {
	i, _ := slices.BinarySearch(subjects, subject)
	return i
}
