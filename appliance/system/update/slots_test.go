package update

import (
	"bytes"
	"errors"
	"fmt"
	"maps"
	"slices"
	"strings"
	"testing"

	"millrace/image/layout"
)

// fat is a FAT directory: names lead to chains of clusters, which hold content. A chain can be named
// twice, or be free while it is still named; a new file takes a free chain if there is one.
type fat struct {
	names  map[string]int
	chains map[int]*chain
	next   int
	budget int  // steps until the power fails; negative: never
	lossy  bool // a rename that is cut short may leave neither name
}

type chain struct {
	data []byte
	free bool
}

// errPower is what every operation returns once the power has failed.
var errPower = errors.New("power failed")

func newFAT() *fat { return &fat{names: map[string]int{}, chains: map[int]*chain{}, budget: -1} }

// clone is the disk as it is now, with the power back on.
func (f *fat) clone() *fat {
	c := &fat{names: maps.Clone(f.names), chains: map[int]*chain{}, next: f.next, budget: -1, lossy: f.lossy}
	for id, ch := range f.chains {
		c.chains[id] = &chain{bytes.Clone(ch.data), ch.free}
	}
	return c
}

// step lets the power fail.
func (f *fat) step() error {
	if f.budget == 0 {
		return errPower
	}
	f.budget--
	return nil
}

func (f *fat) List() ([]string, error) { return slices.Sorted(maps.Keys(f.names)), nil }

func (f *fat) Read(name string) ([]byte, error) {
	id, ok := f.names[name]
	if !ok {
		return nil, fmt.Errorf("no %s", name)
	}
	return bytes.Clone(f.chains[id].data), nil
}

func (f *fat) Create(name string, data []byte) error {
	if _, ok := f.names[name]; ok {
		return fmt.Errorf("%s is there", name)
	}
	if err := f.step(); err != nil {
		return err
	}
	id := f.next
	for i, c := range f.chains {
		if c.free {
			id = i
		}
	}
	if id == f.next {
		f.next++
	}
	f.chains[id] = &chain{}
	f.names[name] = id
	for _, n := range []int{len(data) / 2, len(data)} {
		if err := f.step(); err != nil {
			return err
		}
		f.chains[id].data = bytes.Clone(data[:n])
	}
	return nil
}

func (f *fat) Rename(from, to string) error {
	id, ok := f.names[from]
	if _, there := f.names[to]; !ok || there {
		return fmt.Errorf("rename %s to %s: not there, or there already", from, to)
	}
	add := func() { f.names[to] = id }
	remove := func() { delete(f.names, from) }
	order := []func(){add, remove}
	if f.lossy {
		order = []func(){remove, add}
	}
	for _, do := range order {
		if err := f.step(); err != nil {
			return err
		}
		do()
	}
	return nil
}

func (f *fat) Remove(name string) error {
	if err := f.step(); err != nil {
		return err
	}
	if id, ok := f.names[name]; ok {
		f.chains[id].free = true
		delete(f.names, name)
	}
	return nil
}

// testImage is an image of a version; torn or overwritten it is none.
func testImage(version string) []byte { return []byte("<image " + version + ">") }

func checkImage(b []byte) (string, error) {
	v, ok := strings.CutPrefix(string(b), "<image ")
	v, end := strings.CutSuffix(v, ">")
	if !ok || !end {
		return "", errors.New("not an image")
	}
	return v, nil
}

// boot does what the loader does: it takes the newest version with tries left, or else one without, and
// counts. It returns the version that runs, or what is wrong. With cut the power fails while it counts.
func (f *fat) boot(cut bool) (version, fault string) {
	var best *Slot
	worse := func(a, b *Slot) bool { // a than b
		if spent, other := !a.Good && a.Left == 0, !b.Good && b.Left == 0; spent != other {
			return spent
		}
		return a.Version < b.Version
	}
	for _, n := range slices.Sorted(maps.Keys(f.names)) {
		if s, ok := parse(n); ok && !s.Temp && (best == nil || worse(best, &s)) {
			best = &s
		}
	}
	if best == nil {
		return "", "nothing to start"
	}
	id := f.names[best.Name]
	v, err := checkImage(f.chains[id].data)
	if err != nil || v != best.Version {
		return "", fmt.Sprintf("the loader starts %s, which holds %q", best.Name, f.chains[id].data)
	}
	if !best.Good && best.Left > 0 {
		// As systemd-boot does: one try less, one more done.
		to := layout.Slot{Version: best.Version, Trial: true, Left: best.Left - 1, Done: layout.MaxTries - best.Left + 1}.Name()
		if _, there := f.names[to]; !there {
			f.names[to] = id
			if !cut {
				delete(f.names, best.Name)
			}
		}
	}
	return best.Version, ""
}

func folder(f *fat, running string) Folder {
	return Folder{Dir: f, Running: running, Check: checkImage}
}

func (f *fat) add(name, version string) *fat {
	if err := f.Create(name, testImage(version)); err != nil {
		panic(err)
	}
	return f
}

func (f *fat) list() string { return strings.Join(slices.Sorted(maps.Keys(f.names)), " ") }

func TestParse(t *testing.T) {
	for name, want := range map[string]string{
		"millrace_1.0.efi":         "{millrace_1.0.efi 1.0 false true 0}",
		"millrace_1.0+3-0.efi":     "{millrace_1.0+3-0.efi 1.0 false false 3}",
		"millrace_1.0~rc1+0-3.efi": "{millrace_1.0~rc1+0-3.efi 1.0~rc1 false false 0}",
		"millrace_1.0+2.efi":       "{millrace_1.0+2.efi 1.0 false false 2}",
		"millrace_1.0.tmp":         "{millrace_1.0.tmp 1.0 true false 0}",
		"millrace_1.0.new":         "{millrace_1.0.new 1.0 true false 0}",
		"millrace_.efi":            "",
		"millrace_1+x.efi":         "",
		"millrace_1+-1.efi":        "",
		"other_1.0.efi":            "",
		"millrace_1.0.EFI":         "",
		"millrace_a b.efi":         "",
	} {
		s, ok := parse(name)
		if got := fmt.Sprint(s); ok != (want != "") || ok && got != want {
			t.Errorf("%s: %v %s, want %s", name, ok, got, want)
		}
	}
	if s, ok := parse(trialName("1.0", 3)); !ok || s.Left != 3 || s.Version != "1.0" {
		t.Errorf("own trial name reads back as %+v", s)
	}
	if s, ok := parse(goodName("1.0")); !ok || !s.Good {
		t.Errorf("own good name reads back as %+v", s)
	}
}

// An update that proves itself, step by step.
func TestFolderGoodUpdate(t *testing.T) {
	d := newFAT().add("millrace_1.0.efi", "1.0").add("millrace_0.9.efi", "0.9").add("readme.txt", "")
	s, err := folder(d, "1.0").Install(testImage("1.1"))
	if err != nil || s.Name != "millrace_1.1+3-0.efi" || d.list() != "millrace_1.0.efi millrace_1.1+3-0.efi readme.txt" {
		t.Fatalf("installed %+v, %v: %s", s, err, d.list())
	}
	if v, fault := d.boot(false); v != "1.1" || fault != "" {
		t.Fatalf("boots %s %s", v, fault)
	}
	f := folder(d, "1.1")
	if notes, err := f.Tidy(); len(notes) > 0 || err != nil {
		t.Fatal(notes, err)
	}
	if trial, left, err := f.Trial(); !trial || left != 2 || err != nil {
		t.Errorf("on trial %v with %d left, %v", trial, left, err)
	}
	if _, err := f.Install(testImage("1.2")); !errors.Is(err, ErrTrial) {
		t.Errorf("an update while on trial: %v", err)
	}
	for _, want := range []bool{true, false} {
		if changed, err := f.Bless(); changed != want || err != nil {
			t.Errorf("blessed %v, %v; want %v", changed, err, want)
		}
	}
	if trial, _, err := f.Trial(); trial || err != nil || d.list() != "millrace_1.0.efi millrace_1.1.efi readme.txt" {
		t.Errorf("on trial %v, %v: %s", trial, err, d.list())
	}
}

// One that does not is gone after its tries, whoever blesses meanwhile.
func TestFolderBadUpdate(t *testing.T) {
	d := newFAT().add("millrace_1.0.efi", "1.0")
	if _, err := folder(d, "1.0").Install(testImage("1.1")); err != nil {
		t.Fatal(err)
	}
	for range layout.MaxTries {
		if v, fault := d.boot(false); v != "1.1" || fault != "" {
			t.Fatalf("boots %s %s", v, fault)
		}
	}
	v, fault := d.boot(false)
	if v != "1.0" || fault != "" {
		t.Fatalf("boots %s %s", v, fault)
	}
	f := folder(d, "1.0")
	if changed, err := f.Bless(); changed || err != nil || d.names["millrace_1.1+0-3.efi"] == 0 {
		t.Errorf("the version before blessed another: %v, %v: %s", changed, err, d.list())
	}
	notes, err := f.Tidy()
	if err != nil || len(notes) != 1 || !strings.Contains(notes[0], "1.1 did not prove itself") || d.list() != "millrace_1.0.efi" {
		t.Errorf("tidied %q, %v: %s", notes, err, d.list())
	}
}

func TestFolderInstallRefuses(t *testing.T) {
	for _, tt := range []struct {
		name, running string
		image         []byte
		d             *fat
		want          string
	}{
		{"no image", "1.0", []byte("x"), newFAT().add("millrace_1.0.efi", "1.0"), "not an image"},
		{"the running version", "1.0", testImage("1.0"), newFAT().add("millrace_1.0.efi", "1.0"), "running already"},
		{"nothing to go back to", "1.0", testImage("1.1"), newFAT().add("millrace_0.9.efi", "0.9"), "could not go back"},
	} {
		before := tt.d.list()
		if _, err := folder(tt.d, tt.running).Install(tt.image); err == nil || !strings.Contains(err.Error(), tt.want) {
			t.Errorf("%s: %v, want %q", tt.name, err, tt.want)
		}
		if tt.d.list() != before {
			t.Errorf("%s: the folder was changed from %s to %s", tt.name, before, tt.d.list())
		}
	}
	d := &rotten{newFAT().add("millrace_1.0.efi", "1.0")}
	if _, err := (Folder{d, "1.0", checkImage}).Install(testImage("1.1")); err == nil || !strings.Contains(err.Error(), "reads back other") {
		t.Errorf("a disk that changes what is written: %v", err)
	}
	if d.list() != "millrace_1.0.efi" {
		t.Errorf("left: %s", d.list())
	}
}

// rotten is a disk that keeps something else than it was given.
type rotten struct{ *fat }

func (r *rotten) Create(name string, data []byte) error {
	data = bytes.Clone(data)
	data[len(data)-1] ^= 1
	return r.fat.Create(name, data)
}

// life is one update while the power fails now and then: in the first starts after so many steps of
// ours, or in the loader. Later starts are undisturbed.
type life struct {
	lossy bool
	tidy  func(Folder) error
	inst  func(Folder) error
	bless func(Folder) error
}

func sound() life {
	return life{
		tidy:  func(f Folder) error { _, err := f.Tidy(); return err },
		inst:  func(f Folder) error { _, err := f.Install(testImage("1.1")); return err },
		bless: func(f Folder) error { _, err := f.Bless(); return err },
	}
}

// inLoader in place of a number of steps lets the power fail while the loader counts.
const inLoader = -1

// run lives through the starts and returns what is wrong.
func (l life) run(powers ...int) (fault string) {
	d := newFAT().add("millrace_1.0.efi", "1.0")
	d.lossy = l.lossy
	proven := "1.0" // the newest version that has proven itself
	for start := range len(powers) + 4 {
		disturbed := start < len(powers)
		version, fault := d.boot(disturbed && powers[start] == inLoader)
		if fault != "" {
			return fmt.Sprintf("start %d: %s: %s", start, fault, d.list())
		}
		if disturbed && powers[start] == inLoader {
			continue
		}
		if version < proven && !l.lossy {
			return fmt.Sprintf("start %d: runs %s though %s has proven itself: %s", start, version, proven, d.list())
		}
		if disturbed {
			d.budget = powers[start]
		}
		err := l.tidy(folder(d, version))
		if err == nil && version == "1.0" {
			err = l.inst(folder(d, version))
		}
		if err == nil && version == "1.1" {
			if err = l.bless(folder(d, version)); err == nil {
				proven = "1.1"
			}
		}
		if err != nil && !errors.Is(err, errPower) {
			return fmt.Sprintf("start %d of %s: %v: %s", start, version, err, d.list())
		}
		d = d.clone()
	}
	if proven != "1.1" || !strings.Contains(d.list(), "millrace_1.1.efi") {
		return "the update never came to its end: " + d.list()
	}
	return ""
}

// mostSteps is more than one start takes.
const mostSteps = 12

// allLives lets the power fail at every step of the first three starts, and in the loader.
func allLives(l life) (lives int, fault string) {
	for a := inLoader; a < mostSteps; a++ {
		for b := inLoader; b < mostSteps; b++ {
			for c := inLoader; c < mostSteps; c++ {
				lives++
				if fault := l.run(a, b, c); fault != "" {
					return lives, fmt.Sprintf("power fails after %d, %d, %d steps: %s", a, b, c, fault)
				}
			}
		}
	}
	return lives, ""
}

// The power may fail at any step, three starts in a row: the loader always starts a whole image, never
// one older than what has proven itself, and the update comes to its end.
func TestFolderSurvivesPowerCuts(t *testing.T) {
	lives, fault := allLives(sound())
	if fault != "" {
		t.Error(fault)
	}
	t.Logf("%d lives", lives)
	// A file system that loses both names of a rename may lose the version; never the one before, and
	// the loader still starts what is whole.
	lossy := sound()
	lossy.lossy = true
	if _, fault := allLives(lossy); fault != "" {
		t.Errorf("lossy: %s", fault)
	}
}

// Each of these mistakes is found by the lives above.
func TestFolderPowerCutMutants(t *testing.T) {
	for name, change := range map[string]func(*life){
		"installs without a temporary name": func(l *life) {
			l.inst = func(f Folder) error {
				if slots, _ := f.Slots(); len(slots) > 1 {
					return nil
				}
				return f.Dir.Create(trialName("1.1", layout.MaxTries), testImage("1.1"))
			}
		},
		"removes left over names one by one": func(l *life) {
			l.tidy = func(f Folder) error {
				slots, _ := f.Slots()
				for _, s := range slots {
					if s.Temp {
						if err := f.Dir.Remove(s.Name); err != nil {
							return err
						}
					}
				}
				return nil
			}
		},
		"does not tidy": func(l *life) { l.tidy = func(Folder) error { return nil } },
		"repairs by removing one of two names": func(l *life) {
			l.tidy = func(f Folder) error {
				own, _, _ := f.own()
				for _, s := range own[min(1, len(own)):] {
					if err := f.Dir.Remove(s.Name); err != nil {
						return err
					}
				}
				// What is written next may take what was freed.
				if len(own) > 1 {
					if err := f.Dir.Create("other.txt", []byte("x")); err != nil {
						return err
					}
				}
				return nil
			}
		},
		"removes the version before when it installs": func(l *life) {
			l.inst = func(f Folder) error {
				if err := f.Dir.Remove(goodName("1.0")); err != nil {
					return err
				}
				temp := tempName("1.1")
				if err := f.Dir.Create(temp, testImage("1.1")); err != nil {
					return err
				}
				return f.Dir.Rename(temp, trialName("1.1", layout.MaxTries))
			}
		},
		"blesses the newest instead of the running": func(l *life) {
			l.bless = func(f Folder) error { _, err := Folder{f.Dir, "1.0", f.Check}.Bless(); return err }
		},
	} {
		l := sound()
		change(&l)
		if _, fault := allLives(l); fault == "" {
			t.Errorf("%s: not noticed", name)
		} else {
			t.Logf("%s: %s", name, fault)
		}
	}
}
