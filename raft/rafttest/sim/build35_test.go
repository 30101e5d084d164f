//go:build etcdraft35

package sim

const deterministic = false
