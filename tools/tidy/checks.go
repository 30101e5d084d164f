package tidy

import (
	"go/ast"
	"go/token"
	"path"
	"slices"
	"strconv"
	"strings"
)

// fileChecks look at one file each.
var fileChecks = []func(*source, Rules) []Finding{
	layers, purity, packageName, noInit, goStatements, sleeps, osOnlyInVFS, etcdRaftOnlyInCore, panics,
	lockPhrase, errorTexts, exportedComments,
}

// imports returns the import specs of a file with their unquoted paths.
func imports(s *source) map[*ast.ImportSpec]string {
	specs := make(map[*ast.ImportSpec]string, len(s.file.Imports))
	for _, spec := range s.file.Imports {
		name, _ := strconv.Unquote(spec.Path.Value) // the parser accepted it
		specs[spec] = name
	}
	return specs
}

// layers holds the import table. Tests may import what they like, except that etcd's raft stays in
// raft/core. A doc.go without declarations needs no line.
func layers(s *source, rules Rules) []Finding {
	if s.test || len(s.file.Decls) == 0 && path.Base(s.path) == "doc.go" {
		return nil
	}
	var layer *Layer
	for i, l := range rules.Layers {
		if within(s.folder(), l.Folder) && (layer == nil || len(l.Folder) > len(layer.Folder)) {
			layer = &rules.Layers[i]
		}
	}
	if layer == nil {
		return []Finding{s.finding(s.file.Package, "layer", "folder %s has no line in the import table", s.folder())}
	}
	var found []Finding
	for spec, name := range imports(s) {
		if ours, ok := strings.CutPrefix(name, Module+"/"); ok {
			allowed := within(ours, s.folder()) || within(ours, layer.Folder) && ours != layer.Folder ||
				slices.ContainsFunc(layer.Ours, func(a string) bool {
					exact, one := strings.CutPrefix(a, "=")
					return one && ours == exact || !one && within(ours, a)
				})
			if !allowed {
				found = append(found, s.finding(spec.Pos(), "layer", "%s may not import %s", layer.Folder, ours))
			}
			continue
		}
		if first, _, _ := strings.Cut(name, "/"); !strings.Contains(first, ".") {
			continue // standard library
		}
		if !slices.ContainsFunc(layer.Others, func(a string) bool { return within(name, a) }) {
			found = append(found, s.finding(spec.Pos(), "layer", "%s may not import %s", layer.Folder, name))
		}
	}
	return found
}

// impureImports cannot be used by a deterministic machine. Package os stands for all of it: exec,
// signal, user.
var impureImports = []string{"sync", "net", "os", "syscall", "math/rand", "crypto/rand", "log", "unsafe"}

// impureClock are the names of package time that read or wait for the clock.
var impureClock = []string{"Now", "Since", "Until", "Sleep", "After", "AfterFunc", "Tick", "NewTimer", "NewTicker"}

// purity holds that a pure package gives the same answers to the same calls.
func purity(s *source, rules Rules) []Finding {
	if s.test || !slices.ContainsFunc(rules.Pure, func(p string) bool { return within(s.folder(), p) }) {
		return nil
	}
	var found []Finding
	for spec, name := range imports(s) {
		if slices.ContainsFunc(impureImports, func(p string) bool { return within(name, p) }) {
			found = append(found, s.finding(spec.Pos(), "pure", "a pure package may not import %s", name))
		}
	}
	ast.Inspect(s.file, func(n ast.Node) bool {
		switch n := n.(type) {
		case *ast.GoStmt:
			found = append(found, s.finding(n.Pos(), "pure", "a pure package may not start a goroutine"))
		case *ast.ChanType:
			found = append(found, s.finding(n.Pos(), "pure", "a pure package may not use channels"))
		case *ast.SelectorExpr:
			if x, ok := n.X.(*ast.Ident); ok && x.Name == "time" && slices.Contains(impureClock, n.Sel.Name) {
				found = append(found, s.finding(n.Pos(), "pure", "a pure package may not call time.%s, time is an argument", n.Sel.Name))
			}
		}
		return true
	})
	return found
}

// vagueNames say nothing about what a package is for.
var vagueNames = []string{"util", "utils", "common", "helpers", "misc", "base", "types", "shared", "internal", "pkg", "lib"}

func packageName(s *source, _ Rules) []Finding {
	name := strings.TrimSuffix(s.file.Name.Name, "_test")
	if slices.Contains(vagueNames, name) || slices.Contains(vagueNames, path.Base(s.folder())) {
		return []Finding{s.finding(s.file.Name.Pos(), "package-name", "%q says nothing about the package", name)}
	}
	return nil
}

func noInit(s *source, _ Rules) []Finding {
	var found []Finding
	for _, d := range s.file.Decls {
		if f, ok := d.(*ast.FuncDecl); ok && f.Recv == nil && f.Name.Name == "init" {
			found = append(found, s.finding(f.Pos(), "init", "no init functions: an imported one would run in every program, PID 1 too"))
		}
	}
	return found
}

// goStatements holds that goroutines start by a WaitGroup's Go, so that Close can wait for them.
func goStatements(s *source, _ Rules) []Finding {
	if s.test || s.main() || s.support() {
		return nil
	}
	var found []Finding
	ast.Inspect(s.file, func(n ast.Node) bool {
		if g, ok := n.(*ast.GoStmt); ok {
			found = append(found, s.finding(g.Pos(), "go", "start goroutines by wg.Go and wait for them in Close"))
		}
		return true
	})
	return found
}

// sleeps finds waits for the clock in tests, but for those in a synctest bubble, where it is false.
func sleeps(s *source, _ Rules) []Finding {
	if !s.test {
		return nil
	}
	var found []Finding
	ast.Inspect(s.file, func(n ast.Node) bool {
		switch n := n.(type) {
		case *ast.CallExpr:
			return !isSelector(n.Fun, "synctest", "Test")
		case *ast.SelectorExpr:
			if isSelector(n, "time", "Sleep") {
				found = append(found, s.finding(n.Pos(), "sleep", "a test waits for a condition, or runs in a synctest bubble"))
			}
		}
		return true
	})
	return found
}

// isSelector reports whether e is pkg.name.
func isSelector(e ast.Expr, pkg, name string) bool {
	sel, ok := e.(*ast.SelectorExpr)
	if !ok || sel.Sel.Name != name {
		return false
	}
	x, ok := sel.X.(*ast.Ident)
	return ok && x.Name == pkg
}

// osOnlyInVFS keeps all file access of the storage behind the file system that tests can break.
func osOnlyInVFS(s *source, _ Rules) []Finding {
	if s.test || !within(s.folder(), "storage") || within(s.folder(), "storage/vfs") {
		return nil
	}
	var found []Finding
	for spec, name := range imports(s) {
		if name == "os" || name == "syscall" || name == "golang.org/x/sys/unix" {
			found = append(found, s.finding(spec.Pos(), "os", "storage uses %s only in storage/vfs", name))
		}
	}
	return found
}

func etcdRaftOnlyInCore(s *source, _ Rules) []Finding {
	if within(s.folder(), "raft/core") {
		return nil
	}
	var found []Finding
	for spec, name := range imports(s) {
		if within(name, "go.etcd.io/raft") || within(name, "go.etcd.io/etcd") {
			found = append(found, s.finding(spec.Pos(), "etcd-raft", "only raft/core may import %s", name))
		}
	}
	return found
}

// panics holds that a panic is a broken invariant and says so.
func panics(s *source, _ Rules) []Finding {
	if s.test {
		return nil
	}
	var found []Finding
	ast.Inspect(s.file, func(n ast.Node) bool {
		call, ok := n.(*ast.CallExpr)
		if !ok {
			return true
		}
		if fun, ok := call.Fun.(*ast.Ident); ok && fun.Name == "panic" && len(call.Args) == 1 {
			text := firstString(call.Args[0])
			if !strings.HasPrefix(text, "BUG: ") {
				found = append(found, s.finding(call.Pos(), "panic", "a panic is for a broken invariant and starts \"BUG: \", return an error"))
			}
		}
		return true
	})
	return found
}

// firstString returns the leftmost string literal of an expression.
func firstString(e ast.Expr) string {
	text := ""
	ast.Inspect(e, func(n ast.Node) bool {
		if lit, ok := n.(*ast.BasicLit); ok && lit.Kind == token.STRING && text == "" {
			text, _ = strconv.Unquote(lit.Value)
		}
		return text == ""
	})
	return text
}

// lockPhrase holds that a method that needs a lock is named …Locked.
func lockPhrase(s *source, _ Rules) []Finding {
	var found []Finding
	for _, group := range s.file.Comments {
		for _, c := range group.List {
			text := strings.ToLower(c.Text)
			if strings.Contains(text, "lock should "+"be held") || strings.Contains(text, "lock must "+"be held") {
				found = append(found, s.finding(c.Pos(), "lock", "end the name of a method that needs the lock in Locked"))
			}
		}
	}
	return found
}

// errorTexts holds that a wrapped error reads "verb noun: cause".
func errorTexts(s *source, _ Rules) []Finding {
	if s.test {
		return nil
	}
	var found []Finding
	ast.Inspect(s.file, func(n ast.Node) bool {
		call, ok := n.(*ast.CallExpr)
		if !ok || len(call.Args) == 0 {
			return true
		}
		if !isSelector(call.Fun, "fmt", "Errorf") {
			return true
		}
		text := firstString(call.Args[0])
		switch {
		case strings.Contains(text, "failed to"):
			found = append(found, s.finding(call.Pos(), "error-text", "write what was done: \"open %%q: %%w\", not \"failed to open\""))
		case strings.HasSuffix(text, ".") && !strings.HasSuffix(text, "..."):
			found = append(found, s.finding(call.Pos(), "error-text", "no full stop at the end of an error text"))
		}
		return true
	})
	return found
}

// exportedComments finds exported declarations without a comment, which staticcheck does not.
func exportedComments(s *source, _ Rules) []Finding {
	if s.test || s.main() {
		return nil
	}
	var found []Finding
	need := func(at token.Pos, kind, name string) {
		found = append(found, s.finding(at, "doc", "exported %s %s has no comment", kind, name))
	}
	for _, d := range s.file.Decls {
		switch d := d.(type) {
		case *ast.FuncDecl:
			if d.Name.IsExported() && d.Doc == nil && (d.Recv == nil || exportedReceiver(d.Recv)) && !conventional(d) {
				need(d.Pos(), "func", d.Name.Name)
			}
		case *ast.GenDecl:
			for _, spec := range d.Specs {
				switch spec := spec.(type) {
				case *ast.TypeSpec:
					if spec.Name.IsExported() && d.Doc == nil && spec.Doc == nil {
						need(spec.Pos(), "type", spec.Name.Name)
					}
				case *ast.ValueSpec:
					if spec.Names[0].IsExported() && d.Doc == nil && spec.Doc == nil && spec.Comment == nil {
						need(spec.Pos(), "name", spec.Names[0].Name)
					}
				}
			}
		}
	}
	return found
}

func exportedReceiver(recv *ast.FieldList) bool {
	if len(recv.List) == 0 {
		return false
	}
	t := recv.List[0].Type
	for {
		switch x := t.(type) {
		case *ast.StarExpr:
			t = x.X
		case *ast.IndexExpr:
			t = x.X
		case *ast.IndexListExpr:
			t = x.X
		case *ast.Ident:
			return x.IsExported()
		default:
			return false
		}
	}
}

// conventional reports methods whose meaning an interface of the standard library gives.
func conventional(f *ast.FuncDecl) bool {
	switch f.Name.Name {
	case "Error", "Unwrap", "String", "Len", "Less", "Swap", "Push", "Pop", "MarshalJSON", "UnmarshalJSON",
		"MarshalText", "UnmarshalText", "Read", "Write", "Close":
		return f.Recv != nil
	}
	return false
}
