package image

import (
	"reflect"
	"strings"
	"testing"
)

const testSum = "e7d02b943971edcb8790e256c02cfab3bca6c3d37c1bf25392a57c71300615ee"

func TestLockRoundTrip(t *testing.T) {
	want := []Package{
		{"linux-image-cloud-amd64", "linux-image-6.1.0-56-cloud-amd64", "6.1.192-2", "amd64", testSum},
		{"libx", "libx", "1:2.0+b1~deb12u2", "all", strings.Repeat("0", 64)},
	}
	got, err := ParseLock("x.lock", strings.NewReader(string(FormatLock("qemu-amd64", want))))
	if err != nil {
		t.Fatal(err)
	}
	if !reflect.DeepEqual(got, want) {
		t.Errorf("got %v, want %v", got, want)
	}
	if name := got[1].fileName(); name != "libx_1%3a2.0+b1~deb12u2_all.deb" {
		t.Errorf("file name %q", name)
	}
}

func TestParseLockErrors(t *testing.T) {
	for _, tt := range []struct{ text, want string }{
		{"# c\na a 1 amd64\n", "x.lock:2: 4 fields"},
		{"a a 1 amd64 123\n", "x.lock:1: sha256 of a"},
		{"a ../a 1 amd64 " + testSum, "x.lock:1: slash"},
		{"a a 1 amd64 " + testSum + "\n\na b 2 amd64 " + testSum, "x.lock:3: a is already pinned in line 1"},
	} {
		_, err := ParseLock("x.lock", strings.NewReader(tt.text))
		if err == nil || !strings.HasPrefix(err.Error(), tt.want) {
			t.Errorf("%q: got error %v, want %s…", tt.text, err, tt.want)
		}
	}
}

func TestParseStanza(t *testing.T) {
	s := parseStanza("\nPackage: meta\nVersion: 6.1\nDescription: one\n two\n .\nDepends: foo, linux-image-6.1.0-9-amd64 (= 6.1), bar\n\nPackage: other\n")
	if s["Package"] != "meta" || s["Version"] != "6.1" || s["Description"] != "one\ntwo\n." {
		t.Errorf("got %q", s)
	}
	name, err := kernelOf(s)
	if err != nil || name != "linux-image-6.1.0-9-amd64" {
		t.Errorf("kernel %q, error %v", name, err)
	}
	if _, err := kernelOf(stanza{"Package": "x", "Depends": "linux-base"}); err == nil {
		t.Error("a package without kernel was taken")
	}
}
