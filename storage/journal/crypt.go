package journal

import (
	"crypto/aes"
	"crypto/cipher"
	"crypto/hkdf"
	"crypto/sha256"
	"fmt"
	"io"

	"golang.org/x/crypto/xts"
)

// KeyStore keeps the journal's data key, wrapped by the node key. The value is the journal's own; the
// store checks that it comes back unchanged. It keeps no slice.
type KeyStore interface {
	// Key returns the stored value, nil when there is none.
	Key() ([]byte, error)
	// PutKey stores the value; it returns after that is durable.
	PutKey(value []byte) error
}

// KeyBytes is the length of Config.Key and Config.PrevKey.
const KeyBytes = 32

// The wrapped data key, version 1. Numbers are little-endian.
//
//	 0  4  version, 1
//	 4  4  identifier of the data key, as in segment headers
//	 8 12  nonce
//	20 64  the data key, encrypted
//	84 16  tag
//
// AES-256-GCM under a key that HKDF-SHA256 makes of the node key, with bytes 0..7 and the node
// identity as additional data. The data key is random and stays the same when the node key changes.
//
// The contents of a segment are encrypted sector by sector with AES-256-XTS. The sector number is the
// tweak; the key is the segment's own, made by HKDF-SHA256 of the data key, the identity of the file and
// the salt of the segment: what two lives of a file have at one place cannot be compared. XTS hides, it
// does not authenticate: the checksums are over what is on the disk and tell damage, not forgery.
const (
	wrapVersion    = 1
	wrapHead       = 8
	nonceBytes     = 12
	dataKeyBytes   = 64
	wrappedBytes   = wrapHead + nonceBytes + dataKeyBytes + 16
	wrapInfo       = "millrace journal: wrap the data key"
	identifierInfo = "millrace journal: identify the data key"
	segmentInfo    = "millrace journal: segment"
)

// keys is what a log knows of encryption.
type keys struct {
	data   []byte // the data key; nil: there is none, or nothing to unwrap it with
	id     uint32 // identifier of data
	stored bool   // a wrapped key is in the store
	old    bool   // it is wrapped by PrevKey and there is a newer one
}

// derive makes n bytes out of a key.
func derive(key []byte, info string, n int) ([]byte, error) {
	return hkdf.Key(sha256.New, key, nil, info, n)
}

func identify(data []byte) (uint32, error) {
	b, err := derive(data, identifierInfo, 4)
	if err != nil {
		return 0, err
	}
	return max(le.Uint32(b), 1), nil // 0 says that a segment is not encrypted
}

func wrapper(nodeKey []byte) (cipher.AEAD, error) {
	key, err := derive(nodeKey, wrapInfo, 32)
	if err != nil {
		return nil, err
	}
	block, err := aes.NewCipher(key)
	if err != nil {
		return nil, err
	}
	return cipher.NewGCM(block)
}

func wrapKey(nodeKey []byte, k keys, node uint64, random io.Reader) ([]byte, error) {
	aead, err := wrapper(nodeKey)
	if err != nil {
		return nil, err
	}
	out := make([]byte, wrapHead+nonceBytes, wrappedBytes)
	le.PutUint32(out, wrapVersion)
	le.PutUint32(out[4:], k.id)
	if _, err := io.ReadFull(random, out[wrapHead:]); err != nil {
		return nil, err
	}
	return aead.Seal(out, out[wrapHead:], k.data, le.AppendUint64(out[:wrapHead:wrapHead], node)), nil
}

// unwrapKey returns the data key, or false when the node key is not the one it was wrapped by.
func unwrapKey(nodeKey, wrapped []byte, node uint64) (keys, bool, error) {
	if len(wrapped) != wrappedBytes || le.Uint32(wrapped) != wrapVersion {
		return keys{}, false, fmt.Errorf("the stored key of %d bytes is not of version %d", len(wrapped), wrapVersion)
	}
	aead, err := wrapper(nodeKey)
	if err != nil {
		return keys{}, false, err
	}
	sealed := wrapped[wrapHead+nonceBytes:]
	data, err := aead.Open(nil, wrapped[wrapHead:wrapHead+nonceBytes], sealed,
		le.AppendUint64(wrapped[:wrapHead:wrapHead], node))
	if err != nil {
		return keys{}, false, nil
	}
	return keys{data: data, id: le.Uint32(wrapped[4:]), stored: true}, true, nil
}

// loadKeys reads the data key. It changes nothing.
func (l *Log) loadKeys() error {
	if l.cfg.Keys == nil {
		return nil
	}
	wrapped, err := l.cfg.Keys.Key()
	if err != nil {
		return fmt.Errorf("journal: read the data key: %w", err)
	}
	if wrapped == nil {
		return nil
	}
	l.keys.stored = true
	for _, try := range []struct {
		key []byte
		old bool
	}{{l.cfg.Key, false}, {l.cfg.PrevKey, l.cfg.Key != nil}} {
		if try.key == nil {
			continue
		}
		k, ok, err := unwrapKey(try.key, wrapped, l.node)
		if err != nil {
			return fmt.Errorf("journal: %w", err)
		}
		if ok {
			l.keys, l.keys.old = k, try.old
			return nil
		}
	}
	if l.cfg.Key != nil || l.cfg.PrevKey != nil {
		return fmt.Errorf("%w: the data key of log %s in node %016x was wrapped by another one; the data was left as it is",
			ErrWrongKey, l.cfg.Dir, l.node)
	}
	return nil
}

// storeKeys makes the data key when it is needed for the first time, and wraps it anew when the node
// key has changed.
func (l *Log) storeKeys() error {
	if l.cfg.Key == nil || l.keys.stored && !l.keys.old {
		return nil
	}
	k := l.keys
	if k.data == nil {
		k.data = make([]byte, dataKeyBytes)
		_, err := io.ReadFull(l.cfg.Rand, k.data)
		if err == nil {
			k.id, err = identify(k.data)
		}
		if err != nil {
			return fmt.Errorf("journal: make the data key: %w", err)
		}
	}
	wrapped, err := wrapKey(l.cfg.Key, k, l.node, l.cfg.Rand)
	if err == nil {
		err = l.cfg.Keys.PutKey(wrapped)
	}
	if err != nil {
		return fmt.Errorf("journal: store the data key: %w", err)
	}
	k.stored, k.old = true, false
	l.keys = k
	return nil
}

// encryption says how a new segment is encrypted: with the node key given, and not otherwise.
func (l *Log) encryption() (c cipherID, key uint32) {
	if l.cfg.Key == nil {
		return cipherNone, 0
	}
	return cipherXTS, l.keys.id
}

// segmentCipher returns what decrypts a segment, nil for one that is not encrypted.
func (k keys) segmentCipher(h header) (*xts.Cipher, error) {
	switch {
	case h.cipher == cipherNone:
		return nil, nil
	case k.data == nil:
		return nil, fmt.Errorf("%w and no key is given", ErrNoKey)
	case k.id != h.key:
		return nil, fmt.Errorf("%w: the segment is encrypted with another data key than the stored one", ErrWrongKey)
	}
	info := le.AppendUint64(le.AppendUint64([]byte(segmentInfo), h.identity), h.salt)
	key, err := derive(k.data, string(info), 64)
	if err != nil {
		return nil, err
	}
	return xts.NewCipher(aes.NewCipher, key)
}
