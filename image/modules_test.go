package image

import (
	"maps"
	"reflect"
	"slices"
	"strings"
	"testing"
)

func TestParseModinfo(t *testing.T) {
	got := parseModinfo([]byte("license=GPL\x00alias=virtio:d00000001v*\x00\x00alias=net-x\x00depends=net_failover,virtio-ring\x00depends=\x00parm=napi:bool\x00"))
	want := module{depends: []string{"net_failover", "virtio_ring"}, aliases: []string{"virtio:d00000001v*", "net-x"}}
	if !reflect.DeepEqual(got, want) {
		t.Errorf("got %+v, want %+v", got, want)
	}
}

func testModules() modules {
	return modules{
		"virtio":      {path: "virtio/virtio.ko"},
		"virtio_ring": {path: "virtio/virtio-ring.ko", depends: []string{"virtio"}},
		"virtio_net":  {path: "net/virtio_net.ko", depends: []string{"virtio", "virtio_ring", "crc32c"}, aliases: []string{"virtio:d1v*"}},
		"unused":      {path: "net/unused.ko"},
		"broken":      {path: "net/broken.ko", depends: []string{"nowhere"}},
	}
}

func TestModulesClosure(t *testing.T) {
	builtin := builtinModules([]byte("kernel/crypto/crc32c.ko\nkernel/fs/ext4/ext4.ko\n"))
	got, err := testModules().closure([]string{"virtio-net", "ext4"}, builtin)
	if err != nil {
		t.Fatal(err)
	}
	if names := slices.Sorted(maps.Keys(got)); !slices.Equal(names, []string{"virtio", "virtio_net", "virtio_ring"}) {
		t.Errorf("chosen %v", names)
	}
	wantDep := "virtio/virtio.ko:\nnet/virtio_net.ko: virtio/virtio.ko virtio/virtio-ring.ko\nvirtio/virtio-ring.ko: virtio/virtio.ko\n"
	if dep := string(got.depFile()); dep != wantDep {
		t.Errorf("modules.dep:\n%s\nwant:\n%s", dep, wantDep)
	}
	if alias := string(got.aliasFile()); alias != "alias virtio:d1v* virtio_net\n" {
		t.Errorf("modules.alias: %q", alias)
	}
	for _, wanted := range []string{"missing", "broken"} {
		if _, err := testModules().closure([]string{wanted}, builtin); err == nil {
			t.Errorf("module %s: no error", wanted)
		}
	}
}

func TestTreeRead(t *testing.T) {
	files := tree{
		"lib/libc.so":   {data: []byte("libc")},
		"lib/libc.so.6": {target: "libc.so"},
		"lib64/ld.so":   {target: "/lib/libc.so.6"},
		"lib/up":        {target: "../lib64/ld.so"},
		"a":             {target: "b"},
		"b":             {target: "a"},
		"c":             {target: "nowhere"},
	}
	for _, name := range []string{"lib/libc.so", "lib/libc.so.6", "lib64/ld.so", "lib/up"} {
		if b, err := files.read(name); err != nil || string(b) != "libc" {
			t.Errorf("%s: got %q, error %v", name, b, err)
		}
	}
	for _, name := range []string{"a", "c", "d"} {
		if _, err := files.read(name); err == nil || !strings.Contains(err.Error(), "file "+name) {
			t.Errorf("%s: got error %v", name, err)
		}
	}
}
