package image

import (
	"bytes"
	"debug/elf"
	"fmt"
	"maps"
	"path"
	"slices"
	"strings"
)

// module is what depmod reads out of a kernel module.
type module struct {
	path    string   // relative to the module directory, such as "kernel/fs/fat/vfat.ko"
	depends []string // canonical names
	aliases []string
}

// canonical is a module's name as the kernel prints it: file names use dashes and underscores
// without a system, the kernel only underscores.
func canonical(name string) string {
	return strings.ReplaceAll(name, "-", "_")
}

// readModule parses the .modinfo section of a kernel module. rel is its path in the module
// directory.
func readModule(rel string, data []byte) (module, error) {
	f, err := elf.NewFile(bytes.NewReader(data))
	if err != nil {
		return module{}, fmt.Errorf("read module %s: %w", rel, err)
	}
	s := f.Section(".modinfo")
	if s == nil {
		return module{}, fmt.Errorf("read module %s: no .modinfo section", rel)
	}
	info, err := s.Data()
	if err != nil {
		return module{}, fmt.Errorf("read module %s: %w", rel, err)
	}
	m := parseModinfo(info)
	m.path = rel
	return m, nil
}

// parseModinfo reads zero-terminated "key=value" strings.
func parseModinfo(info []byte) module {
	var m module
	for entry := range bytes.SplitSeq(info, []byte{0}) {
		key, value, ok := strings.Cut(string(entry), "=")
		if !ok {
			continue
		}
		switch key {
		case "depends":
			for d := range strings.SplitSeq(value, ",") {
				if d != "" {
					m.depends = append(m.depends, canonical(d))
				}
			}
		case "alias":
			m.aliases = append(m.aliases, value)
		}
	}
	return m
}

// modules indexes the modules of one kernel by canonical name.
type modules map[string]module

// builtinModules returns the canonical names in a modules.builtin file.
func builtinModules(text []byte) map[string]bool {
	set := make(map[string]bool)
	for line := range strings.Lines(string(text)) {
		if base := path.Base(strings.TrimSpace(line)); strings.HasSuffix(base, ".ko") {
			set[canonical(strings.TrimSuffix(base, ".ko"))] = true
		}
	}
	return set
}

// closure returns the wanted modules and all they depend on. A wanted module that is built into the
// kernel is skipped; one that is nowhere is an error.
func (m modules) closure(wanted []string, builtin map[string]bool) (modules, error) {
	got := make(modules)
	var add func(name, neededBy string) error
	add = func(name, neededBy string) error {
		name = canonical(name)
		if _, ok := got[name]; ok || builtin[name] {
			return nil
		}
		mod, ok := m[name]
		if !ok {
			return fmt.Errorf("module %s (needed by %s) is not in the kernel package", name, neededBy)
		}
		got[name] = mod
		for _, d := range mod.depends {
			if err := add(d, name); err != nil {
				return err
			}
		}
		return nil
	}
	for _, w := range wanted {
		if err := add(w, "the board"); err != nil {
			return nil, err
		}
	}
	return got, nil
}

// depFile returns modules.dep: "path: paths of what must be loaded", every dependency listed, as
// depmod does. A module without any has nothing, not even a space, after its colon: u-root's reader
// takes a space for an empty path.
func (m modules) depFile() []byte {
	var b bytes.Buffer
	for _, name := range slices.Sorted(maps.Keys(m)) {
		b.WriteString(m[name].path + ":")
		seen := map[string]bool{name: true}
		var walk func(name string)
		walk = func(name string) {
			for _, d := range m[name].depends {
				mod, ok := m[d]
				if seen[d] || !ok { // not ok: built in
					continue
				}
				seen[d] = true
				b.WriteString(" " + mod.path)
				walk(d)
			}
		}
		walk(name)
		b.WriteByte('\n')
	}
	return b.Bytes()
}

// aliasFile returns modules.alias: "alias PATTERN MODULE" lines.
func (m modules) aliasFile() []byte {
	var b bytes.Buffer
	for _, name := range slices.Sorted(maps.Keys(m)) {
		for _, a := range m[name].aliases {
			fmt.Fprintf(&b, "alias %s %s\n", a, name)
		}
	}
	return b.Bytes()
}
