package signature

import (
	"bytes"
	"crypto/ed25519"
	"encoding/binary"
	"errors"
	"strings"
	"testing"
)

// testImage is the smallest PE32+ file with one section of content and one for signatures.
func testImage() []byte {
	const headers, content = 0x200, 0x200
	b := make([]byte, headers+content)
	le := binary.LittleEndian
	copy(b, "MZ")
	le.PutUint32(b[peAt:], 0x40)
	copy(b[0x40:], "PE\x00\x00")
	le.PutUint16(b[0x44+2:], 2)
	le.PutUint16(b[0x44+16:], 112)
	opt := 0x44 + coffBytes
	le.PutUint16(b[opt:], pe32Plus)
	for i, name := range []string{".linux", SectionName} {
		h := b[opt+112+i*sectionHeader:]
		copy(h, name)
		le.PutUint32(h[16:], 0x200)
		le.PutUint32(h[20:], uint32(headers+i*content))
	}
	for i := range content {
		b[headers+i] = byte(i)
	}
	return append(b, Empty()...)
}

func testKey(seed byte) ed25519.PrivateKey {
	return ed25519.NewKeyFromSeed(bytes.Repeat([]byte{seed}, ed25519.SeedSize))
}

func public(k ed25519.PrivateKey) ed25519.PublicKey { return k.Public().(ed25519.PublicKey) }

func TestVerify(t *testing.T) {
	image, a, b := testImage(), testKey(1), testKey(2)
	trusted := []ed25519.PublicKey{public(a)}
	if _, err := Verify(image, trusted); !errors.Is(err, ErrUnsigned) {
		t.Errorf("unsigned: %v", err)
	}
	for _, k := range []ed25519.PrivateKey{b, a, a} { // the last replaces its own
		if err := Sign(image, k); err != nil {
			t.Fatal(err)
		}
	}
	if keys, err := Keys(image); err != nil || len(keys) != 2 {
		t.Errorf("%d signatures, error %v, want 2", len(keys), err)
	}
	key, err := Verify(image, trusted)
	if err != nil || !key.Equal(public(a)) {
		t.Errorf("signed: key %x, error %v", key, err)
	}
	for name, keys := range map[string][]ed25519.PublicKey{"no keys": nil, "another key": {public(testKey(3))}} {
		if _, err := Verify(image, keys); !errors.Is(err, ErrUnsigned) {
			t.Errorf("%s: %v", name, err)
		}
	}
}

// TestVerifyCoversEveryByte changes each byte of a signed version in turn: but for the checksum, no change
// may pass.
func TestVerifyCoversEveryByte(t *testing.T) {
	image, k := testImage(), testKey(1)
	if err := Sign(image, k); err != nil {
		t.Fatal(err)
	}
	const checksum = 0x44 + coffBytes + optChecksum
	for i := range image {
		image[i] ^= 1
		_, err := Verify(image, []ed25519.PublicKey{public(k)})
		if free := i >= checksum && i < checksum+4; free != (err == nil) {
			t.Errorf("byte %#x changed: error %v", i, err)
		}
		image[i] ^= 1
	}
	for _, damaged := range [][]byte{nil, image[:10], image[:len(image)-1], append(bytes.Clone(image), 0)} {
		if _, err := Verify(damaged, []ed25519.PublicKey{public(k)}); !errors.Is(err, ErrFormat) {
			t.Errorf("%d of %d bytes: %v", len(damaged), len(image), err)
		}
	}
}

func TestSignRefusesSixth(t *testing.T) {
	image := testImage()
	for i := range MaxSignatures {
		if err := Sign(image, testKey(byte(i))); err != nil {
			t.Fatal(err)
		}
	}
	if err := Sign(image, testKey(9)); err == nil {
		t.Error("a sixth signature found room")
	}
	for i := range MaxSignatures {
		if _, err := Verify(image, []ed25519.PublicKey{public(testKey(byte(i)))}); err != nil {
			t.Errorf("signature %d: %v", i, err)
		}
	}
}

func TestKeyText(t *testing.T) {
	k := testKey(7)
	back, err := ParsePrivate(FormatPrivate(k))
	if err != nil || !back.Equal(k) {
		t.Errorf("private key: %v", err)
	}
	p, err := ParseKey(FormatKey(public(k)))
	if err != nil || !p.Equal(public(k)) {
		t.Errorf("public key: %v", err)
	}
	for _, text := range []string{"", "ed25519:", "ed25519:AAAA", "ed25519:!", "rsa:AAAA", FormatKey(public(k)) + "A"} {
		if _, err := ParseKey(text); err == nil {
			t.Errorf("%q is taken for a key", text)
		}
	}
	secret := strings.SplitAfter(FormatPrivate(k), privatePrefix)[1]
	for _, text := range []string{"", "# nothing\n", FormatPrivate(k) + FormatPrivate(k), privatePrefix + "x" + secret, FormatKey(public(k))} {
		_, err := ParsePrivate(text)
		if err == nil {
			t.Errorf("%q is taken for a private key", text)
		} else if strings.Contains(err.Error(), strings.TrimSpace(secret)) {
			t.Errorf("error %q tells the key", err)
		}
	}
}

func FuzzVerify(f *testing.F) {
	image, k := testImage(), testKey(1)
	f.Add(image)
	if err := Sign(image, k); err != nil {
		f.Fatal(err)
	}
	f.Add(image)
	other := public(testKey(2))
	f.Fuzz(func(t *testing.T, b []byte) {
		if _, err := Verify(b, []ed25519.PublicKey{other}); err == nil {
			t.Error("verified without the key")
		}
	})
}
