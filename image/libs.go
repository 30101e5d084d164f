package image

import (
	"bytes"
	"debug/elf"
	"fmt"
	"io"
	"path"
	"strings"
)

// addProgram copies a program of the packages into out together with its ELF interpreter and every
// shared library it needs, found in libDir or in libDir under usr.
func addProgram(out, packages tree, program, libDir string) error {
	data, err := packages.read(program)
	if err != nil {
		return err
	}
	out[program] = file{data: data}
	f, err := elf.NewFile(bytes.NewReader(data))
	if err != nil {
		return fmt.Errorf("read program %s: %w", program, err)
	}
	for _, p := range f.Progs {
		if p.Type != elf.PT_INTERP {
			continue
		}
		b, err := io.ReadAll(p.Open())
		if err != nil {
			return fmt.Errorf("read program %s: %w", program, err)
		}
		interp := strings.TrimPrefix(path.Clean(strings.TrimRight(string(b), "\x00")), "/")
		data, err := packages.read(interp)
		if err != nil {
			return fmt.Errorf("interpreter of %s: %w", program, err)
		}
		out[interp] = file{data: data}
	}
	return addLibraries(out, packages, program, f, libDir)
}

// addLibraries adds the libraries an ELF file imports, and theirs.
func addLibraries(out, packages tree, name string, f *elf.File, libDir string) error {
	libs, err := f.ImportedLibraries()
	if err != nil {
		return fmt.Errorf("read libraries of %s: %w", name, err)
	}
	for _, lib := range libs {
		dst := path.Join(libDir, lib)
		if _, ok := out[dst]; ok {
			continue
		}
		data, err := packages.read(dst)
		if err != nil {
			if data, err = packages.read(path.Join("usr", dst)); err != nil {
				return fmt.Errorf("library %s of %s: %w", lib, name, err)
			}
		}
		out[dst] = file{data: data}
		g, err := elf.NewFile(bytes.NewReader(data))
		if err != nil {
			return fmt.Errorf("read library %s: %w", lib, err)
		}
		if err := addLibraries(out, packages, lib, g, libDir); err != nil {
			return err
		}
	}
	return nil
}
