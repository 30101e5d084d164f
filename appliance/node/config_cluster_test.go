package node

import (
	"reflect"
	"strings"
	"testing"
	"time"
)

// clusterFile is the configuration that three machines of a cluster have, but for host names.
const clusterFile = "server_name=n1-c1\nlisten=4222\naccounts {\n  $SYS { users = [ { user: \"admin\", pass: \"" + hash +
	"\" } ] }\n}\njetstream { store_dir=/nats/storage }\ncluster {\n  name: C1\n  listen: 0.0.0.0:6222\n" +
	"  routes: [\n    nats://host_b:6222\n    nats://host_c:6222\n  ]\n}\n"

func TestLoadCluster(t *testing.T) {
	s, err := load(t, clusterFile)
	if err != nil {
		t.Fatal(err)
	}
	want := &Cluster{Name: "C1", Host: "0.0.0.0", Port: 6222, Routes: []string{"nats://host_b:6222", "nats://host_c:6222"},
		AuthTimeout: 2 * time.Second, TLS: TLS{Timeout: 2 * time.Second}, Compression: "accept"}
	if !reflect.DeepEqual(s.Cluster, want) || s.ServerName != "n1-c1" || !s.JetStream.Enabled {
		t.Errorf("got %+v, want %+v", s.Cluster, want)
	}
	cfg, err := s.brokerConfig()
	if err != nil {
		t.Fatal(err)
	}
	if c := cfg.Cluster; c.Name != "C1" || len(c.Routes) != 2 || c.TLS != nil {
		t.Errorf("broker config %+v", c)
	}

	s, err = load(t, `cluster {
  host: 10.0.0.1, port: -1, routes: [ "nats-route://u:p@h:1" ], authorization { username: u, password: p, timeout: 0.5 }
  advertise: "outside", no_advertise: true, connect_retries: 3, connect_backoff: true, ping_interval: "5s", ping_max: 4
  pool_size: -1, compression: s2_better, write_deadline: 2
}`)
	if err != nil {
		t.Fatal(err)
	}
	want = &Cluster{Host: "10.0.0.1", Routes: []string{"nats-route://u:p@h:1"}, User: "u", Password: "p",
		AuthTimeout: 500 * time.Millisecond, TLS: TLS{Timeout: 2 * time.Second}, Advertise: "outside", NoAdvertise: true,
		ConnectRetries: 3, ConnectBackoff: true, PingInterval: 5 * time.Second, PingMax: 4, WriteDeadline: 2 * time.Second, Compression: "s2_better"}
	if !reflect.DeepEqual(s.Cluster, want) || s.JetStream.Enabled {
		t.Errorf("got %+v, want %+v", s.Cluster, want)
	}
	s.Cluster.Port = 7
	if c, err := s.Cluster.brokerConfig(); err != nil || c.Advertise != "outside:7" || c.MaxPingsOut != 4 || c.ConnectRetries != 3 {
		t.Errorf("broker config %+v, %v", c, err)
	}
}

func TestLoadClusterCompression(t *testing.T) {
	for word, want := range map[string]string{
		"off": "off", "false": "off", "Disabled": "off", "accept": "accept", "true": "s2_fast", "on": "s2_fast", "S2_Best": "s2_best", "uncompressed": "s2_uncompressed",
	} {
		s, err := load(t, "cluster { port: 1, compression: "+word+" }")
		if err != nil || s.Cluster.Compression != want {
			t.Errorf("%s: %v, want %s", word, err, want)
		}
	}
}

func TestLoadClusterErrors(t *testing.T) {
	const why = ": a node with jetstream in a cluster is known to the others by it"
	for _, tt := range []struct{ name, text, want string }{
		{"no server name", strings.Replace(clusterFile, "server_name=n1-c1", "", 1), "n.conf:7:1: server_name is missing" + why},
		{"no cluster name", strings.Replace(clusterFile, "  name: C1\n", "", 1), "n.conf:7:1: cluster: name is missing" + why},
		{"no port", "cluster { name: C1 }", `n.conf:1:1: cluster: needs a listen address or a port for routes`},
		{"not a block", "cluster: C1", `n.conf:1:1: cluster: want a block { … }, got "C1"`},
		{"unknown", "cluster { port: 1, route: [] }", `n.conf:1:20: unknown key "cluster.route" (did you mean "routes"?)`},
		{"not supported", "cluster { port: 1\n permissions {}\n accounts: [A]\n write_timeout: close }",
			`n.conf:2:2: "cluster.permissions" is not supported by this version
n.conf:3:2: "cluster.accounts" is not supported by this version
n.conf:4:2: "cluster.write_timeout" is not supported by this version`},
		{"pool", "cluster { port: 1, pool_size: 3 }", `n.conf:1:20: cluster.pool_size: more than 1 is not supported by this version: ` +
			`there is one connection with every peer, also with those that have a pool`},
		{"compression", "cluster { port: 1, compression: s2_auto }",
			`n.conf:1:20: cluster.compression: "s2_auto" is not supported by this version: choose a level, such as s2_fast`},
		{"compression word", "cluster { port: 1, compression: zip }",
			`n.conf:1:20: cluster.compression: want off, accept, s2_fast, s2_better, s2_best or s2_uncompressed, got "zip"`},
		{"compression block", "cluster { port: 1, compression { mode: off } }",
			`n.conf:1:20: cluster.compression: a block is not supported by this version: choose a level, such as s2_fast`},
		{"routes", "cluster { port: 1, routes: [\"nats://u:secret@h\", \"ftp://h:1\", 3, \"nats://h:1\", \"nats://h:1\", \":\"] }",
			`n.conf:1:30: cluster.routes[0]: want a URL with host and port, such as nats://host:6222, got "nats://u:xxxxx@h"
n.conf:1:51: cluster.routes[1]: want a URL such as nats://host:6222, got scheme "ftp"
n.conf:1:63: cluster.routes[2]: want a URL such as nats://host:6222, got 3
n.conf:1:81: cluster.routes[4]: route "nats://h:1" is given twice
n.conf:1:95: cluster.routes[5]: want a URL such as nats://host:6222`},
		{"routes not a list", "cluster { port: 1, routes: \"nats://h:1\" }", `n.conf:1:20: cluster.routes: want a list of URLs [ nats://host:6222, … ]`},
		{"listen and port", "cluster { listen: 1, port: 2 }", `n.conf:1:22: cluster.port: contradicts "cluster.listen" at n.conf:1:11`},
		{"port 0", "cluster { port: 0 }", `n.conf:1:11: cluster.port: want a port from 1 to 65535, got 0`},
		{"name", "cluster { port: 1, name: \"a b\" }", `n.conf:1:20: cluster.name: want a name without spaces, dots and wildcards, got "a b"`},
		{"half authorization", "cluster { port: 1, authorization { user: u } }", `n.conf:1:20: cluster.authorization: needs both a user and a pass, or neither`},
		{"users", "cluster { port: 1, authorization { users: [] } }", `n.conf:1:36: "cluster.authorization.users" is not supported by this version`},
		{"advertise", "cluster { port: 1, advertise: \"a:b:c\" }", `n.conf:1:20: cluster.advertise: want "host" or "host:port", got "a:b:c"`},
		{"tls missing file", "cluster { port: 1\n tls { cert_file: /no/c.pem, key_file: /no/k.pem } }",
			`n.conf:2:2: cluster.tls: load certificate "/no/c.pem" with key "/no/k.pem": open /no/c.pem: no such file or directory`},
	} {
		t.Run(tt.name, func(t *testing.T) {
			_, err := load(t, tt.text)
			if err == nil {
				t.Fatalf("no error, want\n%s", tt.want)
			}
			if err.Error() != tt.want {
				t.Errorf("got\n%s\nwant\n%s", err, tt.want)
			}
		})
	}
}
