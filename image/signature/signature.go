// Package signature says who made a version: it signs unified kernel images with ed25519 keys and checks
// them. The builder, the box and the operator's command use it. What else a version must be it does not
// judge.
//
// # Format
//
// A version is a PE32+ file. Its last section has the name ".mrsig", 512 bytes, and ends the file. All
// numbers are little endian.
//
//	offset  bytes  what
//	     0      8  "MILLSIG1"
//	     8      4  number of signatures, 0 to 5
//	    12      4  zero
//	    16     96  signature, as many as said:
//	                  0  32  public key
//	                 32  64  ed25519ph signature (RFC 8032), context "millrace image 1"
//	     …         zero up to byte 512
//
// What is signed is the SHA-512 of all bytes of the file before the section's, in which the four bytes of
// the PE checksum (optional header, offset 64) count as zero: it is over the signatures too, and firmware
// does not read it. So kernel, initramfs, command line, os-release, manifest and every header are covered.
// Several keys may sign one version; a box asks for one that it trusts.
//
// Keys are written "ed25519:" and the 32 bytes of the public key in base64 (RFC 4648, padded). A file with
// a private key has one line "ed25519-private:" and the 32 bytes of the seed in base64; lines that start
// with "#" and empty lines are skipped.
package signature

import (
	"bytes"
	"crypto"
	"crypto/ed25519"
	"crypto/sha512"
	"encoding/binary"
	"errors"
	"fmt"
)

var (
	// ErrUnsigned is returned for a version without a signature of one of the trusted keys.
	ErrUnsigned = errors.New("signature: not signed by a trusted key")

	// ErrInvalid is returned for a version that a trusted key has signed, but not these bytes.
	ErrInvalid = errors.New("signature: does not match the image, which was damaged or changed")

	// ErrFormat is returned for a file without a well-formed place for signatures.
	ErrFormat = errors.New("signature: not a Millrace version with room for signatures")
)

const (
	// SectionName is the name of the section with the signatures.
	SectionName = ".mrsig"

	// SectionBytes is its size.
	SectionBytes = 512

	// MaxSignatures is how many keys can sign one version.
	MaxSignatures = 5

	magic      = "MILLSIG1"
	entriesAt  = 16
	entryBytes = ed25519.PublicKeySize + ed25519.SignatureSize
	context    = "millrace image 1"
)

// Empty is the content of the section before anybody has signed.
func Empty() []byte {
	b := make([]byte, SectionBytes)
	copy(b, magic)
	return b
}

// Verify checks that one of the keys has signed the version. It returns the key, or an error that is
// ErrFormat, ErrUnsigned or ErrInvalid. Without keys nothing is trusted.
func Verify(image []byte, trusted []ed25519.PublicKey) (ed25519.PublicKey, error) {
	p, err := findPlace(image)
	if err != nil {
		return nil, err
	}
	signatures, err := readSection(image[p.section:])
	if err != nil {
		return nil, err
	}
	result := ErrUnsigned
	for _, s := range signatures {
		for _, key := range trusted {
			if !bytes.Equal(s.key, key) {
				continue
			}
			if ed25519.VerifyWithOptions(key, p.digest(image), s.signature, options()) == nil {
				return key, nil
			}
			result = ErrInvalid
		}
	}
	return nil, result
}

// Keys returns the keys that claim to have signed a version; Verify tells whether they have.
func Keys(image []byte) ([]ed25519.PublicKey, error) {
	p, err := findPlace(image)
	if err != nil {
		return nil, err
	}
	signatures, err := readSection(image[p.section:])
	var keys []ed25519.PublicKey
	for _, s := range signatures {
		keys = append(keys, s.key)
	}
	return keys, err
}

// Sign adds a signature to a version, in place of an older one of the same key. The PE checksum is then no
// longer right; who builds the image sets it.
func Sign(image []byte, key ed25519.PrivateKey) error {
	p, err := findPlace(image)
	if err != nil {
		return err
	}
	all, err := readSection(image[p.section:])
	if err != nil {
		return err
	}
	public := key.Public().(ed25519.PublicKey)
	sum, err := key.Sign(nil, p.digest(image), options())
	if err != nil {
		return fmt.Errorf("sign image: %w", err)
	}
	var keep []entry
	for _, s := range all {
		if !bytes.Equal(s.key, public) {
			keep = append(keep, s)
		}
	}
	if len(keep) == MaxSignatures {
		return fmt.Errorf("sign image: it has %d signatures already, there is room for no more", len(keep))
	}
	copy(image[p.section:], formatSection(append(keep, entry{public, sum})))
	return nil
}

func options() *ed25519.Options {
	return &ed25519.Options{Hash: crypto.SHA512, Context: context}
}

// entry is one signature.
type entry struct {
	key       ed25519.PublicKey
	signature []byte
}

// readSection parses the section. Every byte of it must be as formatSection writes it: there is no room
// for what nobody signed.
func readSection(b []byte) ([]entry, error) {
	if len(b) != SectionBytes || string(b[:len(magic)]) != magic {
		return nil, fmt.Errorf("%w: section %s does not start with %s", ErrFormat, SectionName, magic)
	}
	n := binary.LittleEndian.Uint32(b[8:])
	if n > MaxSignatures {
		return nil, fmt.Errorf("%w: %d signatures, at most %d", ErrFormat, n, MaxSignatures)
	}
	list := make([]entry, n)
	for i := range list {
		e := b[entriesAt+i*entryBytes:][:entryBytes]
		list[i] = entry{bytes.Clone(e[:ed25519.PublicKeySize]), bytes.Clone(e[ed25519.PublicKeySize:])}
	}
	if !bytes.Equal(b, formatSection(list)) {
		return nil, fmt.Errorf("%w: section %s is not zero after its %d signatures", ErrFormat, SectionName, n)
	}
	return list, nil
}

// formatSection is the inverse of readSection.
func formatSection(list []entry) []byte {
	b := Empty()
	binary.LittleEndian.PutUint32(b[8:], uint32(len(list)))
	for i, s := range list {
		at := b[entriesAt+i*entryBytes:]
		copy(at, s.key)
		copy(at[ed25519.PublicKeySize:], s.signature)
	}
	return b
}

// place is where things are in a version, in bytes from its start.
type place struct {
	checksum int // the PE checksum, 4 bytes
	section  int // the section's content, up to the end of the file
}

// digest is what is signed. findPlace has made sure that the checksum lies before the section.
func (p place) digest(image []byte) []byte {
	h := sha512.New()
	h.Write(image[:p.checksum])
	h.Write(make([]byte, 4))
	h.Write(image[p.checksum+4 : p.section])
	return h.Sum(nil)
}

// Offsets in a PE file (Microsoft PE/COFF specification).
const (
	peAt          = 0x3c // in the DOS header: where the PE signature is
	coffBytes     = 20
	optChecksum   = 64
	pe32Plus      = 0x20b
	sectionHeader = 40
)

// findPlace finds the section by its header. It must be the last one and end the file.
func findPlace(b []byte) (place, error) {
	le := binary.LittleEndian
	bad := func(format string, args ...any) (place, error) {
		return place{}, fmt.Errorf("%w: %s", ErrFormat, fmt.Sprintf(format, args...))
	}
	if len(b) < peAt+4 || b[0] != 'M' || b[1] != 'Z' {
		return bad("no EFI program")
	}
	at := int64(le.Uint32(b[peAt:]))
	opt := at + 4 + coffBytes
	if opt+optChecksum+4 > int64(len(b)) || string(b[at:at+4]) != "PE\x00\x00" || le.Uint16(b[opt:]) != pe32Plus {
		return bad("no EFI program")
	}
	n := int64(le.Uint16(b[at+4+2:]))
	table := opt + int64(le.Uint16(b[at+4+16:]))
	end := int64(len(b)) - SectionBytes
	if n == 0 || table < opt+optChecksum+4 || table+n*sectionHeader > end {
		return bad("section headers end behind the file")
	}
	for i := range n {
		h := b[table+i*sectionHeader:][:sectionHeader]
		name := string(bytes.TrimRight(h[:8], "\x00"))
		size, off := int64(le.Uint32(h[16:])), int64(le.Uint32(h[20:]))
		switch {
		case i < n-1 && name == SectionName:
			return bad("section %s is not the last", SectionName)
		case i < n-1 && off+size > end:
			return bad("section %s reaches into the signatures, or the file is cut short", name)
		case i == n-1 && (name != SectionName || size != SectionBytes || off != end):
			return bad("the file does not end in a section %s of %d bytes", SectionName, SectionBytes)
		}
	}
	return place{checksum: int(opt + optChecksum), section: int(end)}, nil
}
