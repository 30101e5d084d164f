package main

import (
	"bytes"
	"context"
	"embed"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path"
	"path/filepath"
	"regexp"
	"strings"
	"text/template"

	"millrace/plugins"
)

//go:embed template
var templates embed.FS

// runNew writes a project: the template of the language and a copy of what it builds on.
func runNew(_ context.Context, c *call) error {
	f := c.flags()
	lang := f.String("lang", "go", "go or c")
	args, err := c.parse(f, 1)
	if err != nil {
		return err
	}
	dir := args[0]
	name := filepath.Base(dir)
	if !regexp.MustCompile(`^[a-zA-Z][a-zA-Z0-9_-]*$`).MatchString(name) {
		return fmt.Errorf("%q cannot be the name of a plugin: use letters, digits, - and _", name)
	}
	if _, err := os.Stat(dir); !errors.Is(err, fs.ErrNotExist) {
		return fmt.Errorf("%s exists already", dir)
	}
	root := path.Join("template", *lang)
	if _, err := fs.Stat(templates, root); err != nil {
		return fmt.Errorf("language %q: there are templates for go and c", *lang)
	}
	err = fs.WalkDir(templates, root, func(file string, d fs.DirEntry, err error) error {
		if err != nil || d.IsDir() {
			return err
		}
		t, err := template.ParseFS(templates, file)
		if err != nil {
			return err
		}
		var b bytes.Buffer
		if err := t.Execute(&b, map[string]string{"Name": name}); err != nil {
			return err
		}
		target := strings.TrimSuffix(strings.TrimPrefix(file, root), ".tmpl")
		if target == "/plugin.c" {
			target = name + ".c"
		}
		return write(filepath.Join(dir, target), b.Bytes())
	})
	if err == nil {
		err = copySources(dir, *lang)
	}
	if err != nil {
		return fmt.Errorf("make project %s: %w", dir, err)
	}
	fmt.Fprintf(c.stdout, "made %s; see %s\n", dir, filepath.Join(dir, "README.md"))
	return nil
}

// copySources adds the SDK: as a module of its own for Go, as a header for C.
func copySources(dir, lang string) error {
	if lang == "c" {
		header, err := fs.ReadFile(plugins.Sources(), "sdk/c/cpi.h")
		if err != nil {
			return err
		}
		return write(filepath.Join(dir, "cpi.h"), header)
	}
	module := filepath.Join(dir, "millrace")
	for _, folder := range []string{"abi", "sdk"} {
		files, err := fs.Glob(plugins.Sources(), folder+"/*.go")
		if err != nil {
			return err
		}
		for _, file := range files {
			b, err := fs.ReadFile(plugins.Sources(), file)
			if err != nil {
				return err
			}
			if err := write(filepath.Join(module, "plugins", filepath.FromSlash(file)), b); err != nil {
				return err
			}
		}
	}
	return write(filepath.Join(module, "go.mod"), []byte("module millrace\n\ngo 1.26\n"))
}

func write(name string, content []byte) error {
	if err := os.MkdirAll(filepath.Dir(name), 0o777); err != nil {
		return err
	}
	return os.WriteFile(name, content, 0o666)
}
