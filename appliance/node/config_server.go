package node

import (
	"math"
	"path/filepath"
	"slices"
	"strings"
	"time"
)

// server reads the top level of a file.
func (c *checker) server(v value, s *Settings) {
	port := c.port(&s.Port, defaultPort)
	c.block(v, schema{
		fields: map[string]func(value){
			"listen":                 c.onlyListen(&c.listen, c.hostPort(&s.Host, port)),
			"host":                   c.onlyListen(&c.listen, c.str(&s.Host)),
			"port":                   c.onlyListen(&c.listen, port),
			"server_tags":            func(v value) { s.Tags = c.tags(v) },
			"server_name":            func(v value) { c.serverName = v; c.nodeName(&s.ServerName)(v) },
			"max_payload":            func(v value) { c.maxPayload = v; size(c, &s.MaxPayload, 1, math.MaxInt32)(v) },
			"max_pending":            size(c, &s.MaxPending, 1, math.MaxInt64),
			"max_control_line":       size(c, &s.MaxControlLine, 1, math.MaxInt32),
			"max_connections":        c.maxConnections(&s.MaxConnections),
			"max_subscriptions":      number(c, &s.MaxSubscriptions, 0, math.MaxInt32),
			"ping_interval":          c.duration(&s.PingInterval, time.Millisecond, true),
			"ping_max":               number(c, &s.PingMax, 1, math.MaxInt32),
			"write_deadline":         c.duration(&s.WriteDeadline, time.Millisecond, true),
			"lame_duck_duration":     c.duration(&s.LameDuckDuration, 30*time.Second, false),
			"lame_duck_grace_period": func(v value) { c.lameDuck = v; c.duration(&s.LameDuckGracePeriod, 0, false)(v) },
			"accounts":               func(v value) { c.accounts(v, s) },
			"authorization":          func(v value) { c.authorization(v, s) },
			"no_auth_user":           func(v value) { c.noAuthUser = v; c.str(&s.NoAuthUser)(v) },
			"system_account":         func(v value) { c.system = v; c.str(&s.SystemAccount)(v) },
			"tls":                    func(v value) { c.tlsAt = v; c.tls(v, &s.TLS) },
			"cluster":                func(v value) { c.clusterBlock(v, s) },
			"jetstream":              func(v value) { c.jetstream(v, &s.JetStream) },
			"store_dir":              c.store(&s.JetStream.StoreDir),
			"debug":                  c.flag(&s.Log.Debug),
			"trace":                  c.onlyFalse,
			"logtime":                c.flag(&s.Log.Time),
			"logtime_utc":            c.flag(&s.Log.UTC),
			"log_file":               c.str(&s.Log.File),
			"pid_file":               c.str(&s.PidFile),
			"appliance":              c.appliance,
		},
		aliases: map[string]string{
			"net":      "host",
			"max_conn": "max_connections",
			"max_subs": "max_subscriptions",
			"system":   "system_account",
			"storedir": "store_dir",
			"logfile":  "log_file",
			"pidfile":  "pid_file",
		},
		unsupported: unsupportedServer,
	})
}

// onlyFalse reads a switch of what is not served: turning it off is no request.
func (c *checker) onlyFalse(v value) {
	var on bool
	if c.flag(&on)(v); on {
		c.failKey(v, "%q is not supported by this version", v.path)
	}
}

// nodeName reads a name that fits into subjects and INFO.
func (c *checker) nodeName(to *string) func(value) {
	return func(v value) {
		c.str(to)(v)
		if strings.ContainsAny(*to, " \t\r\n.*>") {
			c.fail(v, "want a name without spaces, dots and wildcards, got %s", v.show())
		}
	}
}

// tags reads what the server is known by, for the placement of streams.
func (c *checker) tags(v value) []string {
	var tags []string
	items := []value{v}
	if list, ok := v.raw.([]any); ok {
		items = v.items(list)
	}
	for _, item := range items {
		if t := c.tag(item); t != "" && !slices.Contains(tags, t) {
			tags = append(tags, t)
		}
	}
	return tags
}

// tag reads a tag, or the beginning of one. As in nats-server, case and spaces around it do not matter.
func (c *checker) tag(v value) string {
	var t string
	c.str(&t)(v)
	t = strings.ToLower(strings.TrimSpace(t))
	if _, ok := v.raw.(string); ok && t == "" {
		c.fail(v, "want a tag that is not empty")
	}
	return t
}

// maxConnections reads a bound of clients; as in nats-server, 0 lets none in.
func (c *checker) maxConnections(to *int) func(value) {
	return func(v value) {
		number(c, to, unlimited, math.MaxInt32)(v)
		if *to == 0 {
			*to = unlimited
		}
	}
}

// store reads the folder of streams, which the top level and the jetstream block may both name.
func (c *checker) store(to *string) func(value) {
	return func(v value) {
		if c.storeDir.path != "" {
			c.fail(v, "given twice, also at %s", c.storeDir.pos)
			return
		}
		c.storeDir = v
		c.str(to)(v)
		if v.raw == "" {
			c.fail(v, "want the path of a folder")
		}
	}
}

// extraDirs reads folders on further disks.
func (c *checker) extraDirs(v value, to *[]string) {
	list := c.strs(v)
	for i, dir := range list {
		dir = filepath.Clean(dir)
		if !filepath.IsAbs(dir) || slices.Contains(list[:i], dir) {
			c.fail(v, "want absolute paths of folders, each once, got %q", dir)
			return
		}
		list[i] = dir
	}
	*to = list
}

// tls reads the encryption of connections.
func (c *checker) tls(v value, t *TLS) {
	c.block(v, schema{
		fields: map[string]func(value){
			"cert_file": c.str(&t.CertFile),
			"key_file":  c.str(&t.KeyFile),
			"ca_file":   c.str(&t.CAFile),
			"verify":    c.flag(&t.Verify),
			"timeout":   c.duration(&t.Timeout, time.Millisecond, true),
		},
		unsupported: unsupportedTLS,
	})
	if t.CertFile == "" || t.KeyFile == "" {
		c.fail(v, "needs both cert_file and key_file")
	}
}

// jetstream reads the stream engine's switch or block.
func (c *checker) jetstream(v value, js *JetStream) {
	switch raw := v.raw.(type) {
	case bool:
		js.Enabled = raw
		return
	case string:
		on, ok := enabled(raw)
		if !ok {
			c.want(v, `"enabled", "disabled" or a block { … }`)
		}
		js.Enabled = on
		return
	}
	js.Enabled = true
	c.block(v, schema{
		fields: map[string]func(value){
			"enabled":          c.flag(&js.Enabled),
			"store_dir":        c.store(&js.StoreDir),
			"extra_dirs":       func(v value) { c.extraDirs(v, &js.ExtraDirs) },
			"max_memory_store": c.storage(&js.MaxMemory),
			"max_file_store":   c.storage(&js.MaxStore),
			"sync_interval":    c.syncInterval,
			"scrub_interval":   c.scrubInterval(&js.ScrubInterval),
			"domain":           c.str(&js.Domain),
			"key":              c.storeKey(&js.Key),
			"prev_key":         c.storeKey(&js.PrevKey),
			"cipher":           c.cipher,
			"unique_tag":       func(v value) { js.UniqueTag = c.tag(v) },
			"limits":           func(v value) { c.jetstreamLimits(v, js) },
		},
		aliases: map[string]string{
			"enable":              "enabled",
			"store":               "store_dir",
			"storedir":            "store_dir",
			"max_mem_store":       "max_memory_store",
			"max_mem":             "max_memory_store",
			"max_file":            "max_file_store",
			"sync":                "sync_interval",
			"ek":                  "key",
			"encryption_key":      "key",
			"prev_ek":             "prev_key",
			"prev_encryption_key": "prev_key",
		},
		unsupported: unsupportedJetStream,
	})
	if strings.ContainsAny(js.Domain, " \t.*>") {
		c.fail(v, "want a domain without spaces, dots and wildcards, got %q", js.Domain)
	}
}

// scrubInterval reads in which time everything that is stored is read and checked; 0 or "off" is never.
func (c *checker) scrubInterval(to *time.Duration) func(value) {
	return func(v value) {
		if raw, ok := v.raw.(string); ok && strings.EqualFold(raw, "off") || v.raw == false || v.raw == int64(0) {
			*to = -1
			return
		}
		c.duration(to, time.Minute, false)(v)
	}
}

// storeKey reads what stored data is encrypted under. An empty one, as of a variable that is not set
// right, must not turn encryption off.
func (c *checker) storeKey(to *string) func(value) {
	return func(v value) {
		c.secret(to)(v)
		if v.raw == "" {
			c.fail(v, "want a key that is not empty; without the line nothing is encrypted")
		}
	}
}

// cipher accepts the one that there is.
func (c *checker) cipher(v value) {
	name, _ := v.raw.(string)
	switch strings.ToLower(name) {
	case "aes":
	case "chacha", "chachapoly":
		c.fail(v, "%q is not supported by this version, aes is", name)
	default:
		c.fail(v, "want aes, got %s", v.show())
	}
}

// syncInterval accepts what is always so and refuses the weaker promise.
func (c *checker) syncInterval(v value) {
	if s, ok := v.raw.(string); ok && strings.EqualFold(s, "always") {
		return
	}
	c.fail(v, "want \"always\", got %s: every acknowledged message is on disk before its acknowledgement, "+
		"a later sync cannot be chosen", v.show())
}

func (c *checker) jetstreamLimits(v value, js *JetStream) {
	c.block(v, schema{
		fields: map[string]func(value){
			"max_ack_pending":   number(c, &js.MaxAckPending, unlimited, math.MaxInt32),
			"max_request_batch": number(c, &js.MaxRequestBatch, unlimited, math.MaxInt32),
			"duplicate_window":  c.duration(&js.Duplicates, 0, false),
		},
		unsupported: unsupportedJetStreamLimits,
	})
}

// appliance checks the block that the box reads and the server does not: names and kinds only.
func (c *checker) appliance(v value) {
	text := func(v value) { c.str(new(string))(v) }
	list := func(v value) {
		switch v.raw.(type) {
		case bool, int64: // "ntp: off", a serial number
		default:
			c.strs(v)
		}
	}
	block := func(v value) {
		switch v.raw.(type) {
		case map[string]any, string, []any:
		default:
			c.want(v, "a block { … }")
		}
	}
	c.block(v, schema{fields: map[string]func(value){
		"hostname":    text,
		"network":     block,
		"ntp":         list,
		"disks":       list,
		"console":     list,
		"update_keys": list,
	}})
}

// enabled reads the words that nats-server takes for a switch.
func enabled(word string) (on, ok bool) {
	switch strings.ToLower(word) {
	case "enabled", "enable":
		return true, true
	case "disabled", "disable":
		return false, true
	}
	return false, false
}
