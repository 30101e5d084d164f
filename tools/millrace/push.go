package main

import (
	"context"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"strings"
	"time"

	"github.com/nats-io/nats.go"
	"github.com/nats-io/nats.go/jetstream"

	"millrace/plugins"
	"millrace/plugins/service"
)

func runPush(ctx context.Context, c *call) error {
	f := c.flags()
	s := c.server(f)
	name := f.String("name", "", "`NAME` of the plugin (default: the file's)")
	args, err := c.parse(f, 1)
	if err != nil {
		return err
	}
	if *name == "" {
		*name = strings.TrimSuffix(filepath.Base(args[0]), ".wasm")
	}
	wasm, err := os.ReadFile(args[0])
	if err != nil {
		return fmt.Errorf("read module: %w", err)
	}
	conn, err := s.connect()
	if err != nil {
		return err
	}
	defer conn.Close()
	digest := plugins.Digest(wasm)
	if err := s.upload(ctx, conn, digest, wasm); err != nil {
		return err
	}
	var pushed service.PushResponse
	if err := s.request(ctx, conn, service.VerbPush, service.PushRequest{Name: *name, Digest: digest}, &pushed); err != nil {
		return err
	}
	where := ""
	if len(pushed.Nodes) > 1 {
		where = " on " + strings.Join(pushed.Nodes, ", ")
	}
	fmt.Fprintf(c.stdout, "plugin %s version %d: %d bytes, sha256 %s, compiled in %v%s\n",
		pushed.Name, pushed.Version.Version, pushed.Size, pushed.Digest, pushed.CompiledNS.Round(100*time.Microsecond), where)
	return nil
}

// modules returns the object store of modules, which it creates if it is missing.
func (s *server) modules(ctx context.Context, conn *nats.Conn) (jetstream.ObjectStore, error) {
	js, err := jetstream.New(conn)
	if err != nil {
		return nil, err
	}
	store, err := js.ObjectStore(ctx, service.ModuleBucket)
	if errors.Is(err, jetstream.ErrBucketNotFound) {
		store, err = js.CreateObjectStore(ctx, jetstream.ObjectStoreConfig{
			Bucket: service.ModuleBucket, Description: "modules of plugins, by sha256"})
	}
	if err != nil {
		return nil, fmt.Errorf("open object store %s: %w", service.ModuleBucket, err)
	}
	return store, nil
}

// upload stores the module under its digest, unless it is there.
func (s *server) upload(ctx context.Context, conn *nats.Conn, digest string, wasm []byte) error {
	ctx, cancel := context.WithTimeout(ctx, s.timeout)
	defer cancel()
	store, err := s.modules(ctx, conn)
	if err != nil {
		return err
	}
	if info, err := store.GetInfo(ctx, digest); err == nil && info.Size == uint64(len(wasm)) {
		return nil
	}
	switch _, err := store.PutBytes(ctx, digest, wasm); {
	case errors.Is(err, context.DeadlineExceeded):
		return fmt.Errorf("%d bytes are not uploaded to object store %s within %v; -timeout waits longer", len(wasm), service.ModuleBucket, s.timeout)
	case err != nil:
		return fmt.Errorf("upload module to object store %s: %w", service.ModuleBucket, err)
	}
	return nil
}
