package broker

import (
	"cmp"
	"net"
	"slices"
	"time"
)

// Routez is a list of routes; field names are nats-server's.
type Routez struct {
	ID        string      `json:"server_id"`
	Name      string      `json:"server_name"`
	Now       time.Time   `json:"now"`
	NumRoutes int         `json:"num_routes"`
	Routes    []RouteInfo `json:"routes"`
}

// RouteInfo describes the route with one other server.
type RouteInfo struct {
	RemoteID   string    `json:"remote_id"`
	RemoteName string    `json:"remote_name"`
	DidSolicit bool      `json:"did_solicit"` // this server has dialed
	IP         string    `json:"ip"`
	Port       int       `json:"port"`
	Start      time.Time `json:"start"`
	Uptime     string    `json:"uptime"`
	Pending    int64     `json:"pending_size"`
	InMsgs     int64     `json:"in_msgs"`
	OutMsgs    int64     `json:"out_msgs"`
	InBytes    int64     `json:"in_bytes"`
	OutBytes   int64     `json:"out_bytes"`
	NumSubs    int       `json:"subscriptions"` // of the other server

	Compression string `json:"compression,omitempty"` // mode; empty: not supported by one of the two
}

// Routez lists the routes, by the name of the other server.
func (b *Broker) Routez() *Routez {
	z := &Routez{ID: b.id, Name: b.cfg.ServerName, Now: time.Now().UTC(), Routes: []RouteInfo{}}
	if b.mesh == nil {
		return z
	}
	b.mesh.mu.Lock()
	for _, r := range b.mesh.routes {
		z.Routes = append(z.Routes, r.describe(z.Now))
	}
	b.mesh.mu.Unlock()
	slices.SortFunc(z.Routes, func(x, y RouteInfo) int { return cmp.Compare(x.RemoteName, y.RemoteName) })
	z.NumRoutes = len(z.Routes)
	return z
}

func (r *route) describe(now time.Time) RouteInfo {
	i := RouteInfo{
		DidSolicit: r.url != nil, Start: r.start.UTC(), Uptime: uptime(now.Sub(r.start)),
		InMsgs: r.inMsgs.Load(), InBytes: r.inBytes.Load(),
	}
	if addr, ok := r.nc.RemoteAddr().(*net.TCPAddr); ok {
		i.IP, i.Port = addr.IP.String(), addr.Port
	}
	i.Compression = r.mode
	r.mu.Lock()
	i.RemoteID, i.RemoteName, i.NumSubs = r.id, r.name, len(r.subs)
	r.mu.Unlock()
	r.out.mu.Lock()
	i.Pending, i.OutMsgs, i.OutBytes = r.out.pending, r.out.outMsgs, r.out.outBytes
	r.out.mu.Unlock()
	return i
}

// routeStat is what the statistics of a server say about a route.
type routeStat struct {
	Name     string       `json:"name"`
	Sent     trafficCount `json:"sent"`
	Received trafficCount `json:"received"`
	Pending  int64        `json:"pending"`
}

func (b *Broker) routeStatList() []routeStat {
	var list []routeStat
	for _, r := range b.Routez().Routes {
		list = append(list, routeStat{
			r.RemoteName, trafficCount{r.OutMsgs, r.OutBytes}, trafficCount{r.InMsgs, r.InBytes}, r.Pending,
		})
	}
	return list
}
