package sdk

import "unsafe"

func bytesOf(b []byte) (unsafe.Pointer, uint32) {
	return unsafe.Pointer(unsafe.SliceData(b)), uint32(len(b))
}

//go:wasmimport cpi1 publish
func hostPublish(msg int32, subject string, header unsafe.Pointer, headerLen uint32, data unsafe.Pointer, dataLen uint32) int32

//go:wasmimport cpi1 settle
func hostSettle(msg, kind int32, delay int64, reason string) int32

//go:wasmimport cpi1 kv_get
func hostKVGet(bucket, key string, out unsafe.Pointer, capacity uint32, meta *[2]uint64) int32

//go:wasmimport cpi1 kv_put
func hostKVPut(msg int32, bucket, key string, value unsafe.Pointer, valueLen uint32, revision int64) int32

//go:wasmimport cpi1 kv_delete
func hostKVDelete(msg int32, bucket, key string, revision int64) int32

//go:wasmimport cpi1 log
func hostLog(level int32, text string)

//go:wasmimport cpi1 now
func hostNow() int64

//go:wasmimport cpi1 config
func hostConfig(out unsafe.Pointer, capacity uint32) int32

//go:wasmimport cpi1 metric
func hostMetric(name string, kind int32, value int64) int32

//go:wasmimport cpi1 random
func hostRandom(out unsafe.Pointer, length uint32) int32

// inbox is where the host writes messages; a slice of words, so that it is aligned.
var inbox []uint64

//go:wasmexport cpi_abi_1
func exportMarker() {}

//go:wasmexport cpi_init
func exportInit() int32 { return start() }

//go:wasmexport cpi_buf
func exportBuf(least uint32) unsafe.Pointer {
	inbox = make([]uint64, max((int(least)+7)/8, 8192))
	return unsafe.Pointer(unsafe.SliceData(inbox))
}

//go:wasmexport cpi_on_batch
func exportBatch(_ unsafe.Pointer, length, count uint32) int32 {
	return batch(unsafe.Slice((*byte)(unsafe.Pointer(unsafe.SliceData(inbox))), length), int(count))
}

//go:wasmexport cpi_on_tick
func exportTick(now int64) int32 { return tick(now) }
