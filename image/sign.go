package image

import (
	"crypto/ed25519"
	"encoding/binary"
	"fmt"

	"millrace/image/signature"
)

// Sign adds a signature to a version, the UKI that Build writes, and sets its PE checksum anew. Equal
// images and keys give equal bytes.
func Sign(uki []byte, key ed25519.PrivateKey) error {
	if err := signature.Sign(uki, key); err != nil {
		return err
	}
	h, err := parsePE(uki)
	if err != nil {
		return fmt.Errorf("sign image: %w", err)
	}
	setChecksum(uki, h)
	return nil
}

// setChecksum sets the checksum in the header of a PE file.
func setChecksum(b []byte, h peHeader) {
	field := b[h.opt+optCheckSum:]
	binary.LittleEndian.PutUint32(field, 0)
	binary.LittleEndian.PutUint32(field, peChecksum(b))
}
