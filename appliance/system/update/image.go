package update

import (
	"bytes"
	"debug/pe"
	"fmt"
	"runtime"
	"strings"

	"millrace/image/layout"
)

// machines are the PE machine types of the architectures we run on.
var machines = map[string]uint16{
	"amd64": pe.IMAGE_FILE_MACHINE_AMD64,
	"arm64": pe.IMAGE_FILE_MACHINE_ARM64,
}

// Image is what an image says of itself.
type Image struct {
	Version string
	Board   string // what machines it is for (os-release's VARIANT_ID); empty: it does not say
}

// Inspect checks that data is a whole unified kernel image of ours for this architecture. A loader that cannot load an image goes to the firmware and no further, so nothing else
// may get a name that the loader knows. It says nothing of who made the image.
func Inspect(data []byte) (Image, error) {
	f, err := pe.NewFile(bytes.NewReader(data))
	if err != nil {
		return Image{}, fmt.Errorf("not an EFI program: %w", err)
	}
	defer f.Close()
	if want := machines[runtime.GOARCH]; f.Machine != want {
		return Image{}, fmt.Errorf("an EFI program for machine %#x, this is %#x", f.Machine, want)
	}
	sections := map[string][]byte{}
	for _, s := range f.Sections {
		if end := uint64(s.Offset) + uint64(s.Size); end > uint64(len(data)) {
			return Image{}, fmt.Errorf("cut short: section %s ends at byte %d of %d", s.Name, end, len(data))
		}
		b := data[s.Offset:][:s.Size]
		sections[s.Name] = b[:min(len(b), int(s.VirtualSize))]
	}
	for _, name := range []string{".osrel", ".cmdline", ".linux", ".initrd"} {
		if len(sections[name]) == 0 {
			return Image{}, fmt.Errorf("no Millrace image: section %s is missing or empty", name)
		}
	}
	values := map[string]string{}
	for line := range strings.Lines(string(sections[".osrel"])) {
		if k, v, ok := strings.Cut(strings.TrimSpace(line), "="); ok {
			values[k] = strings.Trim(v, `"`)
		}
	}
	if values["ID"] != "millrace" {
		return Image{}, fmt.Errorf("an image of %q, not of millrace", values["ID"])
	}
	i := Image{Version: values["VERSION_ID"], Board: values["VARIANT_ID"]}
	if !layout.ValidVersion(i.Version) {
		return Image{}, fmt.Errorf("image version %q: want letters, digits, dots, tildes and dashes", i.Version)
	}
	return i, nil
}
