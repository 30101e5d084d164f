package api

import (
	"strings"
	"time"
)

// Limits of the API.
const (
	MaxNameLen        = 255
	MaxDescriptionLen = 4 * 1024
	MaxMetadataLen    = 128 * 1024 // of keys and values together
	MaxReplicas       = 5
)

// Defaults that Normalize fills in.
const (
	DefaultDuplicateWindow   = 2 * time.Minute
	DefaultAckWait           = 30 * time.Second
	DefaultMaxAckPending     = 1000
	DefaultMaxWaiting        = 512
	DefaultInactiveThreshold = 5 * time.Second // of ephemeral consumers
	DefaultMaxConsumers      = 1000            // of a stream, for Limits.MaxConsumers
)

// Limits are what a configuration is checked against besides its own rules: those of the account
// and of the server. A zero field below Account means no limit.
type Limits struct {
	Account         AccountLimits `json:"account"`
	DuplicateWindow time.Duration `json:"duplicate_window,omitempty"`
	MaxAckPending   int           `json:"max_ack_pending,omitempty"`
	MaxRequestBatch int           `json:"max_request_batch,omitempty"`
	// MaxConsumers is per stream, where neither the stream nor the account sets a limit.
	MaxConsumers int `json:"max_consumers,omitempty"`
	// MaxStore and MaxMemory are bytes that streams of the server may reserve by max_bytes.
	MaxStore  int64 `json:"max_store,omitempty"`
	MaxMemory int64 `json:"max_memory,omitempty"`
	// Clustered tells that streams can have more than one replica.
	Clustered bool `json:"clustered,omitempty"`
}

// ConsumersOf returns how many consumers the stream may have, 0 for any number.
func (l *Limits) ConsumersOf(c *StreamConfig) int {
	n := c.MaxConsumers
	if a := l.Account.MaxConsumers; n <= 0 || a > 0 && a < n {
		n = a
	}
	if n <= 0 {
		n = l.MaxConsumers
	}
	return max(n, 0)
}

// CheckReservation refuses a stream whose max_bytes the account or the server can not reserve next
// to reserved, which is what the other streams with the same storage reserve, of the account and of
// the server. A stream without max_bytes needs room for one byte.
func (l *Limits) CheckReservation(c *StreamConfig, account, server int64) *Error {
	need := c.MaxBytes
	if need < 0 {
		need = 1
	}
	accountMax, serverMax, full := l.Account.MaxStore, l.MaxStore, ErrStorageResourcesExceeded
	if c.Storage == MemoryStorage {
		accountMax, serverMax, full = l.Account.MaxMemory, l.MaxMemory, ErrMemoryResourcesExceeded
	}
	if accountMax >= 0 && need*int64(c.Replicas) > accountMax-account {
		return full
	}
	if serverMax > 0 && need > serverMax-server {
		return full
	}
	return nil
}

// ValidName reports whether s can name a stream or a consumer.
func ValidName(s string) bool {
	return s != "" && !strings.ContainsAny(s, " \t\r\n\f.*>\\/")
}
