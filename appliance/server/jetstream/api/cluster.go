package api

import "time"

// Response types of the calls about members and leaders.
const (
	TypeStreamStepDown     = typePrefix + "stream_leader_stepdown_response"
	TypeStreamPeerRemove   = typePrefix + "stream_remove_peer_response"
	TypeStreamPeerEvacuate = typePrefix + "stream_evacuate_peer_response"
	TypeStreamCancelMove   = typePrefix + "stream_cancel_move_response"
	TypeConsumerStepDown   = typePrefix + "consumer_leader_stepdown_response"
	TypeMetaStepDown       = typePrefix + "meta_leader_stepdown_response"
	TypeServerRemove       = typePrefix + "meta_server_remove_response"
	TypeServerEvacuate     = typePrefix + "meta_server_evacuate_response"
)

// StepDownRequest is the body of STREAM.LEADER.STEPDOWN, CONSUMER.LEADER.STEPDOWN and META.LEADER.STEPDOWN.
type StepDownRequest struct {
	// Placement says who is to lead; nil: anybody else.
	Placement *Placement `json:"placement,omitempty"`
}

// PeerRequest is the body of STREAM.PEER.REMOVE and STREAM.PEER.EVACUATE.
type PeerRequest struct {
	Peer string `json:"peer"` // name or id of a server
}

// ServerRequest is the body of SERVER.REMOVE and SERVER.EVACUATE.
type ServerRequest struct {
	Server string `json:"peer,omitempty"`    // name
	Peer   string `json:"peer_id,omitempty"` // id; counts before the name
}

// StreamMoveRequest is the body of ACCOUNT.STREAM.MOVE.
type StreamMoveRequest struct {
	Server  string   `json:"server,omitempty"` // name of the server to leave; empty: any
	Cluster string   `json:"cluster,omitempty"`
	Domain  string   `json:"domain,omitempty"`
	Tags    []string `json:"tags,omitempty"` // that the new server has to have besides those of the stream
}

// SuccessResponse answers the calls that change members and leaders.
type SuccessResponse struct {
	Response
	Success bool `json:"success,omitempty"`
}

// ClusterInfo tells which servers hold a stream or a consumer.
type ClusterInfo struct {
	Name        string      `json:"name,omitempty"`
	RaftGroup   string      `json:"raft_group,omitempty"`
	Leader      string      `json:"leader,omitempty"`
	LeaderSince *time.Time  `json:"leader_since,omitempty"`
	SystemAcc   bool        `json:"system_account,omitempty"`
	TrafficAcc  string      `json:"traffic_account,omitempty"`
	Replicas    []*PeerInfo `json:"replicas,omitempty"`
	Desired     *Desired    `json:"desired,omitempty"` // nil: it is where it is to be
}

// PeerInfo is one server of a group other than its leader.
type PeerInfo struct {
	Name    string        `json:"name"`
	Current bool          `json:"current"`
	Offline bool          `json:"offline,omitempty"`
	Active  time.Duration `json:"active"` // since the peer was last heard of
	Lag     uint64        `json:"lag,omitempty"`
	Peer    string        `json:"peer"`
	Pending bool          `json:"pending,omitempty"` // it is to become a voter
}

// Desired tells where a stream or consumer is on its way to.
type Desired struct {
	Created  time.Time      `json:"created"`
	Name     string         `json:"name,omitempty"` // of the cluster
	Replicas []*DesiredPeer `json:"replicas,omitempty"`
	Status   *DesiredStatus `json:"status,omitempty"`
}

// DesiredPeer is one server that is to hold a stream or consumer.
type DesiredPeer struct {
	Name    string `json:"name"`
	Offline bool   `json:"offline,omitempty"`
	Peer    string `json:"peer"`
}

// Types of DesiredStatus.
const (
	DesiredMembership = "membership" // a change of members is under way
	DesiredCatchup    = "catchup"    // a new server has to catch up
	DesiredQuorum     = "quorum"     // servers have to come back first
)

// DesiredStatus tells what the leader does about it, or waits for.
type DesiredStatus struct {
	Description string `json:"description"`
	Type        string `json:"type"`
}
