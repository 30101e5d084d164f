package image

import (
	"bytes"
	"encoding/json"
	"os/exec"
	"path/filepath"
	"strings"
	"testing"
)

func TestManifest(t *testing.T) {
	program := filepath.Join(t.TempDir(), "program") // a test binary has no record of its modules
	if out, err := exec.Command("go", "build", "-o", program, "millrace/tools/mkimage").CombinedOutput(); err != nil {
		t.Fatalf("go build: %v\n%s", err, out)
	}
	programs, err := programComponents(map[string]string{"bin/test": program}, "1.0")
	if err != nil {
		t.Fatal(err)
	}
	parts := append(debComponents([]Package{{Asked: "k", Name: "linux", Version: "1:6.1+b2", Arch: "amd64", SHA256: testSum}}),
		partComponent("initramfs", "1.0", []byte("content")))
	list := append(parts, programs...)
	b, err := manifest("test", "1.0", list)
	if err != nil {
		t.Fatal(err)
	}
	again, err := manifest("test", "1.0", list)
	if err != nil || !bytes.Equal(b, again) {
		t.Errorf("two manifests of equal components differ (error %v)", err)
	}

	var doc spdxDocument
	if err := json.Unmarshal(b, &doc); err != nil {
		t.Fatal(err)
	}
	found := make(map[string]spdxPackage)
	ids := map[string]bool{doc.ID: true}
	for _, p := range doc.Packages {
		if ids[p.ID] {
			t.Errorf("two elements are called %s", p.ID)
		}
		ids[p.ID] = true
		found[p.Name] = p
	}
	for _, r := range doc.Relationships {
		if !ids[r.Element] || !ids[r.Related] {
			t.Errorf("relationship %+v names what is not there", r)
		}
	}
	if len(doc.Relationships) != len(doc.Packages) {
		t.Errorf("%d components, %d relationships: each is in one thing", len(doc.Packages), len(doc.Relationships))
	}
	if p := found["linux"]; p.Version != "1:6.1+b2" || p.Checksums[0].Value != testSum ||
		p.References[0].Locator != "pkg:deb/debian/linux@1:6.1+b2?arch=amd64" {
		t.Errorf("package %+v", p)
	}
	if p := found["initramfs"]; p.Checksums[0].Value != contentSum {
		t.Errorf("part %+v", p)
	}
	if p := found["/bin/test"]; len(p.Checksums) != 1 || len(p.Checksums[0].Value) != 64 {
		t.Errorf("program %+v", p)
	}
	if p := found["github.com/diskfs/go-diskfs"]; p.Version == "" || !strings.HasPrefix(p.SourceInfo, "go.sum h1:") {
		t.Errorf("module %+v", p)
	}
	if p := found["go"]; p.Version == "" {
		t.Errorf("toolchain %+v", p)
	}
}
