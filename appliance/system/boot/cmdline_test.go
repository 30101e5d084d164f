package boot

import (
	"fmt"
	"maps"
	"testing"
)

func TestParseCmdline(t *testing.T) {
	for _, tt := range []struct {
		text string
		want Cmdline
	}{
		{"", Cmdline{}},
		{"console=ttyS0 panic=5 quiet\n", Cmdline{}},
		{"quiet millrace.disk=vdb panic=5", Cmdline{"disk": "vdb"}},
		{"millrace.disk=vda millrace.disk=vdb", Cmdline{"disk": "vdb"}},
		{`millrace.hostname="two words" x`, Cmdline{"hostname": "two words"}},
		{`"millrace.hostname=two words"`, Cmdline{"hostname": "two words"}},
		{"millrace.flag xmillrace.no=1", Cmdline{"flag": ""}},
		{"millrace.a=b=c", Cmdline{"a": "b=c"}},
	} {
		if got := ParseCmdline(tt.text); !maps.Equal(got, tt.want) {
			t.Errorf("ParseCmdline(%q) = %v, want %v", tt.text, got, tt.want)
		}
	}
}

func TestCmdlineApply(t *testing.T) {
	var s Settings
	if err := (Cmdline{"disk": "/dev/vdb", "hostname": "box-1"}).apply(&s); err != nil {
		t.Fatal(err)
	}
	if fmt.Sprint(s.Disks) != "[vdb]" || s.Network.Hostname != "box-1" {
		t.Errorf("got disk %q, hostname %q", s.Disks, s.Network.Hostname)
	}
	for _, bad := range []Cmdline{{"hostname": "-x"}, {"dsik": "vdb"}} {
		if err := bad.apply(&s); err == nil {
			t.Errorf("%v was taken without an error", bad)
		}
	}
}

func TestOSReleaseValue(t *testing.T) {
	const text = "ID=millrace\nPRETTY_NAME=\"Millrace 1.2.3\"\nVERSION_ID=1.2.3\n"
	for key, want := range map[string]string{"VERSION_ID": "1.2.3", "PRETTY_NAME": "Millrace 1.2.3", "NAME": ""} {
		if got := osReleaseValue(text, key); got != want {
			t.Errorf("%s = %q, want %q", key, got, want)
		}
	}
}
