package plugins

import (
	"time"

	"millrace/plugins/abi"
	"millrace/plugins/meter"
)

// FuelPerSecond is the fuel that counts as a second of CPU. One instruction of a guest is one unit of
// fuel, so that budgets do not depend on the load of the machine.
const FuelPerSecond = 4_000_000_000

// slice is the fuel after which a guest comes back to the host: half a millisecond of CPU.
const slice = FuelPerSecond / 2000

func fuelOf(d time.Duration) int64 { return int64(d) * (FuelPerSecond / int64(time.Second)) }

func cpuOf(fuel int64) time.Duration {
	return time.Duration(fuel / (FuelPerSecond / int64(time.Second)))
}

const (
	pageBytes = 64 << 10

	// MaxMemoryBytes is the most that Limits.MemoryBytes may allow one instance.
	MaxMemoryBytes = 256 << 20

	// MaxModuleBytes is the size over which a module is refused.
	MaxModuleBytes = 16 << 20

	maxDepth = 8192 // nested calls
)

func moduleLimits() meter.Limits {
	return meter.Limits{
		Bytes: MaxModuleBytes, Functions: 50_000, Locals: 1_000_000, Tables: 8, Table: 64 << 10,
		Globals: 10_000, Entries: 10_000, Segments: 100_000, Elements: 1 << 20, Memory: MaxMemoryBytes / pageBytes,
	}
}

// Limits bound one instance. Zero fields take the default.
type Limits struct {
	MemoryBytes int64         // linear memory; default 16 MiB, at most MaxMemoryBytes
	MessageCPU  time.Duration // for a message that runs alone; default 100 ms
	BatchCPU    time.Duration // for a batch; default 1 s, and never more than MessageCPU a message
	InitCPU     time.Duration // for start, _initialize and cpi_init together; default 2 s
	Wall        time.Duration // real time of any run, a backstop; default 3 s

	Publications     int // of one batch; default 1000
	PublicationBytes int // of one batch, subjects and headers included; default 8 MiB
	PayloadBytes     int // of one publication, header included; default 1 MiB
	Writes           int // KV writes of one batch; default 1000
	Metrics          int // names of one instance; default 64
	LogBytes         int // of one log line, the rest is cut off; default 1 KiB
}

func orDefault[T int | int64 | time.Duration](v *T, def T) {
	if *v <= 0 {
		*v = def
	}
}

func (l Limits) withDefaults() Limits {
	orDefault(&l.MemoryBytes, 16<<20)
	l.MemoryBytes = min(l.MemoryBytes, MaxMemoryBytes)
	orDefault(&l.MessageCPU, 100*time.Millisecond)
	orDefault(&l.BatchCPU, time.Second)
	orDefault(&l.InitCPU, 2*time.Second)
	orDefault(&l.Wall, 3*time.Second)
	orDefault(&l.Publications, 1000)
	orDefault(&l.PublicationBytes, 8<<20)
	orDefault(&l.PayloadBytes, 1<<20)
	orDefault(&l.Writes, 1000)
	orDefault(&l.Metrics, 64)
	orDefault(&l.LogBytes, 1<<10)
	return l
}

// required are the exports that a CPI 1 module must have, optional those that it may have.
func required() []meter.Export {
	return []meter.Export{
		{Name: abi.ExportMarker, Type: meter.FuncType{}},
		{Name: abi.ExportBuf, Type: meter.FuncType{Params: "\x7f", Results: "\x7f"}},
		{Name: abi.ExportOnBatch, Type: meter.FuncType{Params: "\x7f\x7f\x7f", Results: "\x7f"}},
	}
}

func optional() []meter.Export {
	return []meter.Export{
		{Name: abi.ExportInitialize, Type: meter.FuncType{}},
		{Name: abi.ExportInit, Type: meter.FuncType{Results: "\x7f"}},
		{Name: abi.ExportOnTick, Type: meter.FuncType{Params: "\x7e", Results: "\x7f"}},
	}
}
