package tidy

// Project is the shape of this repository. A change of it is a commit of its own, with the reason.
var Project = Rules{
	Layers: []Layer{
		// Pure: protocol, subjects, state machines.
		{Folder: "appliance/server/wire"},
		{Folder: "appliance/server/subject"},
		{Folder: "appliance/server/jetstream/api", Ours: []string{"appliance/server/subject"}},
		{Folder: "appliance/server/formation"},
		{Folder: "appliance/server/jetstream/meta", Ours: pureOfJetStream, Others: indexes},
		{Folder: "appliance/server/jetstream/stream", Ours: streamMachine, Others: indexes},
		{Folder: "appliance/server/jetstream/consumer", Ours: pureOfJetStream, Others: indexes},
		{Folder: "appliance/server/jetstream/membership"},

		// The server. Broker, streams, raft, storage and plugins meet only in appliance/node: each
		// declares the small interfaces that it calls.
		{
			Folder: "appliance/server/jetstream/delivery",
			Ours:   append([]string{"appliance/server/jetstream/consumer"}, pureOfJetStream...),
			Others: indexes,
		},
		{
			Folder: "appliance/server/jetstream",
			Ours:   []string{"appliance/server/wire", "appliance/server/subject", "storage/index"},
			Others: append([]string{"github.com/nats-io/nuid"}, indexes...),
		},
		{
			Folder: "appliance/server/broker",
			Ours:   []string{"appliance/server/wire", "appliance/server/subject"},
			Others: []string{"github.com/klauspost/compress/s2", "github.com/nats-io/nkeys", "github.com/nats-io/nuid", "github.com/nats-io/jwt/v2", "golang.org/x/crypto/bcrypt"},
		},
		{Folder: "appliance/server/monitor"},
		{
			Folder: "appliance/server/servertest",
			Ours:   []string{"appliance/node", "appliance/server", "raft", "storage", "plugins"},
			Others: []string{"github.com/nats-io/nats.go"},
		},
		{
			Folder: "appliance/node",
			Ours:   []string{"appliance/boxapi", "appliance/boxlink", "appliance/server", "raft", "storage", "plugins"},
			Others: []string{
				"github.com/nats-io/nats-server/v2/conf", "github.com/nats-io/nkeys", "github.com/nats-io/nuid",
				"golang.org/x/crypto/bcrypt",
			},
		},
		{Folder: "appliance/cmd/millraced", Ours: []string{"=appliance/node"}},

		// What the two programs of a box, and its operator, say to one another.
		{Folder: "appliance/boxapi"},
		{Folder: "appliance/boxlink"},

		// The box.
		{Folder: "appliance/cmd/uinit", Ours: []string{"appliance/system"}, Others: boxLibraries},
		{
			Folder: "appliance/system",
			Ours:   []string{"appliance/boxapi", "appliance/boxlink", "image/layout", "image/signature", "storage/vfs"},
			Others: append([]string{"github.com/beevik/ntp", "github.com/nats-io/nkeys"}, boxLibraries...),
		},

		// Storage and consensus.
		{Folder: "storage/vfs", Others: []string{"golang.org/x/sys/unix"}},
		{Folder: "storage/catalog", Ours: []string{"=storage", "storage/vfs"}, Others: []string{"go.etcd.io/bbolt"}},
		{Folder: "storage/index", Ours: []string{"=storage", "storage/vfs"}, Others: indexes},
		{Folder: "storage/journal", Ours: []string{"=storage", "storage/vfs"}, Others: []string{"golang.org/x/crypto/xts"}},
		{Folder: "storage", Ours: []string{"=storage"}},
		{
			Folder: "raft/core",
			Others: []string{"go.etcd.io/raft/v3", "go.etcd.io/etcd/raft/v3", "google.golang.org/protobuf"},
		},
		{Folder: "raft/transport", Ours: []string{"=raft"}},
		{Folder: "raft", Ours: []string{"=raft"}},
		{
			Folder: "raft/rafttest/sim", // whole nodes for tests: the real host over the real journal
			Ours:   []string{"=raft", "raft/core", "=appliance/node/logstore", "storage/journal", "storage/vfs", "storage/storagetest"},
			Others: []string{"github.com/anishathalye/porcupine"},
		},

		// Plugins. What a plugin may use is granted by subject filters, so the pure rules of
		// subjects are used here too.
		{Folder: "plugins/abi"},
		{Folder: "plugins/meter", Ours: []string{"plugins/abi"}},
		{Folder: "plugins/sdk", Ours: []string{"plugins/abi"}},
		{Folder: "plugins/examples", Ours: []string{"plugins/abi", "plugins/sdk"}},
		{Folder: "plugins/service", Ours: []string{"=plugins", "plugins/abi", "appliance/server/subject"}},
		{
			Folder: "plugins/service/servicetest",
			Ours:   []string{"=plugins", "=plugins/service", "plugins/abi", "appliance/server/subject"},
			Others: []string{"github.com/nats-io/nats.go", "github.com/nats-io/nats-server/v2/server"},
		},
		{Folder: "plugins", Ours: []string{"appliance/server/subject"}, Others: []string{"github.com/tetratelabs/wazero", "golang.org/x/sys/unix"}},

		// Images and tools.
		{Folder: "board"},
		{Folder: "image/flash", Ours: []string{"image/layout"}, Others: []string{"golang.org/x/sys/unix"}},
		{Folder: "image/layout"},
		{Folder: "image/signature"},
		{
			Folder: "image", Ours: []string{"board"},
			Others: []string{
				"github.com/diskfs/go-diskfs", "github.com/klauspost/compress", "github.com/u-root", "github.com/ulikunitz/xz",
			},
		},
		{
			// Flashing checks a node's configuration with the parsers of the box and of millraced.
			Folder: "tools/millrace", Ours: []string{"appliance/boxapi", "=appliance/node", "=appliance/system/boot", "board", "image", "plugins", "=tools/qemu"},
			Others: []string{"github.com/nats-io/nats.go", "github.com/nats-io/nkeys", "github.com/klauspost/compress"},
		},
		{Folder: "tools/mkimage", Ours: []string{"board", "image"}, Others: []string{"github.com/klauspost/compress"}},
		{
			Folder: "tools", Ours: []string{"board", "image", "plugins"},
			Others: []string{"github.com/nats-io/nats.go", "github.com/nats-io/nkeys"},
		},
		{
			Folder: "tools/cluster", // processes, network namespaces and small disks for tests and benchmarks
			Others: []string{"github.com/nats-io/nats.go", "github.com/vishvananda/netlink", "golang.org/x/sys/unix"},
		},
		{
			Folder: "tools/cluster/workload",
			Others: []string{"github.com/nats-io/nats.go", "github.com/anishathalye/porcupine"},
		},
		{
			Folder: "tools/e2e", Ours: []string{"appliance", "board", "image", "plugins", "raft", "storage", "tools"},
			Others: []string{"github.com/nats-io/nats.go", "github.com/rogpeppe/go-internal/testscript"},
		},
		{Folder: "tools/tidy"},
	},

	Pure: []string{
		"appliance/server/wire", "appliance/server/subject", "appliance/server/formation", "appliance/server/jetstream/api",
		"appliance/server/jetstream/meta", "appliance/server/jetstream/stream",
		"appliance/server/jetstream/consumer", "appliance/server/jetstream/membership", "board", "image/layout", "plugins/abi",
	},

	Exceptions: []Exception{
		{"plugins/host.go", "panic", hostPanic},
		{"plugins/instance.go", "panic", hostPanic},
		{"plugins/wasi.go", "panic", hostPanic},
		{"appliance/node/node.go", "go", "a start or an end that hangs is not waited for: the process ends"},
		{"raft/core/logger.go", "panic", "etcd's Logger interface demands that Panic and Fatal do not return"},
	},
}

var (
	pureOfJetStream = []string{"appliance/server/jetstream/api", "appliance/server/subject", "appliance/server/wire"}

	// The machine of a stream keeps its messages in the index, which is handed where its blocks go.
	streamMachine = append([]string{"storage/index"}, pureOfJetStream...)

	hostPanic = "a host function ends the run of its guest by a panic, which wazero turns into an error"

	// indexes are the data structures that nats-server publishes as packages of their own.
	indexes = []string{
		"github.com/nats-io/nats-server/v2/server/avl", "github.com/nats-io/nats-server/v2/server/gsl",
		"github.com/nats-io/nats-server/v2/server/stree", "github.com/nats-io/nats-server/v2/server/thw",
	}

	boxLibraries = []string{
		"github.com/u-root/u-root", "github.com/vishvananda/netlink", "github.com/insomniacslk/dhcp", "golang.org/x/sys/unix",
	}
)
