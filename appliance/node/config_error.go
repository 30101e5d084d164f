package node

import (
	"cmp"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"regexp"
	"slices"
	"strconv"
	"strings"
)

// ConfigError is one fault of a configuration file.
type ConfigError struct {
	File   string
	Line   int    // from 1; 0: not known
	Column int    // from 1; 0: not known
	Key    string // path of the key, such as accounts.A.users[0].pass; empty: syntax
	Reason string
}

// Error returns "file:line:column: key: reason" without the parts that are not known.
func (e *ConfigError) Error() string {
	var b strings.Builder
	b.WriteString(pos{e.File, e.Line, e.Column}.String())
	b.WriteString(": ")
	if e.Key != "" {
		b.WriteString(e.Key)
		b.WriteString(": ")
	}
	b.WriteString(e.Reason)
	return b.String()
}

// pos is a place in a configuration file, counted from 1.
type pos struct {
	file      string
	line, col int
}

// String returns "file:line:column" without the parts that are not known.
func (p pos) String() string {
	switch {
	case p.line == 0:
		return p.file
	case p.col == 0:
		return fmt.Sprintf("%s:%d", p.file, p.line)
	}
	return fmt.Sprintf("%s:%d:%d", p.file, p.line, p.col)
}

// joinConfigErrors returns the faults as one error, in the order of the file.
func joinConfigErrors(errs []*ConfigError) error {
	slices.SortStableFunc(errs, func(a, b *ConfigError) int {
		return cmp.Or(cmp.Compare(a.File, b.File), cmp.Compare(a.Line, b.Line), cmp.Compare(a.Column, b.Column))
	})
	joined := make([]error, len(errs))
	for i, e := range errs {
		joined[i] = e
	}
	return errors.Join(joined...)
}

// Shapes of the errors of package conf, which puts the line into the text and the file only into
// some of them.
var (
	confInclude = regexp.MustCompile(`^error parsing include file '([^']*)', (?s)(.*)$`)
	confLine    = regexp.MustCompile(`^Parse error on line (\d+): '(?s)(.*)'$`)
	confInvalid = regexp.MustCompile(`^config is invalid \(.*:(\d+):(\d+)\)$`)
	confVar     = regexp.MustCompile(`^variable reference for '([^']*)' on line (\d+) (?s)(.*)$`)
	confNumber  = regexp.MustCompile(`^(integer|float) '([^']*)' is out of the range$`)
)

// parseError gives an error of package conf the form of a *ConfigError. path is the file that was
// given to it.
func parseError(path string, err error) error {
	if errors.Is(err, os.ErrNotExist) || errors.Is(err, os.ErrPermission) {
		return fmt.Errorf("read configuration: %w", err)
	}
	return syntaxError(path, err.Error())
}

// syntaxError takes the text of an error of package conf apart.
func syntaxError(path, text string) error {
	if m := confInclude.FindStringSubmatch(text); m != nil {
		file := filepath.Join(filepath.Dir(path), m[1])
		if confInclude.MatchString(m[2]) || confLine.MatchString(m[2]) || confVar.MatchString(m[2]) ||
			confInvalid.MatchString(m[2]) || confNumber.MatchString(m[2]) {
			return syntaxError(file, m[2])
		}
		e := &ConfigError{File: path, Key: "include", Reason: strings.TrimPrefix(m[2], "error opening config file: ")}
		e.Line = lineOf(path, m[1])
		return e
	}
	e := &ConfigError{File: path, Reason: text}
	switch {
	case confLine.MatchString(text):
		m := confLine.FindStringSubmatch(text)
		e.Line, _ = strconv.Atoi(m[1])
		e.Reason = strings.ReplaceAll(m[2], "'\x00'", "the end of the file")
	case confInvalid.MatchString(text):
		m := confInvalid.FindStringSubmatch(text)
		e.Line, _ = strconv.Atoi(m[1])
		e.Reason = "the last key has no value"
	case confVar.MatchString(text):
		m := confVar.FindStringSubmatch(text)
		e.Line, _ = strconv.Atoi(m[2])
		e.Reason = fmt.Sprintf("variable $%s is set neither above nor in the environment", m[1])
		if strings.HasPrefix(m[3], "could not be parsed") {
			e.Reason = fmt.Sprintf("variable $%s %s", m[1], m[3])
		}
	case confNumber.MatchString(text):
		m := confNumber.FindStringSubmatch(text)
		e.Line = lineOf(path, m[2])
		e.Reason = fmt.Sprintf("number %s is out of range", m[2])
	}
	return e
}

// lineOf returns the first line of the file that has text in it, 0 if there is none.
func lineOf(path, text string) int {
	data, err := os.ReadFile(path)
	if err != nil {
		return 0
	}
	before, _, found := strings.Cut(string(data), text)
	if !found {
		return 0
	}
	return strings.Count(before, "\n") + 1
}

var (
	confComment = regexp.MustCompile(`(#|//).*`)
	confIncl    = regexp.MustCompile(`(?i)(?:^|[{;,\s])include\s+['"]?([^'"\s;}]+)`)
)

// checkIncludes refuses a file that includes itself, which package conf would follow until the
// stack ends. above holds the files that lead to path.
func checkIncludes(path string, above []string) error {
	data, err := os.ReadFile(path)
	if err != nil {
		return nil // the parser reports it with its place
	}
	above = append(above, filepath.Clean(path))
	for i, line := range strings.Split(string(data), "\n") {
		for _, m := range confIncl.FindAllStringSubmatch(confComment.ReplaceAllString(line, ""), -1) {
			file := filepath.Join(filepath.Dir(path), m[1])
			if slices.Contains(above, file) {
				return &ConfigError{File: path, Line: i + 1, Key: "include",
					Reason: fmt.Sprintf("%q includes itself", m[1])}
			}
			if err := checkIncludes(file, above); err != nil {
				return err
			}
		}
	}
	return nil
}
