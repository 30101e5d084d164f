package state

import (
	"fmt"
	"strings"
	"time"

	"github.com/nats-io/nkeys"
)

const identityFile = "identity.json"

// Identity is who a box is. It is made at the first boot and stays when image, configuration or
// address change.
type Identity struct {
	Name string    `json:"server_name"` // in the cluster, unless the configuration sets server_name
	Seed string    `json:"seed"`        // of the node key: a server nkey ("SN…"), secret
	Made time.Time `json:"made"`
}

// Key returns the public node key ("N…").
func (i Identity) Key() (string, error) {
	pair, err := nkeys.FromSeed([]byte(i.Seed))
	if err != nil {
		return "", fmt.Errorf("node key: %w", err)
	}
	defer pair.Wipe()
	key, err := pair.PublicKey()
	if err != nil {
		return "", fmt.Errorf("node key: %w", err)
	}
	if !nkeys.IsValidPublicServerKey(key) {
		return "", fmt.Errorf("node key: %s is not the key of a server", key)
	}
	return key, nil
}

// Identity returns the identity of the box, and makes it when there is none: with the wanted name or,
// when that is empty, one made of the key. now is when; an identity is stamped with it.
func (s *Store) Identity(name string, now time.Time) (id Identity, made bool, err error) {
	found, err := s.Load(identityFile, &id)
	if err == nil && found {
		_, err = id.Key()
		if err == nil && id.Name == "" {
			err = fmt.Errorf("read state: %s has no server_name", identityFile)
		}
	}
	if err != nil || found {
		return id, false, err
	}
	pair, err := nkeys.CreateServer()
	if err != nil {
		return id, false, fmt.Errorf("make node key: %w", err)
	}
	defer pair.Wipe()
	seed, err := pair.Seed()
	if err != nil {
		return id, false, fmt.Errorf("make node key: %w", err)
	}
	id = Identity{Name: name, Seed: string(seed), Made: now.UTC()}
	key, err := id.Key()
	if err != nil {
		return id, false, err
	}
	if id.Name == "" {
		const letters = 8
		id.Name = "millrace-" + strings.ToLower(key[1:1+letters])
	}
	return id, true, s.Save(identityFile, id)
}
