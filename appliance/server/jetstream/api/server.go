package api

import (
	"fmt"
	"time"
)

// JSzRequest is the body of $SYS.REQ.SERVER.PING.JSZ. It stands beside the fields that choose servers.
type JSzRequest struct {
	Account          string `json:"account,omitempty"` // this one alone
	Accounts         bool   `json:"accounts,omitempty"`
	Streams          bool   `json:"streams,omitempty"`         // implies Accounts
	Consumer         bool   `json:"consumer,omitempty"`        // durable ones too; implies Streams
	DirectConsumer   bool   `json:"direct_consumer,omitempty"` // those of sources; there are none here
	Config           bool   `json:"config,omitempty"`
	LeaderOnly       bool   `json:"leader_only,omitempty"` // only the leader of the meta group answers
	Offset           int    `json:"offset,omitempty"`
	Limit            int    `json:"limit,omitempty"` // accounts; 0: 1024
	RaftGroups       bool   `json:"raft,omitempty"`
	StreamLeaderOnly bool   `json:"stream_leader_only,omitempty"`
}

// JSInfo is the state of the streams of one server.
type JSInfo struct {
	ServerStats
	ID              string           `json:"server_id"`
	Now             time.Time        `json:"now"`
	Disabled        bool             `json:"disabled,omitempty"`
	Config          ServerConfig     `json:"config"`
	Limits          *ServerLimits    `json:"limits,omitempty"`
	Streams         int              `json:"streams"`
	StreamsLeader   int              `json:"streams_leader,omitempty"`
	Consumers       int              `json:"consumers"`
	ConsumersLeader int              `json:"consumers_leader,omitempty"`
	Messages        uint64           `json:"messages"`
	Bytes           uint64           `json:"bytes"`
	Meta            *MetaClusterInfo `json:"meta_cluster,omitempty"` // nil: the server is alone
	AccountDetails  []*AccountDetail `json:"account_details,omitempty"`
	Total           int              `json:"total"` // accounts
}

// ServerStats is what streams use on one server, in bytes, or what those of one account use.
type ServerStats struct {
	Memory         uint64   `json:"memory"`
	Store          uint64   `json:"storage"`
	ReservedMemory uint64   `json:"reserved_memory"`
	ReservedStore  uint64   `json:"reserved_storage"`
	Accounts       int      `json:"accounts"`
	HAAssets       int      `json:"ha_assets"` // replicas of groups of several
	API            APIStats `json:"api"`
}

// ServerConfig is what a server is set to. Sizes are bytes.
type ServerConfig struct {
	MaxMemory    int64         `json:"max_memory"`
	MaxStore     int64         `json:"max_storage"`
	StoreDir     string        `json:"store_dir,omitempty"`
	SyncInterval time.Duration `json:"sync_interval,omitempty"`
	SyncAlways   bool          `json:"sync_always,omitempty"`
	Domain       string        `json:"domain,omitempty"`
	CompressOK   bool          `json:"compress_ok,omitempty"`
	UniqueTag    string        `json:"unique_tag,omitempty"`
	Strict       bool          `json:"strict,omitempty"` // unknown fields of requests are refused
}

// ServerLimits are limits of a server that apply to all accounts.
type ServerLimits struct {
	MaxConsumers int `json:"default_max_consumers,omitempty"` // of a stream
}

// MetaClusterInfo tells about the group of all storage nodes.
type MetaClusterInfo struct {
	Name            string             `json:"name,omitempty"`
	Leader          string             `json:"leader,omitempty"`
	Peer            string             `json:"peer,omitempty"` // id of the leader
	Replicas        []*PeerInfo        `json:"replicas,omitempty"`
	Size            int                `json:"cluster_size"`
	QuorumNeeded    int                `json:"quorum_needed"`
	Pending         int                `json:"pending"` // requests, of both kinds below
	PendingRequests int                `json:"pending_requests"`
	PendingInfos    int                `json:"pending_infos"`
	Snapshot        *MetaSnapshotStats `json:"snapshot"`
}

// MetaSnapshotStats tells how much follows the last snapshot of the meta group.
type MetaSnapshotStats struct {
	PendingEntries uint64        `json:"pending_entries"`
	PendingSize    uint64        `json:"pending_size"` // bytes
	LastTime       time.Time     `json:"last_time"`
	LastDuration   time.Duration `json:"last_duration,omitempty"`
}

// AccountDetail tells about an account's streams on one server.
type AccountDetail struct {
	Name string `json:"name"`
	ID   string `json:"id"`
	ServerStats
	Streams []StreamDetail `json:"stream_detail,omitempty"`
}

// StreamDetail is a replica of a stream.
type StreamDetail struct {
	Name               string             `json:"name"`
	Created            time.Time          `json:"created"`
	Cluster            *ClusterInfo       `json:"cluster,omitempty"`
	Config             *StreamConfig      `json:"config,omitempty"`
	State              StreamState        `json:"state"`
	Consumers          []*ConsumerInfo    `json:"consumer_detail,omitempty"`
	RaftGroup          string             `json:"stream_raft_group,omitempty"`
	ConsumerRaftGroups []*RaftGroupDetail `json:"consumer_raft_groups,omitempty"`
}

// RaftGroupDetail names the group of a consumer.
type RaftGroupDetail struct {
	Name      string `json:"name"`
	RaftGroup string `json:"raft_group,omitempty"`
}

// HealthzRequest is the body of $SYS.REQ.SERVER.PING.HEALTHZ. It stands beside the fields that choose
// servers.
type HealthzRequest struct {
	JSEnabled     bool   `json:"js-enabled,omitempty"` // the old name of the next one
	JSEnabledOnly bool   `json:"js-enabled-only,omitempty"`
	JSServerOnly  bool   `json:"js-server-only,omitempty"` // no streams
	JSMetaOnly    bool   `json:"js-meta-only,omitempty"`   // the meta group alone
	Account       string `json:"account,omitempty"`
	Stream        string `json:"stream,omitempty"`
	Consumer      string `json:"consumer,omitempty"`
	Details       bool   `json:"details,omitempty"` // all errors, not the first alone
}

// HealthStatus tells whether a server is well.
type HealthStatus struct {
	Status     string         `json:"status"` // ok, unavailable, error
	StatusCode int            `json:"status_code,omitempty"`
	Error      string         `json:"error,omitempty"`
	Errors     []HealthzError `json:"errors,omitempty"`
}

// HealthzError is one thing that is not well.
type HealthzError struct {
	Type     HealthzErrorType `json:"type"`
	Account  string           `json:"account,omitempty"`
	Stream   string           `json:"stream,omitempty"`
	Consumer string           `json:"consumer,omitempty"`
	Error    string           `json:"error,omitempty"`
}

// HealthzErrorType is what is not well.
type HealthzErrorType string

// Types of HealthzError.
const (
	HealthzBadRequest HealthzErrorType = "BAD_REQUEST"
	HealthzJetStream  HealthzErrorType = "JETSTREAM"
	HealthzAccount    HealthzErrorType = "ACCOUNT"
	HealthzStream     HealthzErrorType = "STREAM"
	HealthzConsumer   HealthzErrorType = "CONSUMER"
)

// Health returns the answer with what is not well; nothing of it: all is well. code is an HTTP status.
func (q *HealthzRequest) Health(code int, list ...HealthzError) HealthStatus {
	switch {
	case len(list) == 0:
		return HealthStatus{Status: "ok", StatusCode: 200}
	case q.Details:
		return HealthStatus{Status: "error", StatusCode: code, Errors: list}
	case list[0].Type == HealthzBadRequest:
		return HealthStatus{Status: "error", StatusCode: code, Error: list[0].Error}
	}
	return HealthStatus{Status: "unavailable", StatusCode: code, Error: list[0].Error}
}

// Check refuses a request for a stream without its account, or a consumer without its stream.
func (q *HealthzRequest) Check() error {
	switch {
	case q.Account == "" && q.Stream != "":
		return fmt.Errorf("%q must not be empty when checking stream health", "account")
	case q.Stream == "" && q.Consumer != "":
		return fmt.Errorf("%q must not be empty when checking consumer health", "stream")
	}
	return nil
}
