package main

import (
	"crypto/ed25519"
	"crypto/rand"
	"errors"
	"flag"
	"fmt"
	"io"
	"os"
	"path/filepath"

	"millrace/image"
	"millrace/image/signature"
)

// keyFiles is a flag that names files with private keys.
type keyFiles struct {
	keys []ed25519.PrivateKey
}

// String implements flag.Value. It tells no keys.
func (k *keyFiles) String() string { return "" }

// Set implements flag.Value: it reads a file.
func (k *keyFiles) Set(name string) error {
	st, err := os.Stat(name)
	if err != nil {
		return err
	}
	if open := st.Mode().Perm() & 0o077; open != 0 {
		return fmt.Errorf("others may read it (mode %o): chmod 600 %s", st.Mode().Perm(), name)
	}
	text, err := os.ReadFile(name)
	if err != nil {
		return err
	}
	key, err := signature.ParsePrivate(string(text))
	if err != nil {
		return err
	}
	k.keys = append(k.keys, key)
	return nil
}

// publicKeys is a flag that lists public keys.
type publicKeys []ed25519.PublicKey

// String implements flag.Value.
func (k *publicKeys) String() string { return "" }

// Set implements flag.Value.
func (k *publicKeys) Set(text string) error {
	key, err := signature.ParseKey(text)
	*k = append(*k, key)
	return err
}

// keygen makes a key. An existing file is never replaced: boxes may trust what is in it.
func keygen(args []string, w io.Writer) error {
	if len(args) != 1 || args[0] == "" || args[0][0] == '-' {
		return errors.New("usage: mkimage keygen FILE")
	}
	public, private, err := ed25519.GenerateKey(rand.Reader)
	if err != nil {
		return fmt.Errorf("make key: %w", err)
	}
	f, err := os.OpenFile(args[0], os.O_CREATE|os.O_EXCL|os.O_WRONLY, 0o600)
	if err != nil {
		return fmt.Errorf("make key: %w", err)
	}
	_, err = f.WriteString(signature.FormatPrivate(private))
	if err := errors.Join(err, f.Sync(), f.Close()); err != nil {
		return fmt.Errorf("write key %s: %w", args[0], err)
	}
	fmt.Fprintf(w, "wrote %s; keep it off the boxes. Boxes that shall take versions signed with it are told so:\n\n"+
		"  appliance { update_keys: [%q] }\n", args[0], signature.FormatKey(public))
	return nil
}

// sign signs a version that is built already, as a key that is kept elsewhere does.
func sign(args []string, w io.Writer) error {
	fs := flag.NewFlagSet("mkimage sign", flag.ExitOnError)
	var keys keyFiles
	fs.Var(&keys, "sign-key", "`file` with a private key; may be given several times")
	if err := fs.Parse(args); err != nil {
		return err
	}
	if fs.NArg() != 1 || len(keys.keys) == 0 {
		return errors.New("usage: mkimage sign -sign-key FILE IMAGE.efi")
	}
	name := fs.Arg(0)
	data, err := os.ReadFile(name)
	if err != nil {
		return err
	}
	for _, k := range keys.keys {
		if err := image.Sign(data, k); err != nil {
			return fmt.Errorf("%s: %w", name, err)
		}
	}
	if err := replace(name, data); err != nil {
		return err
	}
	return printKeys(w, name, data)
}

// replace writes a file that is whole at every moment.
func replace(name string, data []byte) error {
	f, err := os.CreateTemp(filepath.Dir(name), filepath.Base(name)+".*")
	if err != nil {
		return fmt.Errorf("write %s: %w", name, err)
	}
	_, err = f.Write(data)
	if err := errors.Join(err, f.Chmod(0o644), f.Sync(), f.Close()); err != nil {
		return errors.Join(fmt.Errorf("write %s: %w", name, err), os.Remove(f.Name()))
	}
	if err := os.Rename(f.Name(), name); err != nil {
		return errors.Join(fmt.Errorf("write %s: %w", name, err), os.Remove(f.Name()))
	}
	return nil
}

// verify checks that one of the keys has signed a version.
func verify(args []string, w io.Writer) error {
	fs := flag.NewFlagSet("mkimage verify", flag.ExitOnError)
	var keys publicKeys
	fs.Var(&keys, "key", "public `key` that is trusted; may be given several times")
	if err := fs.Parse(args); err != nil {
		return err
	}
	if fs.NArg() != 1 {
		return errors.New("usage: mkimage verify -key KEY IMAGE.efi")
	}
	name := fs.Arg(0)
	data, err := os.ReadFile(name)
	if err != nil {
		return err
	}
	if len(keys) == 0 {
		return printKeys(w, name, data)
	}
	key, err := signature.Verify(data, keys)
	if err != nil {
		return fmt.Errorf("%s: %w", name, err)
	}
	fmt.Fprintf(w, "%s: signed by %s\n", name, signature.FormatKey(key))
	return nil
}

// printKeys prints who claims to have signed a version, and whether they have.
func printKeys(w io.Writer, name string, data []byte) error {
	keys, err := signature.Keys(data)
	if err != nil {
		return fmt.Errorf("%s: %w", name, err)
	}
	if len(keys) == 0 {
		fmt.Fprintf(w, "%s: not signed\n", name)
	}
	for _, k := range keys {
		if _, err := signature.Verify(data, []ed25519.PublicKey{k}); err != nil {
			return fmt.Errorf("%s: key %s: %w", name, signature.FormatKey(k), err)
		}
		fmt.Fprintf(w, "%s: signed by %s\n", name, signature.FormatKey(k))
	}
	return nil
}
