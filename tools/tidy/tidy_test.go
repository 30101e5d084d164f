package tidy

import (
	"os"
	"slices"
	"testing"
	"testing/fstest"
)

// TestProject holds the rules for this repository.
func TestProject(t *testing.T) {
	found, err := Check(os.DirFS("../.."), Project)
	if err != nil {
		t.Fatal(err)
	}
	for _, f := range found {
		t.Error(f)
	}
}

// TestCheckFinds proves that every rule can fail.
func TestCheckFinds(t *testing.T) {
	tests := []struct {
		name, path, text string
		want             []string
	}{
		{"clean", "raft/a.go", "// Package raft does.\npackage raft\n", nil},
		{"upward import", "raft/a.go", "// Package raft does.\npackage raft\n\nimport _ \"millrace/appliance/node\"\n",
			[]string{"raft/a.go:4: layer: raft may not import appliance/node"}},
		{"parent import", "raft/core/a.go", "// Package core does.\npackage core\n\nimport _ \"millrace/raft\"\n",
			[]string{"raft/core/a.go:4: layer: raft/core may not import raft"}},
		{"child import", "raft/a.go", "// Package raft does.\npackage raft\n\nimport _ \"millrace/raft/core\"\n", nil},
		{"foreign import", "board/a.go", "// Package board does.\npackage board\n\nimport _ \"github.com/x/y\"\n",
			[]string{"board/a.go:4: layer: board may not import github.com/x/y"}},
		{"test may import", "board/a_test.go", "package board\n\nimport _ \"millrace/image\"\n", nil},
		{"unknown folder", "appliance/x/a.go", "// Package x does.\npackage x\n",
			[]string{"appliance/x/a.go:2: layer: folder appliance/x has no line in the import table"}},
		{"impure import", "board/a.go", "// Package board does.\npackage board\n\nimport _ \"sync/atomic\"\n",
			[]string{"board/a.go:4: pure: a pure package may not import sync/atomic"}},
		{"clock", "board/a.go", "// Package board does.\npackage board\n\nimport \"time\"\n\nvar _ = time.Now\n",
			[]string{"board/a.go:6: pure: a pure package may not call time.Now, time is an argument"}},
		{"channel", "board/a.go", "// Package board does.\npackage board\n\nvar _ chan int\n",
			[]string{"board/a.go:4: pure: a pure package may not use channels"}},
		{"goroutine", "raft/a.go", "// Package raft does.\npackage raft\n\nfunc f() { go f() }\n",
			[]string{"raft/a.go:4: go: start goroutines by wg.Go and wait for them in Close"}},
		{"vague name", "tools/util/a.go", "// Package util does.\npackage util\n",
			[]string{`tools/util/a.go:2: package-name: "util" says nothing about the package`}},
		{"init", "raft/a.go", "// Package raft does.\npackage raft\n\nfunc init() {}\n",
			[]string{"raft/a.go:4: init: no init functions: an imported one would run in every program, PID 1 too"}},
		{"sleep", "raft/a_test.go", "package raft\n\nimport \"time\"\n\nfunc f() { time.Sleep(1) }\n",
			[]string{"raft/a_test.go:5: sleep: a test waits for a condition, or runs in a synctest bubble"}},
		{"sleep in a bubble", "raft/a_test.go", "package raft\n\nimport (\n\t\"testing/synctest\"\n\t\"time\"\n)\n\n" +
			"func f() { synctest.Test(nil, func() { time.Sleep(1) }) }\n", nil},
		{"goroutine for tests", "raft/a.go", "// Package raft does.\npackage raft\n\nimport _ \"testing\"\n\nfunc f() { go f() }\n", nil},
		{"os", "storage/journal/a.go", "// Package journal does.\npackage journal\n\nimport _ \"os\"\n",
			[]string{"storage/journal/a.go:4: os: storage uses os only in storage/vfs"}},
		{"etcd raft", "raft/a_test.go", "package raft\n\nimport _ \"go.etcd.io/raft/v3\"\n",
			[]string{"raft/a_test.go:3: etcd-raft: only raft/core may import go.etcd.io/raft/v3"}},
		{"panic", "raft/a.go", "// Package raft does.\npackage raft\n\nimport \"fmt\"\n\n" +
			"func f(err error) { panic(err) }\nfunc g() { panic(fmt.Sprintf(\"BUG: %d\", 1)) }\n",
			[]string{`raft/a.go:6: panic: a panic is for a broken invariant and starts "BUG: ", return an error`}},
		{"lock phrase", "raft/a.go", "// Package raft does.\npackage raft\n\n// f does. Lock should " + "be held.\nfunc f() {}\n",
			[]string{"raft/a.go:4: lock: end the name of a method that needs the lock in Locked"}},
		{"error text", "raft/a.go", "// Package raft does.\npackage raft\n\nimport \"fmt\"\n\nvar _ = fmt.Errorf(\"failed to x\")\n",
			[]string{`raft/a.go:6: error-text: write what was done: "open %q: %w", not "failed to open"`}},
		{"exported", "raft/a.go", "// Package raft does.\npackage raft\n\nfunc F() {}\n\ntype T int\n\nfunc (T) M() {}\n\nfunc (T) String() {}\n\nconst C = 1\n",
			[]string{"raft/a.go:4: doc: exported func F has no comment", "raft/a.go:6: doc: exported type T has no comment",
				"raft/a.go:8: doc: exported func M has no comment", "raft/a.go:12: doc: exported name C has no comment"}},
		{"package comment", "raft/a.go", "// This package does.\npackage raft\n",
			[]string{`raft/a.go:2: package-comment: no file has a comment "Package raft …"`}},
		{"command comment", "tools/x/main.go", "// Package main does.\npackage main\n",
			[]string{`tools/x/main.go:2: package-comment: no file has a comment "Command x …"`}},
		{"top level", "stuff/a.go", "// Package raft does.\npackage raft\n",
			[]string{"stuff:0: root: a new top-level folder needs a decision in RATIONALE.md",
				"stuff/a.go:2: layer: folder stuff has no line in the import table"}},
		{"root file", "a.go", "// Package raft does.\npackage raft\n",
			[]string{"a.go:0: root: Go code belongs into a folder", "a.go:2: layer: folder . has no line in the import table"}},
	}
	rules := Project
	rules.Exceptions = nil
	for _, tt := range tests {
		t.Run(tt.name, func(t *testing.T) {
			found, err := Check(fstest.MapFS{tt.path: {Data: []byte(tt.text)}}, rules)
			if err != nil {
				t.Fatal(err)
			}
			var got []string
			for _, f := range found {
				got = append(got, f.String())
			}
			if !slices.Equal(got, tt.want) {
				t.Errorf("got %q\nwant %q", got, tt.want)
			}
		})
	}
}

func TestCheckExceptions(t *testing.T) {
	tree := fstest.MapFS{"raft/a.go": {Data: []byte("// Package raft does.\npackage raft\n\nfunc init() {}\n")}}
	rules := Project
	rules.Exceptions = []Exception{{"raft", "init", "reason"}, {"raft/b.go", "go", "reason"}}
	found, err := Check(tree, rules)
	if err != nil || len(found) != 1 || found[0].String() != "raft/b.go:0: exception: go is not needed any more" {
		t.Errorf("got %v, %v", found, err)
	}
}

func TestCheckSyntaxError(t *testing.T) {
	if _, err := Check(fstest.MapFS{"raft/a.go": {Data: []byte("package")}}, Project); err == nil {
		t.Error("no error")
	}
}
