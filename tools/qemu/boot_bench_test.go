//go:build qemu

package qemu

import (
	"os"
	"path/filepath"
	"slices"
	"testing"
	"time"

	"github.com/nats-io/nats.go"

	"millrace/board"
	"millrace/image"
	"millrace/tools/qemu/vm"
)

// BenchmarkBoot measures from the start of the emulator to the first acknowledged publish to a stream, on an
// empty data disk. Each run is one boot, so it wants -benchtime 5x or so. MILLRACE_IMAGE and MILLRACE_BOARD
// name what is booted. On a busy machine only the processor time of the emulator can be compared.
func BenchmarkBoot(b *testing.B) {
	img := os.Getenv("MILLRACE_IMAGE")
	if img == "" {
		img = filepath.Join("..", "..", ".build", "millrace.img")
	}
	name := os.Getenv("MILLRACE_BOARD")
	if name == "" {
		name = "qemu-amd64"
	}
	machine, ok := board.ByName(name)
	if !ok {
		b.Fatalf("no board %q", name)
	}
	for _, how := range []struct {
		name   string
		direct bool
	}{{"direct", true}, {"firmware", false}} {
		b.Run(how.name, func(b *testing.B) {
			var took, worked []time.Duration
			for b.Loop() {
				wall, cpu := firstAck(b, vm.Config{
					Board: machine, Image: img, Direct: how.direct, CPUs: 2, Forwards: []vm.Forward{{Guest: natsPort}},
					DataDisk: filepath.Join(b.TempDir(), "data.img"), DataBytes: 2 << 30,
				})
				took, worked = append(took, wall), append(worked, cpu)
			}
			slices.Sort(took)
			slices.Sort(worked)
			b.ReportMetric(worked[len(worked)/2].Seconds(), "cpu-s-median")
			b.ReportMetric(took[len(took)/2].Seconds(), "s-median")
			b.ReportMetric(took[len(took)-1].Seconds(), "s-max")
			b.ReportMetric(0, "ns/op")
			for unit, file := range map[string]string{"MB-initramfs": image.Outputs(img).Initramfs, "MB-version": image.Outputs(img).UKI} {
				st, err := os.Stat(file)
				if err != nil {
					b.Fatal(err)
				}
				b.ReportMetric(float64(st.Size())/1e6, unit)
			}
		})
	}
}

// firstAck boots a machine and returns how long it took until a publish was acknowledged, and how long the emulator
// worked for that.
func firstAck(b *testing.B, c vm.Config) (wall, cpu time.Duration) {
	b.Helper()
	began := time.Now()
	v, err := vm.Boot(b.Context(), c)
	if err != nil {
		b.Fatal(err)
	}
	defer v.Kill()
	conn, err := nats.Connect("nats://"+v.Addr(natsPort), nats.Timeout(30*time.Second))
	if err != nil {
		b.Fatal(err)
	}
	defer conn.Close()
	js, err := conn.JetStream(nats.MaxWait(30 * time.Second))
	if err != nil {
		b.Fatal(err)
	}
	if _, err := js.AddStream(&nats.StreamConfig{Name: "S", Subjects: []string{"s"}}); err != nil {
		b.Fatal(err)
	}
	if _, err := js.Publish("s", []byte("first")); err != nil {
		b.Fatal(err)
	}
	wall = time.Since(began)
	v.Kill()
	return wall, v.CPUTime()
}
