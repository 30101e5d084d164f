package plugins

import (
	"context"
	"encoding/binary"
	"fmt"
	"slices"
	"strings"

	"millrace/appliance/server/subject"
	"millrace/plugins/abi"
)

// publishable checks a publication by its form and the grants. On OK the subject is in.lastSubject.
func (in *Instance) publishable(name, header []byte, payload int) abi.Code {
	if payload > in.limits.PayloadBytes {
		return abi.Limit
	}
	if len(header) > 0 && !validHeader(header) {
		return abi.Invalid
	}
	if string(name) == in.lastSubject && in.lastSubject != "" {
		return abi.OK
	}
	s := string(name)
	if !subject.ValidLiteral(s) {
		return abi.Invalid
	}
	// Subjects of the system's own are changed through the imports made for them, or not at all.
	if s[0] == '$' || !slices.ContainsFunc(in.config.Grants.Publish, func(filter string) bool {
		return subject.Match(filter, s)
	}) {
		return abi.Denied
	}
	in.lastSubject = s
	return abi.OK
}

func validHeader(b []byte) bool {
	s := string(b)
	return strings.HasPrefix(s, "NATS/1.0\r\n") && strings.HasSuffix(s, "\r\n\r\n")
}

// ADR-8: characters of bucket names and keys.
func validName(s, extra string) bool {
	return s != "" && !strings.ContainsFunc(s, func(r rune) bool {
		return !(r >= 'a' && r <= 'z' || r >= 'A' && r <= 'Z' || r >= '0' && r <= '9' ||
			strings.ContainsRune(extra, r))
	})
}

// bucketKey reads and checks the names in a KV call.
func (in *Instance) bucketKey(s []uint64, need Access) (kvKey, abi.Code) {
	k := kvKey{bucket: string(in.view(s[0], s[1])), key: string(in.view(s[2], s[3]))}
	if !validName(k.bucket, "_-") || !validName(k.key, "-/_=.") ||
		k.key[0] == '.' || k.key[len(k.key)-1] == '.' || strings.Contains(k.key, "..") {
		return k, abi.Invalid
	}
	have, ok := in.config.Grants.KV[k.bucket]
	switch {
	case !ok || need == ReadWrite && have != ReadWrite:
		return k, abi.Denied
	case !in.transaction || in.config.KV == nil:
		return k, abi.Unavailable
	}
	return k, abi.OK
}

// base returns the stored revision of a key. One run sees one revision of it.
func (in *Instance) base(ctx context.Context, k kvKey) (Entry, abi.Code) {
	if e, ok := in.txn.bases[k]; ok {
		return e, abi.OK
	}
	e, err := in.config.KV.Get(ctx, k.bucket, k.key)
	if err != nil {
		in.log(abi.Warn, fmt.Sprintf("read key %s of bucket %s: %v", k.key, k.bucket, err))
		return e, abi.Unavailable
	}
	in.txn.bases[k] = e
	in.charge(ctx, len(e.Value))
	return e, abi.OK
}

func hostKVGet(ctx context.Context, in *Instance, s []uint64) {
	k, code := in.bucketKey(s, Read)
	out, metaAt := in.view(s[4], s[5]), s[6]
	in.charge(ctx, len(k.key))
	if code != abi.OK {
		put(s, code)
		return
	}
	entry, code := in.base(ctx, k)
	if code != abi.OK {
		put(s, code)
		return
	}
	value, at, exists := entry.Value, entry.Time.UnixNano(), entry.Revision != 0 && !entry.Deleted
	if w, ok := in.txn.write(k); ok {
		value, at, exists = w.Value, in.now, !w.Delete
	}
	if !exists {
		put(s, abi.NotFound)
		return
	}
	in.charge(ctx, len(value))
	if uint32(metaAt) != 0 {
		meta := in.view(metaAt, 16)
		binary.LittleEndian.PutUint64(meta, entry.Revision)
		binary.LittleEndian.PutUint64(meta[8:], uint64(at))
	}
	if len(value) <= len(out) {
		copy(out, value)
	}
	put(s, abi.Code(len(value)))
}

func hostKVPut(ctx context.Context, in *Instance, s []uint64) {
	k, code := in.bucketKey(s[1:], ReadWrite)
	value := in.view(s[5], s[6])
	in.charge(ctx, len(value))
	if code == abi.OK && len(value) > in.limits.PayloadBytes {
		code = abi.Limit
	}
	put(s, in.write(ctx, code, int32(s[0]), k, int64(s[7]), Write{Value: value}))
}

func hostKVDelete(ctx context.Context, in *Instance, s []uint64) {
	k, code := in.bucketKey(s[1:], ReadWrite)
	in.charge(ctx, len(k.key))
	put(s, in.write(ctx, code, int32(s[0]), k, int64(s[5]), Write{Delete: true}))
}

// write adds a write to the transaction if its condition on the revision holds. Within a batch the
// revision of a key is the one that was stored before it.
func (in *Instance) write(ctx context.Context, code abi.Code, msg int32, k kvKey, revision int64, w Write) abi.Code {
	t := &in.txn
	switch {
	case code != abi.OK:
		return code
	case !t.open(msg) || revision < abi.RevisionAny:
		return abi.Invalid
	case len(t.writes) >= in.limits.Writes:
		return abi.Limit
	}
	w.Msg, w.Bucket, w.Key, w.Expect = int(msg), k.bucket, k.key, abi.RevisionAny
	if revision != abi.RevisionAny {
		base, code := in.base(ctx, k)
		if code != abi.OK {
			return code
		}
		exists := base.Revision != 0 && !base.Deleted
		if own, ok := t.write(k); ok {
			exists = !own.Delete
		}
		if revision == abi.RevisionCreate && exists ||
			revision != abi.RevisionCreate && uint64(revision) != base.Revision {
			return abi.Conflict
		}
		w.Expect = int64(base.Revision)
	}
	w.Value = t.keep(w.Value)
	t.addWrite(w)
	return abi.OK
}
