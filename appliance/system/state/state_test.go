package state

import (
	"os"
	"path/filepath"
	"reflect"
	"strings"
	"testing"
	"time"
)

var testTime = time.Date(2026, 11, 28, 3, 0, 0, 0, time.UTC)

func open(t *testing.T) *Store {
	t.Helper()
	s, err := Open(t.TempDir())
	if err != nil {
		t.Fatal(err)
	}
	return s
}

func TestStoreIdentityIsMadeOnce(t *testing.T) {
	s := open(t)
	first, made, err := s.Identity("", testTime)
	if err != nil || !made {
		t.Fatalf("made %v, %v", made, err)
	}
	if !strings.HasPrefix(first.Name, "millrace-") || len(first.Name) != len("millrace-")+8 || first.Name != strings.ToLower(first.Name) {
		t.Errorf("name %q", first.Name)
	}
	again, made, err := s.Identity("other", testTime.Add(time.Hour))
	if err != nil || made || again != first {
		t.Errorf("second time: made %v, %+v, %v; want %+v", made, again, err, first)
	}
	other, _, err := open(t).Identity("box-1", testTime)
	if err != nil || other.Name != "box-1" || other.Seed == first.Seed {
		t.Errorf("another box: %+v, %v", other, err)
	}
	if key, err := first.Key(); err != nil || !strings.HasPrefix(key, "N") {
		t.Errorf("public key %q, %v", key, err)
	}
	if fi, err := os.Stat(filepath.Join(s.dir, identityFile)); err != nil || fi.Mode().Perm() != 0o600 {
		t.Errorf("the secret has mode %v, %v", fi.Mode(), err)
	}
}

// What is there but cannot be read is never replaced: the box would become another one.
func TestStoreDamagedFilesAreErrors(t *testing.T) {
	for name, read := range map[string]func(*Store) error{
		identityFile: func(s *Store) error { _, _, err := s.Identity("x", testTime); return err },
		bindingFile:  func(s *Store) error { _, _, err := s.Binding(); return err },
		ordersFile:   func(s *Store) error { _, err := s.Orders(); return err },
	} {
		for _, text := range []string{"", "{", "[]", strings.Repeat(" ", maxFile+1)} {
			s := open(t)
			path := filepath.Join(s.dir, name)
			if err := os.WriteFile(path, []byte(text), 0o600); err != nil {
				t.Fatal(err)
			}
			if err := read(s); err == nil {
				t.Errorf("%s holding %.10q: no error", name, text)
			}
			if got, err := os.ReadFile(path); err != nil || string(got) != text {
				t.Errorf("%s was changed", name)
			}
		}
	}
	s := open(t)
	if err := s.Save(identityFile, Identity{Name: "x", Seed: "SUAAA"}); err != nil {
		t.Fatal(err)
	}
	if _, _, err := s.Identity("x", testTime); err == nil {
		t.Error("an identity with a broken key is taken")
	}
}

func TestStoreBinding(t *testing.T) {
	s := open(t)
	if _, bound, err := s.Binding(); bound || err != nil {
		t.Fatalf("bound %v, %v", bound, err)
	}
	want := Binding{UUID: "u", Disk: "vdb", Ready: true, BoundAt: testTime}
	if err := s.Bind(want); err != nil {
		t.Fatal(err)
	}
	if got, bound, err := s.Binding(); !reflect.DeepEqual(got, want) || !bound || err != nil {
		t.Errorf("got %+v, %v, %v", got, bound, err)
	}
}

func TestStoreImport(t *testing.T) {
	s := open(t)
	for _, step := range []struct {
		image, set string
		imported   bool
		want       string
	}{
		{image: "a", imported: true, want: "a"},
		{image: "a", want: "a"},
		{set: "mine", want: "mine"},
		{image: "a", want: "mine"},              // the box's own stays
		{image: "b", imported: true, want: "b"}, // flashed again
		{set: "mine", want: "mine"},
		{image: "b", want: "mine"},
		{image: "a", imported: true, want: "a"},
	} {
		if step.set != "" {
			if err := s.SetConfig(step.set); err != nil {
				t.Fatal(err)
			}
		} else if imported, err := s.Import(step.image); err != nil || imported != step.imported {
			t.Errorf("%+v: imported %v, %v", step, imported, err)
		}
		if got, _, err := s.Config(); err != nil || got != step.want {
			t.Errorf("%+v: configuration %q, %v", step, got, err)
		}
	}
	if old, _, err := s.read(previousFile); err != nil || string(old) != "mine" {
		t.Errorf("previous configuration %q, %v", old, err)
	}
}

func TestStoreForget(t *testing.T) {
	s := open(t)
	first, _, err := s.Identity("", testTime)
	if err != nil {
		t.Fatal(err)
	}
	for _, err := range []error{s.Bind(Binding{UUID: "u"}), s.SetConfig("x"), s.Give(Orders{Reset: true})} {
		if err != nil {
			t.Fatal(err)
		}
	}
	if o, err := s.Orders(); err != nil || !o.Reset {
		t.Errorf("orders %+v, %v", o, err)
	}
	for range 2 { // once more, as after a power cut
		if err := s.Forget(); err != nil {
			t.Fatal(err)
		}
	}
	if o, err := s.Orders(); err != nil || !o.Reset {
		t.Errorf("the orders are gone before they are carried out: %+v, %v", o, err)
	}
	if err := s.Give(Orders{}); err != nil {
		t.Fatal(err)
	}
	second, made, err := s.Identity("", testTime)
	if err != nil || !made || second.Seed == first.Seed {
		t.Errorf("after forgetting: made %v, same key %v, %v", made, second.Seed == first.Seed, err)
	}
	if _, bound, _ := s.Binding(); bound {
		t.Error("the binding is still there")
	}
	if _, found, _ := s.Config(); found {
		t.Error("the configuration is still there")
	}
}

func TestStoreDirs(t *testing.T) {
	s := open(t)
	dir, err := s.Dir("data")
	if err != nil {
		t.Fatal(err)
	}
	if err := os.WriteFile(filepath.Join(dir, "x"), nil, 0o600); err != nil {
		t.Fatal(err)
	}
	if again, err := s.Dir("data"); again != dir || err != nil {
		t.Errorf("second time %q, %v", again, err)
	}
	if _, err := os.Stat(filepath.Join(dir, "x")); err != nil {
		t.Error(err)
	}
	for range 2 {
		if err := s.RemoveDir("data"); err != nil {
			t.Error(err)
		}
	}
	if _, err := os.Stat(dir); err == nil {
		t.Error("the folder is still there")
	}
	if _, err := Open(filepath.Join(t.TempDir(), "missing")); err == nil {
		t.Error("a store in no folder is opened")
	}
}
