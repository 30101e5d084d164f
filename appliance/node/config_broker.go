package node

import (
	"crypto/tls"
	"crypto/x509"
	"fmt"
	"os"

	"millrace/appliance/server/broker"
)

// brokerConfig returns what the settings mean for the broker. The caller adds what only it knows:
// version, API level, reserved replies, logger.
func (s *Settings) brokerConfig() (broker.Config, error) {
	cfg := broker.Config{
		ServerName:     s.ServerName,
		Host:           s.Host,
		Port:           s.Port,
		JetStream:      s.JetStream.Enabled,
		Tags:           s.Tags,
		Domain:         s.JetStream.Domain,
		SystemAccount:  s.SystemAccount,
		NoAuthUser:     s.NoAuthUser,
		Token:          s.Token,
		MaxPayload:     int64(s.MaxPayload),
		MaxPending:     s.MaxPending,
		MaxControlLine: s.MaxControlLine,
		MaxConns:       s.MaxConnections,
		MaxSubs:        s.MaxSubscriptions,
		PingInterval:   s.PingInterval,
		MaxPingsOut:    s.PingMax,
		WriteDeadline:  s.WriteDeadline,
		AuthTimeout:    s.AuthTimeout,
		TLSTimeout:     s.TLS.Timeout,
	}
	for i := range s.Accounts {
		cfg.Accounts = append(cfg.Accounts, s.Accounts[i].brokerConfig())
	}
	if s.TLS.CertFile != "" {
		var err error
		if cfg.TLS, err = s.TLS.config(); err != nil {
			return cfg, err
		}
	}
	if s.Cluster != nil {
		var err error
		if cfg.Cluster, err = s.Cluster.brokerConfig(); err != nil {
			return cfg, err
		}
	}
	return cfg, nil
}

func (a *Account) brokerConfig() broker.AccountConfig {
	cfg := broker.AccountConfig{
		Name:       a.Name,
		MaxConns:   max(a.Limits.MaxConnections, 0),
		MaxSubs:    max(a.Limits.MaxSubscriptions, 0),
		MaxPayload: int64(max(a.Limits.MaxPayload, 0)),
	}
	for _, u := range a.Users {
		cfg.Users = append(cfg.Users, broker.UserConfig{
			User: u.Name, Pass: u.Password, Nkey: u.NKey, Permissions: u.Permissions.brokerPermissions(),
		})
	}
	return cfg
}

func (p *Permissions) brokerPermissions() *broker.Permissions {
	if p == nil {
		return nil
	}
	out := &broker.Permissions{
		Publish:   &broker.SubjectPermission{Allow: p.Publish.Allow, Deny: p.Publish.Deny},
		Subscribe: &broker.SubjectPermission{Allow: p.Subscribe.Allow, Deny: p.Subscribe.Deny},
	}
	if p.AllowResponses != nil {
		out.AllowResponses = &broker.ResponsePermission{
			MaxMsgs: p.AllowResponses.MaxMsgs, Expires: p.AllowResponses.Expires,
		}
	}
	return out
}

const requireClientCert = tls.RequireAndVerifyClientCert

// config reads the certificate files.
func (t *TLS) config() (*tls.Config, error) {
	pair, err := tls.LoadX509KeyPair(t.CertFile, t.KeyFile)
	if err != nil {
		return nil, fmt.Errorf("load certificate %q with key %q: %w", t.CertFile, t.KeyFile, err)
	}
	cfg := &tls.Config{Certificates: []tls.Certificate{pair}, MinVersion: tls.VersionTLS12}
	if t.CAFile != "" {
		pem, err := os.ReadFile(t.CAFile)
		if err != nil {
			return nil, fmt.Errorf("read ca_file: %w", err)
		}
		cfg.ClientCAs = x509.NewCertPool()
		if !cfg.ClientCAs.AppendCertsFromPEM(pem) {
			return nil, fmt.Errorf("ca_file %q holds no PEM certificate", t.CAFile)
		}
	}
	if t.Verify {
		cfg.ClientAuth = requireClientCert
	}
	return cfg, nil
}
