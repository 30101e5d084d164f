package jetstream

import (
	"strings"

	"millrace/appliance/server/jetstream/api"
)

// domainQueue makes one storage node of the cluster take each request.
const domainQueue = "_domain_"

// domainPrefix starts the subjects of requests to a domain by its name.
func domainPrefix(domain string) string { return "$JS." + domain + ".API." }

// serveDomain passes requests to this cluster's domain on as those without one: clients and leaf nodes
// name it to be sure of the cluster that they mean (nats-server maps $JS.<domain>.API.> in the same way).
func (a *account) serveDomain(domain string) error {
	prefix := domainPrefix(domain)
	stop, err := a.bus.Subscribe(prefix+">", domainQueue, func(m Msg) {
		subject := withoutDomain(strings.TrimPrefix(string(m.Subject), prefix))
		if a.bus.Publish(subject, string(m.Reply), m.Header, m.Data) == 0 && len(m.Reply) > 0 {
			a.bus.Publish(string(m.Reply), "", []byte("NATS/1.0 503\r\n\r\n"), nil) // as when nobody subscribes
		}
	})
	if err == nil {
		a.cancel = append(a.cancel, stop)
	}
	return err
}

// withoutDomain returns the subject of a request from what follows the prefix. Clients put that before the subjects of keys
// and objects, too.
func withoutDomain(rest string) string {
	if strings.HasPrefix(rest, "$KV.") || strings.HasPrefix(rest, "$OBJ.") {
		return rest
	}
	return api.Prefix + rest
}
