package core

import (
	"go/ast"
	"go/parser"
	"go/token"
	"io/fs"
	"path/filepath"
	"slices"
	"strings"
	"testing"
)

// Which library runs the groups is decided in one file for each build, and nowhere else.
func TestOnlyOneFileImportsEtcdRaft(t *testing.T) {
	var got []string
	err := filepath.WalkDir("..", func(path string, d fs.DirEntry, err error) error {
		if err != nil || filepath.Ext(path) != ".go" {
			return err
		}
		f, err := parser.ParseFile(token.NewFileSet(), path, nil, parser.ImportsOnly)
		if err != nil {
			return err
		}
		if slices.ContainsFunc(f.Imports, func(i *ast.ImportSpec) bool {
			return strings.Contains(i.Path.Value, "go.etcd.io/")
		}) {
			got = append(got, filepath.ToSlash(path))
		}
		return nil
	})
	if err != nil {
		t.Fatal(err)
	}
	if want := []string{"../core/core_etcd35.go", "../core/core_etcd37.go"}; !slices.Equal(got, want) {
		t.Errorf("files that import etcd's raft: %q, want %q", got, want)
	}
}
