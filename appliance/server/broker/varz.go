package broker

import (
	"encoding/json"
	"fmt"
	"runtime"
	"time"
)

// trafficCount counts messages and their bytes.
type trafficCount struct {
	Msgs  int64 `json:"msgs"`
	Bytes int64 `json:"bytes"`
}

// Statsz is the answer to a ping of the server; field names are nats-server's.
type Statsz struct {
	Server ServerInfo  `json:"server"`
	Stats  ServerStats `json:"statsz"`
}

// ServerStats are the counters of a server.
type ServerStats struct {
	Start               time.Time    `json:"start"`
	Mem                 int64        `json:"mem"` // bytes
	Cores               int          `json:"cores"`
	CPU                 float64      `json:"cpu"` // percent of one core since start
	Connections         int          `json:"connections"`
	TotalConnections    uint64       `json:"total_connections"`
	ActiveAccounts      int          `json:"active_accounts"`
	Subscriptions       uint32       `json:"subscriptions"`
	Sent                trafficCount `json:"sent"`
	SentToClients       trafficCount `json:"sent_to_clients"`
	Received            trafficCount `json:"received"`
	ReceivedFromClients trafficCount `json:"received_from_clients"`
	SlowConsumers       int64        `json:"slow_consumers"`
	Routes              []routeStat  `json:"routes,omitempty"`
	ActiveServers       int          `json:"active_servers,omitempty"` // in the cluster, this one included
	MaxProcs            int          `json:"gomaxprocs"`
}

// Statsz returns the present counters.
func (b *Broker) Statsz() Statsz {
	cpu, mem := processUsage(b.start)
	traffic := b.Traffic()
	routes := b.routeStats.load()
	toClients, fromClients := trafficCount{traffic.OutMsgs, traffic.OutBytes}, trafficCount{traffic.InMsgs, traffic.InBytes}
	sent := trafficCount{toClients.Msgs + routes.OutMsgs, toClients.Bytes + routes.OutBytes}
	received := trafficCount{fromClients.Msgs + routes.InMsgs, fromClients.Bytes + routes.InBytes}
	s := ServerStats{
		Start: b.start, Mem: mem, Cores: runtime.NumCPU(), CPU: cpu, Sent: sent, SentToClients: toClients,
		Received: received, ReceivedFromClients: fromClients, Routes: b.routeStatList(), SlowConsumers: b.SlowConsumers(), MaxProcs: runtime.GOMAXPROCS(0),
	}
	for _, a := range b.accounts {
		s.Subscriptions += uint32(a.Subscriptions())
		if a.Connections() > 0 {
			s.ActiveAccounts++
		}
	}
	if b.mesh != nil {
		s.ActiveServers = b.mesh.servers()
	}
	b.mu.Lock()
	s.Connections, s.TotalConnections = len(b.clients), b.total
	b.mu.Unlock()
	return Statsz{b.ServerInfo(), s}
}

// Varz describes the server and its configuration; field names are nats-server's.
type Varz struct {
	ID               string        `json:"server_id"`
	Name             string        `json:"server_name"`
	Version          string        `json:"version"`
	Proto            int           `json:"proto"`
	GitCommit        string        `json:"git_commit,omitempty"`
	GoVersion        string        `json:"go"`
	Host             string        `json:"host"`
	Port             int           `json:"port"`
	AuthRequired     bool          `json:"auth_required,omitempty"`
	TLSRequired      bool          `json:"tls_required,omitempty"`
	TLSVerify        bool          `json:"tls_verify,omitempty"`
	MaxConns         int           `json:"max_connections"`
	MaxSubs          int           `json:"max_subscriptions,omitempty"`
	PingInterval     time.Duration `json:"ping_interval"`
	MaxPingsOut      int           `json:"ping_max"`
	AuthTimeout      float64       `json:"auth_timeout"` // seconds
	MaxControlLine   int           `json:"max_control_line"`
	MaxPayload       int64         `json:"max_payload"`
	MaxPending       int64         `json:"max_pending"`
	TLSTimeout       float64       `json:"tls_timeout"` // seconds
	WriteDeadline    time.Duration `json:"write_deadline"`
	Start            time.Time     `json:"start"`
	Now              time.Time     `json:"now"`
	Uptime           string        `json:"uptime"`
	Mem              int64         `json:"mem"`
	Cores            int           `json:"cores"`
	MaxProcs         int           `json:"gomaxprocs"`
	CPU              float64       `json:"cpu"`
	Connections      int           `json:"connections"`
	TotalConnections uint64        `json:"total_connections"`
	InMsgs           int64         `json:"in_msgs"`
	InBytes          int64         `json:"in_bytes"`
	InClientMsgs     int64         `json:"in_client_msgs"`
	InClientBytes    int64         `json:"in_client_bytes"`
	OutMsgs          int64         `json:"out_msgs"`
	OutBytes         int64         `json:"out_bytes"`
	OutClientMsgs    int64         `json:"out_client_msgs"`
	OutClientBytes   int64         `json:"out_client_bytes"`
	SlowConsumers    int64         `json:"slow_consumers"`
	Subscriptions    uint32        `json:"subscriptions"`
	ConfigLoadTime   time.Time     `json:"config_load_time"`
	SystemAccount    string        `json:"system_account,omitempty"`
	Routes           int           `json:"routes"`
	Cluster          *clusterVarz  `json:"cluster,omitempty"`

	extension map[string]any
}

// clusterVarz describes the cluster in Varz.
type clusterVarz struct {
	Name        string   `json:"name"`
	Host        string   `json:"addr"`
	Port        int      `json:"cluster_port"`
	AuthTimeout float64  `json:"auth_timeout"` // seconds
	URLs        []string `json:"urls,omitempty"`
	TLSRequired bool     `json:"tls_required,omitempty"`
}

// varz describes the cluster.
func (m *mesh) varz() *clusterVarz {
	m.mu.Lock()
	defer m.mu.Unlock()
	v := &clusterVarz{
		Name: m.name, Host: m.cfg.Host, Port: m.port, AuthTimeout: m.cfg.AuthTimeout.Seconds(), TLSRequired: m.cfg.TLS != nil,
	}
	for _, text := range m.cfg.Routes {
		if u, err := parseRoute(text); err == nil {
			v.URLs = append(v.URLs, u.Host)
		}
	}
	return v
}

// Varz returns the present description, with what Config.VarzExtension adds.
func (b *Broker) Varz() *Varz {
	s := b.Statsz().Stats
	now := time.Now().UTC()
	v := &Varz{
		ID: b.id, Name: b.info.ServerName, Version: b.info.Version, Proto: b.info.Proto, GitCommit: b.info.GitCommit,
		GoVersion: b.info.GoVersion, Host: b.info.Host, Port: b.info.Port, AuthRequired: b.auth.required,
		TLSRequired: b.info.TLSRequired, TLSVerify: b.info.TLSVerify,
		MaxConns: b.cfg.MaxConns, MaxSubs: b.cfg.MaxSubs, PingInterval: b.cfg.PingInterval, MaxPingsOut: b.cfg.MaxPingsOut,
		AuthTimeout: b.cfg.AuthTimeout.Seconds(), MaxControlLine: b.cfg.MaxControlLine, MaxPayload: b.cfg.MaxPayload,
		MaxPending: b.cfg.MaxPending, TLSTimeout: b.cfg.TLSTimeout.Seconds(), WriteDeadline: b.cfg.WriteDeadline,
		Start: b.start, Now: now, Uptime: uptime(now.Sub(b.start)), Mem: s.Mem, Cores: s.Cores, MaxProcs: s.MaxProcs, CPU: s.CPU,
		Connections: s.Connections, TotalConnections: s.TotalConnections,
		InMsgs: s.Received.Msgs, InBytes: s.Received.Bytes,
		InClientMsgs: s.ReceivedFromClients.Msgs, InClientBytes: s.ReceivedFromClients.Bytes,
		OutMsgs: s.Sent.Msgs, OutBytes: s.Sent.Bytes, OutClientMsgs: s.SentToClients.Msgs, OutClientBytes: s.SentToClients.Bytes,
		SlowConsumers: s.SlowConsumers, Subscriptions: s.Subscriptions, ConfigLoadTime: b.start, SystemAccount: b.system.name,
		Routes: len(s.Routes),
	}
	if b.mesh != nil {
		v.Cluster = b.mesh.varz()
	}
	if b.cfg.VarzExtension != nil {
		v.extension = b.cfg.VarzExtension()
	}
	return v
}

// MarshalJSON writes the fields of v and those of the extension as one object.
func (v *Varz) MarshalJSON() ([]byte, error) {
	type plain Varz
	doc, err := json.Marshal((*plain)(v))
	if err != nil || len(v.extension) == 0 {
		return doc, err
	}
	all := make(map[string]json.RawMessage)
	if err := json.Unmarshal(doc, &all); err != nil {
		return nil, err
	}
	for key, value := range v.extension {
		if all[key], err = json.Marshal(value); err != nil {
			return nil, fmt.Errorf("marshal %q: %w", key, err)
		}
	}
	return json.Marshal(all)
}

// uptime writes a duration the way nats-server does, as in 1d2h3m4s.
func uptime(d time.Duration) string {
	s := int64(d / time.Second)
	m, h, days := s/60, s/3600, s/86400
	switch {
	case days >= 365:
		return fmt.Sprintf("%dy%dd%dh%dm%ds", days/365, days%365, h%24, m%60, s%60)
	case days > 0:
		return fmt.Sprintf("%dd%dh%dm%ds", days, h%24, m%60, s%60)
	case h > 0:
		return fmt.Sprintf("%dh%dm%ds", h, m%60, s%60)
	case m > 0:
		return fmt.Sprintf("%dm%ds", m, s%60)
	}
	return fmt.Sprintf("%ds", s)
}
