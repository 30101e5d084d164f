package image

import (
	"bufio"
	"encoding/hex"
	"fmt"
	"io"
	"strings"
)

// Package is one pinned Debian package.
type Package struct {
	Asked   string // name the board asks for; for the kernel the meta package, else equal to Name
	Name    string // package name
	Version string // Debian version
	Arch    string // Debian architecture, or "all"
	SHA256  string // of the .deb, lower-case hexadecimal
}

// fileName is the name of the package's file in the cache. A version may hold a colon, which
// Debian's own file names escape in the same way.
func (p Package) fileName() string {
	return p.Name + "_" + strings.ReplaceAll(p.Version, ":", "%3a") + "_" + p.Arch + ".deb"
}

// ParseLock reads a lock file: one package a line as "asked name version arch sha256", `#` starts a
// comment. name is used in errors.
func ParseLock(name string, r io.Reader) ([]Package, error) {
	var list []Package
	seen := make(map[string]int)
	sc := bufio.NewScanner(r)
	for line := 1; sc.Scan(); line++ {
		text, _, _ := strings.Cut(sc.Text(), "#")
		f := strings.Fields(text)
		if len(f) == 0 {
			continue
		}
		if len(f) != 5 {
			return nil, fmt.Errorf("%s:%d: %d fields, want 5: asked name version arch sha256", name, line, len(f))
		}
		p := Package{Asked: f[0], Name: f[1], Version: f[2], Arch: f[3], SHA256: f[4]}
		if sum, err := hex.DecodeString(p.SHA256); err != nil || len(sum) != 32 {
			return nil, fmt.Errorf("%s:%d: sha256 of %s is %q, want 64 hexadecimal digits", name, line, p.Name, p.SHA256)
		}
		if strings.ContainsAny(p.Name+p.Version+p.Arch, "/\\") {
			return nil, fmt.Errorf("%s:%d: slash in %q %q %q", name, line, p.Name, p.Version, p.Arch)
		}
		if first, ok := seen[p.Asked]; ok {
			return nil, fmt.Errorf("%s:%d: %s is already pinned in line %d", name, line, p.Asked, first)
		}
		seen[p.Asked] = line
		list = append(list, p)
	}
	if err := sc.Err(); err != nil {
		return nil, fmt.Errorf("read %s: %w", name, err)
	}
	return list, nil
}

// FormatLock writes a lock file that ParseLock reads back.
func FormatLock(board string, list []Package) []byte {
	var b strings.Builder
	fmt.Fprintf(&b, "# Debian packages of board %s. To move to what apt offers now:\n", board)
	fmt.Fprintf(&b, "#   go run ./tools/mkimage -board %s -refresh-lock\n", board)
	b.WriteString("# asked name version arch sha256\n")
	for _, p := range list {
		fmt.Fprintf(&b, "%s %s %s %s %s\n", p.Asked, p.Name, p.Version, p.Arch, p.SHA256)
	}
	return []byte(b.String())
}

// stanza is one record of apt-cache's output.
type stanza map[string]string

// parseStanza reads the first record of Debian control text: "Key: value" lines, continued by
// lines that start with a space, up to an empty line.
func parseStanza(text string) stanza {
	s := make(stanza)
	key := ""
	for line := range strings.Lines(text) {
		line = strings.TrimRight(line, "\n")
		if line == "" {
			if len(s) > 0 {
				break
			}
			continue
		}
		if line[0] == ' ' || line[0] == '\t' {
			if key != "" {
				s[key] += "\n" + strings.TrimSpace(line)
			}
			continue
		}
		k, v, ok := strings.Cut(line, ":")
		if !ok {
			key = ""
			continue
		}
		key = k
		s[key] = strings.TrimSpace(v)
	}
	return s
}

// kernelOf returns the package that a kernel meta package depends on, such as
// "linux-image-6.1.0-56-cloud-amd64".
func kernelOf(meta stanza) (string, error) {
	for dep := range strings.SplitSeq(meta["Depends"], ",") {
		name, _, _ := strings.Cut(strings.TrimSpace(dep), " ")
		if strings.HasPrefix(name, "linux-image-") {
			return name, nil
		}
	}
	return "", fmt.Errorf("package %s depends on no linux-image-* package (Depends: %s)", meta["Package"], meta["Depends"])
}
