package service

import (
	"bytes"
	"cmp"
	"context"
	"crypto/sha256"
	"encoding/base64"
	"encoding/json"
	"errors"
	"fmt"
	"maps"
	"slices"
	"strconv"
	"strings"
	"time"

	"millrace/plugins"
)

// Places of modules and records.
const (
	ModuleBucket   = "MILLRACE_PLUGINS"     // object store, ADR-20; object name: sha256 of the module in hex
	RegistryBucket = "MILLRACE_PLUGINS_REG" // KV, ADR-8; key: name of the plugin

	moduleStream   = "OBJ_" + ModuleBucket
	registryStream = "KV_" + RegistryBucket
)

// record is the registry's entry of a plugin.
type record struct {
	Name     string    `json:"name"`
	Versions []Version `json:"versions"` // oldest first

	revision uint64
}

// Version is one module of a plugin.
type Version struct {
	Version int       `json:"version"` // counts from 1
	Digest  string    `json:"digest"`  // sha256 in hex
	Size    int       `json:"size"`    // bytes
	Pushed  time.Time `json:"pushed"`
}

// registry keeps records and modules in the account's streams.
type registry struct{ store Store }

func recordSubject(name string) string { return "$KV." + RegistryBucket + "." + name }

// get returns a plugin's record. A plugin that is unknown or removed gives a record without versions.
func (r registry) get(ctx context.Context, name string) (*record, error) {
	rec := &record{Name: name}
	stored, err := r.store.Last(ctx, registryStream, recordSubject(name))
	if errors.Is(err, ErrNotFound) {
		return rec, nil
	}
	if err != nil {
		return nil, fmt.Errorf("read record of plugin %s: %w", name, err)
	}
	return rec, rec.decode(&stored)
}

func (rec *record) decode(stored *Stored) error {
	rec.revision = stored.Seq
	if headerValue(stored.Header, "KV-Operation") != "" { // DEL or PURGE
		return nil
	}
	if err := json.Unmarshal(stored.Data, rec); err != nil {
		return fmt.Errorf("decode record of plugin %s: %w", rec.Name, err)
	}
	return nil
}

// list returns all plugins that are there, sorted by name.
func (r registry) list(ctx context.Context) ([]*record, error) {
	last := map[string]*record{} // a bucket may keep older records
	err := r.store.Scan(ctx, registryStream, recordSubject(">"), func(m *Stored) error {
		rec := &record{Name: strings.TrimPrefix(m.Subject, recordSubject(""))}
		last[rec.Name] = rec
		return rec.decode(m)
	})
	if err != nil && !errors.Is(err, ErrNotFound) {
		return nil, fmt.Errorf("list plugins: %w", err)
	}
	maps.DeleteFunc(last, func(_ string, rec *record) bool { return len(rec.Versions) == 0 })
	return slices.SortedFunc(maps.Values(last), func(a, b *record) int { return cmp.Compare(a.Name, b.Name) }), nil
}

// put stores a record, provided that no one has changed it since get.
func (r registry) put(ctx context.Context, rec *record) error {
	config, err := json.Marshal(map[string]any{
		"name": registryStream, "subjects": []string{recordSubject(">")}, "max_msgs_per_subject": 1,
		"retention": "limits", "storage": "file", "discard": "new", "max_age": 0, "max_bytes": -1,
		"max_msgs": -1, "max_msg_size": -1, "max_consumers": -1, "num_replicas": 1,
		"allow_direct": true, "allow_rollup_hdrs": true, "deny_delete": true,
	})
	if err != nil {
		return fmt.Errorf("encode configuration of the registry: %w", err)
	}
	if err := r.store.EnsureStream(ctx, config); err != nil {
		return fmt.Errorf("create bucket %s: %w", RegistryBucket, err)
	}
	data, err := json.Marshal(rec)
	if err != nil {
		return fmt.Errorf("encode record of plugin %s: %w", rec.Name, err)
	}
	fields := []string{"Nats-Expected-Last-Subject-Sequence", strconv.FormatUint(rec.revision, 10)}
	if len(rec.Versions) == 0 {
		data, fields = nil, append(fields, "KV-Operation", "DEL")
	}
	err = r.store.Publish(ctx, []Outgoing{{recordSubject(rec.Name), newHeader(nil, fields...), data}})
	if err != nil {
		return fmt.Errorf("write record of plugin %s: %w", rec.Name, err)
	}
	return nil
}

// latest returns the newest version, or nil.
func (rec *record) latest() *Version {
	if n := len(rec.Versions); n > 0 {
		return &rec.Versions[n-1]
	}
	return nil
}

func (rec *record) version(n int) *Version {
	for i := range rec.Versions {
		if rec.Versions[i].Version == n {
			return &rec.Versions[i]
		}
	}
	return nil
}

// object is the part of ADR-20's object meta that a reader needs.
type object struct {
	NUID    string `json:"nuid"`
	Size    int    `json:"size"`
	Chunks  int    `json:"chunks"`
	Digest  string `json:"digest"`
	Deleted bool   `json:"deleted"`
	Options struct {
		Link *struct{} `json:"link"`
	} `json:"options"`
}

// module reads a module by its digest from the object store.
func (r registry) module(ctx context.Context, digest string) ([]byte, error) {
	notFound := func(format string, args ...any) error {
		return &Error{404, CodeModuleNotFound, fmt.Sprintf(format, args...)}
	}
	if b := []byte(digest); len(b) != 2*sha256.Size || len(bytes.Trim(b, "0123456789abcdef")) > 0 {
		return nil, badRequest("digest %q: must be the sha256 of the module, 64 hexadecimal digits in lower case", digest)
	}
	name := base64.URLEncoding.EncodeToString([]byte(digest))
	meta, err := r.store.Last(ctx, moduleStream, "$O."+ModuleBucket+".M."+name)
	if errors.Is(err, ErrNotFound) {
		return nil, notFound("object store bucket %s has no object %s: upload the module under that name first",
			ModuleBucket, digest)
	}
	if err != nil {
		return nil, fmt.Errorf("read object %s: %w", digest, err)
	}
	var o object
	switch err := json.Unmarshal(meta.Data, &o); {
	case err != nil:
		return nil, notFound("object %s of bucket %s has unreadable meta data: %v", digest, ModuleBucket, err)
	case o.Deleted:
		return nil, notFound("object %s of bucket %s was deleted: upload the module again", digest, ModuleBucket)
	case o.Options.Link != nil:
		return nil, notFound("object %s of bucket %s is a link", digest, ModuleBucket)
	case o.Size > plugins.MaxModuleBytes:
		return nil, &Error{400, CodeModuleRefused, fmt.Sprintf("module has %d bytes, at most %d are accepted",
			o.Size, plugins.MaxModuleBytes)}
	}
	wasm := make([]byte, 0, max(o.Size, 0))
	chunks := 0
	if o.Chunks > 0 {
		err = r.store.Scan(ctx, moduleStream, "$O."+ModuleBucket+".C."+o.NUID, func(m *Stored) error {
			chunks++
			if len(wasm)+len(m.Data) > o.Size {
				return notFound("object %s has more data than its meta data says", digest)
			}
			wasm = append(wasm, m.Data...)
			return nil
		})
		if err != nil {
			return nil, fmt.Errorf("read chunks of object %s: %w", digest, err)
		}
	}
	if len(wasm) != o.Size || chunks != o.Chunks {
		return nil, notFound("object %s is incomplete: %d of %d bytes", digest, len(wasm), o.Size)
	}
	if got := plugins.Digest(wasm); got != digest {
		return nil, &Error{400, CodeModuleRefused, fmt.Sprintf("object %s holds a module whose sha256 is %s", digest, got)}
	}
	return wasm, nil
}
