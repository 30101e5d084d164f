package broker

import (
	"errors"
	"fmt"
	"math/rand/v2"
	"net"
	"net/url"
	"slices"
	"strconv"
	"strings"
	"time"

	"millrace/appliance/server/wire"
)

// Times of dialing other servers.
const (
	routeDialTime = time.Second
	// routeRedial is the time from the end of a route to the next attempt, plus as much at random, so
	// that two servers that dial each other do not meet again and again.
	routeRedial = 100 * time.Millisecond
	// routeRetry is the time between attempts to reach a server that is not there, and routeRetryMax
	// what ConnectBackoff lets it grow to.
	routeRetry    = time.Second
	routeRetryMax = 30 * time.Second
	// routeRefused is the time to the next attempt after one of the two servers has refused the other.
	routeRefused = 5 * time.Second
	// dialReports is the number of failures to dial of which one is a warning.
	dialReports = 60
)

// errOnlySelf is returned when all addresses of a route are those of this server.
var errOnlySelf = errors.New("broker: route leads to this server")

// keep keeps a configured route up until the mesh is closed.
func (m *mesh) keep(u *url.URL) {
	for failures := 0; ; {
		r, err := m.dial(u, gossipDefault)
		if errors.Is(err, errOnlySelf) {
			m.log.Info("configured route leads to this server", "route", u.Redacted())
			m.leadsTo(u, lead{self: true})
			return
		}
		pause := m.retryIn(failures)
		if err == nil {
			pause, err = m.follow(r)
		}
		if err != nil {
			m.reportDial(u, failures, err)
			failures++
		} else {
			failures = 0
		}
		if !m.wait(pause) {
			return
		}
	}
}

// meet follows gossip about a server: unless it is known or configured already, it is dialed.
func (m *mesh) meet(info *wire.Info) {
	u, err := parseRoute(info.IP)
	if err != nil {
		m.log.Warn("gossip about a server", "server", info.ServerName, "error", err)
		return
	}
	id := info.ServerID
	m.mu.Lock()
	defer m.mu.Unlock()
	if m.closed || id == m.b.id || m.routes[id] != nil || m.meeting[u.Host] ||
		m.configured(u) || m.configured(&url.URL{Host: net.JoinHostPort(info.Host, strconv.Itoa(info.Port))}) {
		return
	}
	m.meetLocked(id, u, info.GossipMode)
}

// meetLocked keeps a route up with a server that is known by other means than the configuration.
func (m *mesh) meetLocked(id string, u *url.URL, gossip int) {
	m.meeting[u.Host] = true
	m.wg.Go(func() {
		m.keepMet(id, u, gossip)
		m.mu.Lock()
		delete(m.meeting, u.Host)
		m.mu.Unlock()
	})
}

// Meet dials servers of the cluster at the given addresses, host:port, as if gossip had named them: those
// that an earlier life of this server knew. It is called after JoinCluster.
func (b *Broker) Meet(addresses []string) {
	m := b.mesh
	if m == nil {
		return
	}
	m.mu.Lock()
	defer m.mu.Unlock()
	for _, a := range addresses {
		u, err := parseRoute("nats-route://" + a)
		if err == nil && !m.closed && !m.meeting[u.Host] && !m.configured(u) {
			m.meetLocked("", u, gossipDefault)
		}
	}
}

// keepMet keeps a route up with a server known by gossip, until it cannot be reached any more.
func (m *mesh) keepMet(id string, u *url.URL, gossip int) {
	for failures := 0; failures <= m.cfg.ConnectRetries; {
		if !m.waitWithout(id) {
			return
		}
		r, err := m.dial(u, gossip)
		if errors.Is(err, errOnlySelf) {
			return
		}
		pause := m.retryIn(failures)
		if err == nil {
			if pause, err = m.follow(r); r.greeted {
				failures = 0
				id = r.info.ServerID // it may have been restarted
			}
		}
		if err != nil {
			m.reportDial(u, failures, err)
		}
		failures++
		if !m.wait(pause) {
			return
		}
	}
	m.log.Warn("server known by gossip cannot be reached, given up", "route", u.Redacted(), "attempts", m.cfg.ConnectRetries+1)
}

// dial connects with one of the addresses of u that is not this server: the first, in random order,
// that answers.
func (m *mesh) dial(u *url.URL, gossip int) (*route, error) {
	hosts := []string{u.Hostname()}
	if net.ParseIP(hosts[0]) == nil {
		var err error
		if hosts, err = net.DefaultResolver.LookupHost(m.ctx, hosts[0]); err != nil {
			return nil, err
		}
	}
	m.mu.Lock()
	hosts = slices.DeleteFunc(hosts, func(h string) bool { return m.selves[net.JoinHostPort(h, u.Port())] })
	m.mu.Unlock()
	if len(hosts) == 0 {
		return nil, errOnlySelf
	}
	rand.Shuffle(len(hosts), func(i, j int) { hosts[i], hosts[j] = hosts[j], hosts[i] })
	dialer := net.Dialer{Timeout: routeDialTime}
	var nc net.Conn
	var err error
	for _, h := range hosts {
		if nc, err = dialer.DialContext(m.ctx, "tcp", net.JoinHostPort(h, u.Port())); err == nil {
			break
		}
	}
	if err != nil {
		return nil, err
	}
	r := newRoute(m, nc, u, gossip)
	if !m.add(r) {
		return nil, ErrClosed
	}
	return r, nil
}

// errHandshake is returned for a peer that has ended a route without a word.
var errHandshake = errors.New("broker: the other server ended the connection before the handshake was done")

// follow serves a dialed route. When that has ended it waits for the end of another route with the
// same server, if there is one, and returns the time to the next attempt. The error is that of a
// peer that did not get as far as to be refused or to refuse.
func (m *mesh) follow(r *route) (pause time.Duration, err error) {
	r.serve()
	r.mu.Lock()
	id, end := r.id, r.end
	r.mu.Unlock()
	if id == m.b.id {
		m.mu.Lock()
		m.selves[r.address()] = true
		m.mu.Unlock()
		return 0, nil
	}
	var ce *closeError
	refused := end != nil && end != errRenamed &&
		!(errors.As(end, &ce) && (ce.reason == closedDuplicateRoute || ce.reason == closedStale))
	switch {
	case id != "" && m.waitEnd(id):
	case refused:
		return m.refused, nil
	case !r.greeted && end == nil && m.ctx.Err() == nil:
		return routeRetry, fmt.Errorf("%w: %w", errHandshake, r.readErr)
	}
	return routeRedial + rand.N(routeRedial), nil
}

// waitEnd waits for the end of the route with a server and reports whether there was one.
func (m *mesh) waitEnd(id string) bool {
	m.mu.Lock()
	other := m.routes[id]
	m.mu.Unlock()
	if other == nil {
		return false
	}
	select {
	case <-other.done:
	case <-m.b.quit:
	}
	return true
}

// waitWithout waits until there is no route with a server; it reports false when the mesh is closed.
func (m *mesh) waitWithout(id string) bool {
	for m.waitEnd(id) {
		if !m.wait(routeRedial + rand.N(routeRedial)) {
			return false
		}
	}
	return m.ctx.Err() == nil
}

// wait waits for d and reports whether the mesh is still open then.
func (m *mesh) wait(d time.Duration) bool { return m.b.sleep(m.ctx, d) }

// retryIn is the time to the next attempt after a number of failures.
func (m *mesh) retryIn(failures int) time.Duration {
	d := routeRetry
	if m.cfg.ConnectBackoff {
		d = min(routeRetry<<min(failures, 10), routeRetryMax)
	}
	return d + rand.N(routeRedial)
}

// reportDial logs that a server cannot be reached: the first time, and now and then.
func (m *mesh) reportDial(u *url.URL, failures int, err error) {
	log := m.log.Debug
	if failures%dialReports == 0 {
		log = m.log.Warn
	}
	log("dial route", "route", u.Redacted(), "attempt", failures+1, "error", err)
}

// configured reports whether u is one of the configured routes.
func (m *mesh) configured(u *url.URL) bool {
	return slices.ContainsFunc(m.cfg.Routes, func(text string) bool {
		c, err := parseRoute(text)
		return err == nil && strings.EqualFold(c.Host, u.Host)
	})
}
