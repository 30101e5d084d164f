// Package tidy holds the shape of the tree as a test: who may import whom, which packages are pure,
// and the habits that a compiler does not check. It reads source text only, builds nothing and is
// run by "make tidy".
package tidy

import (
	"cmp"
	"errors"
	"fmt"
	"go/ast"
	"go/parser"
	"go/token"
	"io/fs"
	"path"
	"slices"
	"strings"
)

// Module is the module path of this repository.
const Module = "millrace"

// Finding is one place that breaks a rule.
type Finding struct {
	File string
	Line int
	Rule string
	Text string
}

// String returns "file:line: rule: text".
func (f Finding) String() string {
	return fmt.Sprintf("%s:%d: %s: %s", f.File, f.Line, f.Rule, f.Text)
}

// Rules is the configuration of a check.
type Rules struct {
	Layers     []Layer
	Pure       []string // folders whose non-test code has no goroutines, locks, clock, network or files
	Exceptions []Exception
}

// Layer says what the packages of one folder may import beside the standard library and their own
// subtree. The longest matching folder wins.
type Layer struct {
	Folder string
	Ours   []string // folders of this module, each with its subtree; "=x" is x alone
	Others []string // prefixes of import paths of other modules
}

// Exception lets one rule be broken in one file or folder, with the reason.
type Exception struct {
	Path   string
	Rule   string
	Reason string
}

// source is one parsed file.
type source struct {
	path string
	test bool
	fset *token.FileSet
	file *ast.File
}

func (s *source) folder() string { return path.Dir(s.path) }
func (s *source) main() bool     { return s.file.Name.Name == "main" }

// support reports whether the file serves tests of other packages.
func (s *source) support() bool {
	return slices.ContainsFunc(s.file.Imports, func(i *ast.ImportSpec) bool { return i.Path.Value == `"testing"` })
}

func (s *source) finding(at token.Pos, rule, format string, args ...any) Finding {
	return Finding{File: s.path, Line: s.fset.Position(at).Line, Rule: rule, Text: fmt.Sprintf(format, args...)}
}

// Check reads the Go files of tree and returns what breaks the rules, in the order of the files.
// An exception that nothing needs is a finding too.
func Check(tree fs.FS, rules Rules) ([]Finding, error) {
	sources, err := read(tree)
	if err != nil {
		return nil, err
	}
	var all []Finding
	for _, s := range sources {
		for _, check := range fileChecks {
			all = append(all, check(s, rules)...)
		}
	}
	all = append(all, packageComments(sources)...)
	root, err := rootEntries(tree)
	if err != nil {
		return nil, err
	}
	all = append(all, root...)

	used := make([]bool, len(rules.Exceptions))
	all = slices.DeleteFunc(all, func(f Finding) bool {
		for i, e := range rules.Exceptions {
			if e.Rule == f.Rule && within(f.File, e.Path) {
				used[i] = true
				return true
			}
		}
		return false
	})
	for i, e := range rules.Exceptions {
		if !used[i] {
			all = append(all, Finding{e.Path, 0, "exception", fmt.Sprintf("%s is not needed any more", e.Rule)})
		}
	}
	slices.SortStableFunc(all, func(a, b Finding) int {
		return cmp.Or(strings.Compare(a.File, b.File), cmp.Compare(a.Line, b.Line))
	})
	return all, nil
}

// read parses every Go file that belongs to the module.
func read(tree fs.FS) ([]*source, error) {
	var sources []*source
	var errs []error
	err := fs.WalkDir(tree, ".", func(p string, d fs.DirEntry, err error) error {
		if err != nil {
			return err
		}
		if d.IsDir() {
			if name := d.Name(); p != "." && (name == "testdata" || name[0] == '.' || name[0] == '_') {
				return fs.SkipDir
			}
			return nil
		}
		if !strings.HasSuffix(p, ".go") {
			return nil
		}
		text, err := fs.ReadFile(tree, p)
		if err != nil {
			return err
		}
		s := &source{path: p, test: strings.HasSuffix(p, "_test.go"), fset: token.NewFileSet()}
		if s.file, err = parser.ParseFile(s.fset, p, text, parser.ParseComments|parser.SkipObjectResolution); err != nil {
			errs = append(errs, err)
			return nil
		}
		sources = append(sources, s)
		return nil
	})
	return sources, errors.Join(append(errs, err)...)
}

// within reports whether p is folder or lies under it.
func within(p, folder string) bool {
	return p == folder || strings.HasPrefix(p, folder+"/")
}

// rootFolders are the only folders of the root beside hidden ones.
var rootFolders = []string{"appliance", "board", "image", "plugins", "raft", "storage", "tools"}

// rootEntries refuses a new top-level folder and Go code in the root.
func rootEntries(tree fs.FS) ([]Finding, error) {
	entries, err := fs.ReadDir(tree, ".")
	if err != nil {
		return nil, err
	}
	var found []Finding
	for _, e := range entries {
		name := e.Name()
		switch {
		case name[0] == '.':
		case e.IsDir() && !slices.Contains(rootFolders, name):
			found = append(found, Finding{name, 0, "root", "a new top-level folder needs a decision in RATIONALE.md"})
		case strings.HasSuffix(name, ".go"):
			found = append(found, Finding{name, 0, "root", "Go code belongs into a folder"})
		}
	}
	return found, nil
}

// packageComments finds packages without a comment that starts "Package x " or "Command x ".
func packageComments(sources []*source) []Finding {
	type state struct {
		first     *source
		commented bool
	}
	packages := make(map[string]*state)
	for _, s := range sources {
		if s.test {
			continue
		}
		p := packages[s.folder()]
		if p == nil {
			p = &state{first: s}
			packages[s.folder()] = p
		}
		want := "Package " + s.file.Name.Name + " "
		if s.main() {
			want = "Command " + path.Base(s.folder()) + " "
		}
		p.commented = p.commented || s.file.Doc != nil && strings.HasPrefix(s.file.Doc.Text(), want)
	}
	var found []Finding
	for _, p := range packages {
		if !p.commented {
			kind := "Package " + p.first.file.Name.Name
			if p.first.main() {
				kind = "Command " + path.Base(p.first.folder())
			}
			found = append(found, p.first.finding(p.first.file.Package, "package-comment", "no file has a comment %q", kind+" …"))
		}
	}
	return found
}
