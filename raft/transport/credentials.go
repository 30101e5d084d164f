package transport

import (
	"crypto/hkdf"
	"crypto/pbkdf2"
	"crypto/sha256"
	"errors"
)

// keySize is the size of the key that proofs are made with, in bytes.
const keySize = sha256.Size

// passwordRounds slows down guessing a password from a recorded handshake. It takes some 20 ms on a
// server and 200 ms on a small board, once for each process.
const passwordRounds = 1 << 16

// Credentials are what the nodes of a cluster know and others do not. They never leave the process: a
// handshake proves that both ends have them.
type Credentials struct {
	key []byte // keySize bytes
}

// Password returns the credentials of a user with a password, both of which have to be the same on all
// nodes of a cluster. It computes for some time on purpose; keep its result.
func Password(user, password string) (Credentials, error) {
	if password == "" {
		return Credentials{}, errors.New("transport: credentials: the password is empty")
	}
	key, err := pbkdf2.Key(sha256.New, password, []byte("millrace raft transport password\x00"+user), passwordRounds, keySize)
	return Credentials{key}, err
}

// Secret returns the credentials of a shared secret of at least 16 bytes that cannot be guessed.
func Secret(secret []byte) (Credentials, error) {
	if len(secret) < 16 {
		return Credentials{}, errors.New("transport: credentials: the secret is shorter than 16 bytes")
	}
	key, err := hkdf.Key(sha256.New, secret, nil, "millrace raft transport secret", keySize)
	return Credentials{key}, err
}

// Public returns the credentials of a cluster without any: whoever knows the cluster id and the id
// of a node may connect. That is what routes without authorization are.
func Public() Credentials {
	key := sha256.Sum256([]byte("millrace raft transport public"))
	return Credentials{key[:]}
}
