package node

import (
	"cmp"
	"fmt"
	"maps"
	"math"
	"net"
	"slices"
	"strconv"
	"strings"
	"time"
)

// value is one value of a configuration file with its place and key path.
type value struct {
	pos
	key      string // last part of path
	path     string
	raw      any  // string, bool, int64, float64, time.Time, []any, map[string]any
	variable bool // a "$name" reads it, so that it need not be a known key
}

// token is how package conf hands out a value with its place.
type token interface {
	Value() any
	Line() int
	IsUsedVariable() bool
	SourceFile() string
	Position() int
}

// child wraps what stands under v. A value that came from the environment has no place of its
// own and takes its parent's.
func (v value) child(path string, raw any) value {
	c := value{pos: v.pos, path: path, raw: raw}
	t, ok := raw.(token)
	if !ok {
		return c
	}
	c.raw, c.variable = t.Value(), t.IsUsedVariable()
	c.line, c.col = t.Line(), t.Position()
	if c.line == 1 {
		c.col++ // package conf counts from 0 on the first line, from 1 on all others
	}
	if f := t.SourceFile(); f != "" {
		c.file = f
	}
	return c
}

// entries returns the values of a block in the order of the file.
func (v value) entries(block map[string]any) []value {
	list := make([]value, 0, len(block))
	for _, key := range slices.Sorted(maps.Keys(block)) {
		path := key
		if v.path != "" {
			path = v.path + "." + key
		}
		entry := v.child(path, block[key])
		entry.key = key
		list = append(list, entry)
	}
	slices.SortStableFunc(list, func(a, b value) int {
		return cmp.Or(cmp.Compare(a.file, b.file), cmp.Compare(a.line, b.line), cmp.Compare(a.col, b.col))
	})
	return list
}

// items returns the values of a list. A block in a list is placed at its first key: package conf
// places it at its closing brace.
func (v value) items(list []any) []value {
	out := make([]value, len(list))
	for i, raw := range list {
		out[i] = v.child(fmt.Sprintf("%s[%d]", v.path, i), raw)
		if block, ok := out[i].raw.(map[string]any); ok && len(block) > 0 {
			out[i].pos = out[i].entries(block)[0].pos
		}
	}
	return out
}

// show returns the value for an error message.
func (v value) show() string {
	switch raw := v.raw.(type) {
	case string:
		return strconv.Quote(raw)
	case []any:
		return "a list"
	case map[string]any:
		return "a block"
	case time.Time:
		return raw.Format(time.RFC3339)
	}
	return fmt.Sprint(v.raw)
}

// checker walks the tree of a file and collects its faults.
type checker struct {
	errs []*ConfigError

	// Places of what is checked against another part of the file; an empty path: not given.
	listen     value // "listen", or the first of "host" and "port"
	storeDir   value
	maxPayload value
	lameDuck   value // the grace period
	tlsAt      value
	serverName value

	cluster       value
	clusterName   value
	clusterListen value // as listen
	clusterTLSAt  value
	token         value
	noAuthUser    value
	system        value
	accountAt     map[string]value // account name -> place
	userAt        map[string]value // user name or nkey -> place
}

func (c *checker) err() error {
	if len(c.errs) == 0 {
		return nil
	}
	return joinConfigErrors(c.errs)
}

// fail records a fault at v's key.
func (c *checker) fail(v value, format string, args ...any) {
	c.errs = append(c.errs, &ConfigError{
		File: v.file, Line: v.line, Column: v.col, Key: v.path, Reason: fmt.Sprintf(format, args...),
	})
}

// failKey records a fault whose text names the key itself.
func (c *checker) failKey(v value, format string, args ...any) {
	c.fail(value{pos: v.pos}, format, args...)
}

// want records that v is not of the kind that its key takes.
func (c *checker) want(v value, kind string) {
	c.fail(v, "want %s, got %s", kind, v.show())
}

// schema says which keys a block may have.
type schema struct {
	fields      map[string]func(value) // by the first name of each key
	aliases     map[string]string      // other name -> first name
	unsupported []string               // known to nats-server, not served here
}

// block reads a block of known keys.
func (c *checker) block(v value, s schema) {
	m, ok := v.raw.(map[string]any)
	if !ok {
		c.want(v, "a block { … }")
		return
	}
	given := make(map[string]value)
	for _, entry := range v.entries(m) {
		key := strings.ToLower(entry.key)
		name := cmp.Or(s.aliases[key], key)
		if first, ok := given[name]; ok {
			c.fail(entry, "given twice, also at %s", first.pos)
			continue
		}
		field, ok := s.fields[name]
		switch {
		case ok:
			given[name] = entry
			field(entry)
		case slices.Contains(s.unsupported, key):
			c.failKey(entry, "%q is not supported by this version", entry.path)
		case !entry.variable:
			c.failKey(entry, "unknown key %q%s", entry.path, suggest(key, s))
		}
	}
}

// str reads a string.
func (c *checker) str(to *string) func(value) {
	return func(v value) {
		if s, ok := v.raw.(string); ok {
			*to = s
			return
		}
		c.want(v, "a string (quote it)")
	}
}

// secret reads a string whose value no message may show.
func (c *checker) secret(to *string) func(value) {
	return func(v value) {
		if s, ok := v.raw.(string); ok {
			*to = s
			return
		}
		c.fail(v, "want a string (quote it)")
	}
}

// flag reads a boolean.
func (c *checker) flag(to *bool) func(value) {
	return func(v value) {
		if b, ok := v.raw.(bool); ok {
			*to = b
			return
		}
		c.want(v, "true or false")
	}
}

// integer is a number that a setting may hold.
type integer interface{ ~int | ~int32 | ~int64 }

// number reads a count within [lo, hi].
func number[T integer](c *checker, to *T, lo, hi int64) func(value) {
	return func(v value) { storeInt(c, v, to, lo, hi, "a number") }
}

// size reads a number of bytes within [lo, hi].
func size[T integer](c *checker, to *T, lo, hi int64) func(value) {
	return func(v value) { storeInt(c, v, to, lo, hi, "a size such as 8MB (not quoted)") }
}

// limit reads a bound of an account: a positive number, or -1 for none.
func limit(c *checker, to *int) func(value) {
	return func(v value) {
		if n, ok := v.raw.(int64); ok && n == unlimited {
			*to = unlimited
			return
		}
		number(c, to, 1, math.MaxInt32)(v)
	}
}

func storeInt[T integer](c *checker, v value, to *T, lo, hi int64, kind string) {
	n, ok := v.raw.(int64)
	if !ok {
		c.want(v, kind)
		return
	}
	if n < lo || n > hi {
		if hi == math.MaxInt64 {
			c.fail(v, "want %s of at least %d, got %d", kind, lo, n)
		} else {
			c.fail(v, "want %s from %d to %d, got %d", kind, lo, hi, n)
		}
		return
	}
	*to = T(n)
}

// Suffixes of a quoted size, as nats-server reads them.
var quotedSizes = map[byte]int{'K': 10, 'M': 20, 'G': 30, 'T': 40}

// storage reads a number of bytes, bare (8GB) or quoted ("8G"); -1 means unlimited.
func (c *checker) storage(to *int64) func(value) {
	return func(v value) {
		if s, ok := v.raw.(string); ok && len(s) > 1 {
			shift, known := quotedSizes[s[len(s)-1]]
			n, err := strconv.ParseInt(s[:len(s)-1], 10, 64)
			if known && err == nil && n >= 0 && n <= math.MaxInt64>>shift {
				*to = n << shift
				return
			}
		}
		storeInt(c, v, to, unlimited, math.MaxInt64, "a size such as 8GB")
	}
}

// duration reads a time span of at least lo. With seconds, a bare number is taken as seconds.
func (c *checker) duration(to *time.Duration, lo time.Duration, seconds bool) func(value) {
	return func(v value) {
		d, ok := time.Duration(0), false
		switch raw := v.raw.(type) {
		case string:
			parsed, err := time.ParseDuration(raw)
			d, ok = parsed, err == nil
		case int64:
			ok = seconds && raw >= math.MinInt64/int64(time.Second) && raw <= math.MaxInt64/int64(time.Second)
			d = time.Duration(raw) * time.Second
		case float64:
			ok = seconds && math.Abs(raw) <= math.MaxInt64/float64(2*time.Second)
			d = time.Duration(raw * float64(time.Second))
		}
		switch {
		case !ok:
			c.want(v, `a duration such as "30s"`)
		case d < lo:
			c.fail(v, "want at least %s, got %s", lo, d)
		default:
			*to = d
		}
	}
}

// strs reads a string or a list of strings.
func (c *checker) strs(v value) []string {
	switch raw := v.raw.(type) {
	case string:
		return []string{raw}
	case []any:
		list := make([]string, 0, len(raw))
		for _, item := range v.items(raw) {
			if s, ok := item.raw.(string); ok {
				list = append(list, s)
			} else {
				c.want(item, "a string (quote it)")
			}
		}
		return list
	}
	c.want(v, "a string or a list of strings")
	return nil
}

// hostPort reads a listen address: a port, or "host:port".
func (c *checker) hostPort(host *string, port func(value)) func(value) {
	return func(v value) {
		switch raw := v.raw.(type) {
		case int64:
			port(v)
			return
		case string:
			h, text, err := net.SplitHostPort(raw)
			n, portErr := strconv.ParseInt(text, 10, 64)
			if err == nil && portErr == nil {
				if h != "" {
					*host = h
				}
				port(value{pos: v.pos, path: v.path, raw: n})
				return
			}
		}
		c.want(v, `a port or "host:port"`)
	}
}

// port reads a port number; 0 is the default port, -1 a free one.
func (c *checker) port(to *int, byDefault int) func(value) {
	return func(v value) {
		n, ok := v.raw.(int64)
		if !ok || n < randomPort || n > math.MaxUint16 || n == 0 && byDefault == 0 {
			c.want(v, "a port from 1 to 65535")
			return
		}
		switch n {
		case 0:
			*to = byDefault
		case randomPort:
			*to = 0
		default:
			*to = int(n)
		}
	}
}

// onlyListen refuses "listen" beside "host" or "port": nats-server takes one of them at random. given
// is the first of them that was met.
func (c *checker) onlyListen(given *value, read func(value)) func(value) {
	return func(v value) {
		if given.path == "" {
			*given = v
		} else if given.key == "listen" || v.key == "listen" {
			c.fail(v, "contradicts %q at %s", given.path, given.pos)
			return
		}
		read(v)
	}
}
