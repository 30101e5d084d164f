// Package service is the plugin side of one account: the registry of modules, the bindings of plugins
// to consumers, and the API $MILLRACE.API.PLUGIN. It knows no stream engine: it works on the
// interfaces of space.go, which node implements on the engine and tests implement in memory and over
// a client connection.
//
// A binding is part of its consumer: it is written in the metadata of a durable pull consumer, so it
// lives, moves and dies with it. Modules lie in the account's object store bucket MILLRACE_PLUGINS
// under their sha256, and the names and versions of plugins in the KV bucket MILLRACE_PLUGINS_REG.
//
// Reading order: space.go (what it needs), service.go (the loop that owns everything), api.go,
// push.go and bind.go (the requests), spec.go (bindings as metadata), binding.go and commit.go (the
// runner of one binding).
package service
