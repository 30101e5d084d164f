package image

import (
	"encoding/binary"
	"fmt"
)

// section is one PE section that the EFI stub looks for.
type section struct {
	name string // at most 8 bytes
	data []byte
}

// Offsets in a PE file (Microsoft PE/COFF specification).
const (
	peOffsetAt       = 0x3c // in the DOS header: where the PE signature is
	coffSize         = 20
	optFileAlignment = 36 // in the optional header
	optSectionAlign  = 32
	optSizeOfImage   = 56
	optSizeOfHeaders = 60
	optCheckSum      = 64
	pe32PlusMagic    = 0x20b
	sectionEntrySize = 40

	// sectionFlags marks initialized data, readable.
	sectionFlags = 0x40000040
)

// buildUKI appends sections to systemd's EFI stub and so makes a unified kernel image: one EFI
// program that can be signed as a whole. The stub finds the sections by name.
func buildUKI(stub []byte, sections []section) ([]byte, error) {
	h, err := parsePE(stub)
	if err != nil {
		return nil, fmt.Errorf("read EFI stub: %w", err)
	}
	if room := (h.sizeOfHeaders - h.sectionTable) / sectionEntrySize; h.sections+len(sections) > room {
		return nil, fmt.Errorf("EFI stub has room for %d section headers, want %d", room, h.sections+len(sections))
	}

	// What follows the last section (the symbol table) would be a gap no section covers, which
	// signing tools refuse: cut it off and clear the pointer to it.
	out := append([]byte(nil), stub[:h.dataEnd]...)
	out = pad(out, h.fileAlign)
	le := binary.LittleEndian
	le.PutUint32(out[h.coff+4:], 0)  // TimeDateStamp: equal input gives equal output
	le.PutUint32(out[h.coff+8:], 0)  // PointerToSymbolTable
	le.PutUint32(out[h.coff+12:], 0) // NumberOfSymbols

	va := align(h.vaEnd, h.sectionAlign)
	for i, s := range sections {
		if len(s.name) > 8 {
			return nil, fmt.Errorf("section name %q is longer than 8 bytes", s.name)
		}
		e := out[h.sectionTable+(h.sections+i)*sectionEntrySize:][:sectionEntrySize]
		clear(e)
		copy(e, s.name)
		le.PutUint32(e[8:], uint32(len(s.data)))
		le.PutUint32(e[12:], uint32(va))
		le.PutUint32(e[16:], uint32(align(len(s.data), h.fileAlign)))
		le.PutUint32(e[20:], uint32(len(out)))
		le.PutUint32(e[36:], sectionFlags)
		out = pad(append(out, s.data...), h.fileAlign)
		va = align(va+len(s.data), h.sectionAlign)
	}
	le.PutUint16(out[h.coff+2:], uint16(h.sections+len(sections)))
	le.PutUint32(out[h.opt+optSizeOfImage:], uint32(va))
	setChecksum(out, h)
	return out, nil
}

// peHeader is where things are in a PE file, in bytes from its start.
type peHeader struct {
	coff, opt, sectionTable int
	sections                int // number of sections
	sizeOfHeaders           int
	fileAlign, sectionAlign int
	dataEnd                 int // end of the last section in the file
	vaEnd                   int // end of the last section in memory
}

// parsePE reads the headers of a PE32+ file.
func parsePE(b []byte) (peHeader, error) {
	le := binary.LittleEndian
	var h peHeader
	if len(b) < 0x40 || b[0] != 'M' || b[1] != 'Z' {
		return h, fmt.Errorf("not a PE file: no MZ at its start")
	}
	sig := int(le.Uint32(b[peOffsetAt:]))
	if sig+4+coffSize > len(b) || string(b[sig:sig+4]) != "PE\x00\x00" {
		return h, fmt.Errorf("not a PE file: no PE signature at %#x", sig)
	}
	h.coff = sig + 4
	h.sections = int(le.Uint16(b[h.coff+2:]))
	h.opt = h.coff + coffSize
	h.sectionTable = h.opt + int(le.Uint16(b[h.coff+16:]))
	if h.opt+optCheckSum+4 > len(b) || le.Uint16(b[h.opt:]) != pe32PlusMagic {
		return h, fmt.Errorf("not a PE32+ file")
	}
	h.fileAlign = int(le.Uint32(b[h.opt+optFileAlignment:]))
	h.sectionAlign = int(le.Uint32(b[h.opt+optSectionAlign:]))
	h.sizeOfHeaders = int(le.Uint32(b[h.opt+optSizeOfHeaders:]))
	if h.fileAlign <= 0 || h.sectionAlign <= 0 || h.sizeOfHeaders > len(b) ||
		h.sectionTable+h.sections*sectionEntrySize > h.sizeOfHeaders {
		return h, fmt.Errorf("PE headers contradict each other")
	}
	for i := range h.sections {
		e := b[h.sectionTable+i*sectionEntrySize:]
		h.vaEnd = max(h.vaEnd, int(le.Uint32(e[12:]))+int(le.Uint32(e[8:])))
		h.dataEnd = max(h.dataEnd, int(le.Uint32(e[20:]))+int(le.Uint32(e[16:])))
	}
	if h.dataEnd > len(b) || h.dataEnd < h.sizeOfHeaders {
		return h, fmt.Errorf("PE sections end at %#x, the file at %#x", h.dataEnd, len(b))
	}
	return h, nil
}

// peChecksum is the checksum of the PE specification over a file whose checksum field is zero.
func peChecksum(b []byte) uint32 {
	var sum uint32
	for i := 0; i+1 < len(b); i += 2 {
		sum += uint32(b[i]) | uint32(b[i+1])<<8
		sum = sum&0xffff + sum>>16
	}
	if len(b)%2 == 1 {
		sum += uint32(b[len(b)-1])
		sum = sum&0xffff + sum>>16
	}
	return sum&0xffff + sum>>16 + uint32(len(b))
}

// align rounds n up to a multiple of to.
func align(n, to int) int {
	return (n + to - 1) / to * to
}

// pad appends zeros up to a multiple of to.
func pad(b []byte, to int) []byte {
	return append(b, make([]byte, align(len(b), to)-len(b))...)
}
