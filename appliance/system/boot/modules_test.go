package boot

import (
	"slices"
	"testing"
)

func TestModulesFor(t *testing.T) {
	aliases := parseAliases(`# comment
alias pci:v00001AF4d*sv*sd*bc*sc*i* virtio_pci
alias virtio:d00000001v* virtio_net
alias virtio:d00000001v* virtio_net
alias virtio:d00000002v* virtio_blk
alias virtio:d0000000[0-3]v* probe_all
alias broken:[ broken
alias acpi*:LNXPWRBN:* button
`)
	for _, tt := range []struct {
		modalias string
		want     []string
	}{
		{"pci:v00001AF4d00001041sv00001AF4sd00001100bc02sc00i00", []string{"virtio_pci"}},
		{"virtio:d00000001v00001AF4", []string{"virtio_net", "probe_all"}},
		{"virtio:d00000004v00001AF4", nil},
		{"acpi:LNXPWRBN:", []string{"button"}},
		{"broken:[", nil},
		{"", nil},
	} {
		if got := modulesFor(aliases, tt.modalias); !slices.Equal(got, tt.want) {
			t.Errorf("modulesFor(%q) = %v, want %v", tt.modalias, got, tt.want)
		}
	}
}
