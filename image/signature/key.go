package signature

import (
	"crypto/ed25519"
	"encoding/base64"
	"fmt"
	"strings"
)

const (
	publicPrefix  = "ed25519:"
	privatePrefix = "ed25519-private:"
)

// ParseKey reads a public key, as FormatKey writes it.
func ParseKey(text string) (ed25519.PublicKey, error) {
	b, err := decode(strings.TrimSpace(text), publicPrefix, ed25519.PublicKeySize)
	if err != nil {
		return nil, fmt.Errorf("public key: %w", err)
	}
	return b, nil
}

// ParseKeys reads several public keys, as a box's configuration lists them.
func ParseKeys(texts []string) ([]ed25519.PublicKey, error) {
	var keys []ed25519.PublicKey
	for i, text := range texts {
		key, err := ParseKey(text)
		if err != nil {
			return nil, fmt.Errorf("%w (number %d of %d)", err, i+1, len(texts))
		}
		keys = append(keys, key)
	}
	return keys, nil
}

// FormatKey writes a public key for people, configuration files and documents.
func FormatKey(key ed25519.PublicKey) string {
	return publicPrefix + base64.StdEncoding.EncodeToString(key)
}

// ParsePrivate reads the content of a file with a private key. What is wrong is told without the content.
func ParsePrivate(text string) (ed25519.PrivateKey, error) {
	var key ed25519.PrivateKey
	for line := range strings.Lines(text) {
		line = strings.TrimSpace(line)
		if line == "" || strings.HasPrefix(line, "#") {
			continue
		}
		if key != nil {
			return nil, fmt.Errorf("private key: more than one in the file")
		}
		seed, err := decode(line, privatePrefix, ed25519.SeedSize)
		if err != nil {
			return nil, fmt.Errorf("private key: %w", err)
		}
		key = ed25519.NewKeyFromSeed(seed)
	}
	if key == nil {
		return nil, fmt.Errorf("private key: none in the file")
	}
	return key, nil
}

// FormatPrivate is the content of a file with a private key.
func FormatPrivate(key ed25519.PrivateKey) string {
	return "# Key that signs Millrace images. Who has it can put images on the boxes that trust it:\n" +
		"#   " + FormatKey(key.Public().(ed25519.PublicKey)) + "\n" +
		privatePrefix + base64.StdEncoding.EncodeToString(key.Seed()) + "\n"
}

// decode reads base64 behind a prefix.
func decode(text, prefix string, size int) ([]byte, error) {
	rest, ok := strings.CutPrefix(text, prefix)
	if !ok {
		return nil, fmt.Errorf("want %sBASE64", prefix)
	}
	b, err := base64.StdEncoding.Strict().DecodeString(rest)
	if err != nil {
		return nil, fmt.Errorf("want %sBASE64: not base64", prefix)
	}
	if len(b) != size {
		return nil, fmt.Errorf("%d bytes behind %s, want %d", len(b), prefix, size)
	}
	return b, nil
}
