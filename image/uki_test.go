package image

import (
	"bytes"
	"debug/pe"
	"encoding/binary"
	"testing"
)

// testStub is a PE32+ file with one section and, behind it, what looks like a symbol table.
func testStub() []byte {
	le := binary.LittleEndian
	b := make([]byte, 0x400)
	copy(b, "MZ")
	const sig = 0x80
	le.PutUint32(b[peOffsetAt:], sig)
	copy(b[sig:], "PE\x00\x00")
	coff := b[sig+4:]
	le.PutUint16(coff, pe.IMAGE_FILE_MACHINE_AMD64)
	le.PutUint16(coff[2:], 1)
	le.PutUint32(coff[4:], 12345)
	const optSize = 112 + 16*8
	le.PutUint16(coff[16:], optSize)
	opt := coff[coffSize:]
	le.PutUint16(opt, pe32PlusMagic)
	le.PutUint32(opt[optSectionAlign:], 0x1000)
	le.PutUint32(opt[optFileAlignment:], 0x200)
	le.PutUint32(opt[optSizeOfHeaders:], 0x400)
	le.PutUint32(opt[108:], 16)
	s := opt[optSize:]
	copy(s, ".text")
	le.PutUint32(s[8:], 0x150)
	le.PutUint32(s[12:], 0x1000)
	le.PutUint32(s[16:], 0x200)
	le.PutUint32(s[20:], 0x400)
	b = append(b, bytes.Repeat([]byte{0x90}, 0x200)...)
	return append(b, "symbols that must go"...)
}

func TestBuildUKI(t *testing.T) {
	sections := []section{
		{".osrel", []byte("ID=millrace\n")},
		{".cmdline", []byte("quiet")},
		{".linux", bytes.Repeat([]byte("kernel"), 1000)},
		{".initrd", bytes.Repeat([]byte("initrd"), 777)},
	}
	uki, err := buildUKI(testStub(), sections)
	if err != nil {
		t.Fatal(err)
	}
	f, err := pe.NewFile(bytes.NewReader(uki))
	if err != nil {
		t.Fatal(err)
	}
	if len(f.Sections) != 5 || f.TimeDateStamp != 0 || f.PointerToSymbolTable != 0 {
		t.Errorf("%d sections, time %d, symbols at %d; want 5, 0, 0", len(f.Sections), f.TimeDateStamp, f.PointerToSymbolTable)
	}
	end := uint32(0)
	for i, s := range f.Sections {
		if s.VirtualAddress < end || s.VirtualAddress%0x1000 != 0 || s.Offset%0x200 != 0 || s.Size%0x200 != 0 {
			t.Errorf("section %s at %#x, in the file at %#x with %#x bytes", s.Name, s.VirtualAddress, s.Offset, s.Size)
		}
		end = s.VirtualAddress + s.VirtualSize
		if i == 0 {
			continue
		}
		want := sections[i-1]
		data, err := s.Data()
		if err != nil {
			t.Fatal(err)
		}
		if s.Name != want.name || !bytes.Equal(data[:s.VirtualSize], want.data) {
			t.Errorf("section %s holds %.20q, want %s with %.20q", s.Name, data, want.name, want.data)
		}
	}
	opt := f.OptionalHeader.(*pe.OptionalHeader64)
	if int(opt.SizeOfImage) != align(int(end), 0x1000) {
		t.Errorf("size of image %#x, want %#x", opt.SizeOfImage, align(int(end), 0x1000))
	}
	if last := f.Sections[4]; len(uki) != int(last.Offset+last.Size) {
		t.Errorf("file has %d bytes, its last section ends at %d", len(uki), last.Offset+last.Size)
	}
	// The checksum is over the file with a zero checksum.
	at := 0x80 + 4 + coffSize + optCheckSum
	zeroed := append([]byte(nil), uki...)
	clear(zeroed[at : at+4])
	if got := peChecksum(zeroed); got != opt.CheckSum {
		t.Errorf("checksum %#x, want %#x", opt.CheckSum, got)
	}
}

// The checksum of a small file, added up by hand: 16-bit words with carry, plus the length.
func TestPEChecksum(t *testing.T) {
	if got := peChecksum([]byte{0xff, 0xff, 0x02, 0x00, 0x03}); got != 0x0005+5 {
		t.Errorf("got %#x, want %#x", got, 0x0005+5)
	}
}

func TestBuildUKIRefuses(t *testing.T) {
	good := testStub()
	change := func(off int, b ...byte) []byte {
		c := append([]byte(nil), good...)
		copy(c[off:], b)
		return c
	}
	for name, stub := range map[string][]byte{
		"empty":            nil,
		"no MZ":            change(0, 'X'),
		"signature beyond": change(peOffsetAt, 0xff, 0xff, 0xff),
		"PE32":             change(0x80+4+coffSize, 0x0b, 0x01),
		"cut":              good[:0x500],
		"no alignment":     change(0x80+4+coffSize+optFileAlignment, 0, 0, 0, 0),
		"many sections":    change(0x80+6, 0xff, 0xff),
	} {
		if _, err := buildUKI(stub, nil); err == nil {
			t.Errorf("stub with %s: no error", name)
		}
	}
	if _, err := buildUKI(good, make([]section, 30)); err == nil {
		t.Error("30 sections: no error")
	}
	if _, err := buildUKI(good, []section{{"ninechars", nil}}); err == nil {
		t.Error("long section name: no error")
	}
}

func FuzzBuildUKI(f *testing.F) {
	f.Add(testStub())
	f.Add([]byte("MZ"))
	f.Fuzz(func(t *testing.T, stub []byte) {
		_, _ = buildUKI(stub, []section{{".linux", []byte("k")}})
	})
}
