//go:build !wasip1

package sdk

import (
	"time"

	"millrace/plugins/abi"
)

// Outside of a host, so that a plugin's own functions can be tested with `go test`, the imports
// answer that they are unsupported.

func bytesOf(b []byte) ([]byte, uint32) { return b, uint32(len(b)) }

func hostPublish(int32, string, []byte, uint32, []byte, uint32) int32 { return int32(abi.Unsupported) }

func hostSettle(int32, int32, int64, string) int32 { return int32(abi.Unsupported) }

func hostKVGet(string, string, []byte, uint32, *[2]uint64) int32 { return int32(abi.Unsupported) }

func hostKVPut(int32, string, string, []byte, uint32, int64) int32 { return int32(abi.Unsupported) }

func hostKVDelete(int32, string, string, int64) int32 { return int32(abi.Unsupported) }

func hostLog(int32, string) {}

func hostNow() int64 { return time.Now().UnixNano() }

func hostConfig([]byte, uint32) int32 { return 0 }

func hostMetric(string, int32, int64) int32 { return int32(abi.Unsupported) }

func hostRandom([]byte, uint32) int32 { return int32(abi.Unsupported) }
