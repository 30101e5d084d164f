package image

import (
	"crypto/sha256"
	"debug/buildinfo"
	"encoding/hex"
	"encoding/json"
	"fmt"
	"maps"
	"net/url"
	"runtime/debug"
	"slices"
	"strings"
	"time"
)

// component is one thing an image is made of.
type component struct {
	kind    string // "deb", "module", "program", "toolchain" or "part"
	name    string
	version string
	sha256  string // of its bytes, hexadecimal; empty for what is compiled in
	sum     string // of a Go module: its hash in go.sum
	purl    string // package URL; empty: none
	in      string // name of the component that it is in; empty: in the image itself
}

// debComponents lists the packages that files were taken from.
func debComponents(packages []Package) []component {
	var list []component
	for _, p := range packages {
		list = append(list, component{
			kind: "deb", name: p.Name, version: p.Version, sha256: p.SHA256,
			purl: "pkg:deb/debian/" + p.Name + "@" + url.PathEscape(p.Version) + "?arch=" + p.Arch,
		})
	}
	return list
}

// partComponent names one of the sections of the UKI.
func partComponent(name, version string, data []byte) component {
	return component{kind: "part", name: name, version: version, sha256: sumOf(data)}
}

// programComponents lists our programs (path in the initramfs to path on this machine), and what is
// compiled into them: Go's standard library and modules.
func programComponents(programs map[string]string, version string) ([]component, error) {
	var list []component
	seen := make(map[string]bool)
	for _, name := range slices.Sorted(maps.Keys(programs)) {
		sum, err := hashFile(programs[name])
		if err != nil {
			return nil, fmt.Errorf("describe program %s: %w", name, err)
		}
		info, err := buildinfo.ReadFile(programs[name])
		if err != nil {
			return nil, fmt.Errorf("describe program %s: %w", name, err)
		}
		list = append(list, component{kind: "program", name: "/" + name, version: version, sha256: sum})
		if key := "go@" + info.GoVersion; !seen[key] {
			seen[key] = true
			list = append(list, component{kind: "toolchain", name: "go", version: strings.TrimPrefix(info.GoVersion, "go"), in: "/" + name})
		}
		for _, m := range info.Deps {
			m = replacement(m)
			if key := m.Path + "@" + m.Version; !seen[key] {
				seen[key] = true
				list = append(list, component{
					kind: "module", name: m.Path, version: m.Version, sum: m.Sum,
					purl: "pkg:golang/" + m.Path + "@" + url.PathEscape(m.Version), in: "/" + name,
				})
			}
		}
	}
	return list, nil
}

// replacement is the module that was really compiled in.
func replacement(m *debug.Module) *debug.Module {
	if m.Replace != nil {
		return m.Replace
	}
	return m
}

// SPDX 2.3, as far as it is needed (https://spdx.github.io/spdx-spec/v2.3).
type (
	spdxDocument struct {
		Version       string             `json:"spdxVersion"`
		License       string             `json:"dataLicense"`
		ID            string             `json:"SPDXID"`
		Name          string             `json:"name"`
		Namespace     string             `json:"documentNamespace"`
		Creation      spdxCreation       `json:"creationInfo"`
		Packages      []spdxPackage      `json:"packages"`
		Relationships []spdxRelationship `json:"relationships"`
	}
	spdxCreation struct {
		Created  string   `json:"created"`
		Creators []string `json:"creators"`
	}
	spdxPackage struct {
		ID            string         `json:"SPDXID"`
		Name          string         `json:"name"`
		Version       string         `json:"versionInfo,omitempty"`
		Download      string         `json:"downloadLocation"`
		FilesAnalyzed bool           `json:"filesAnalyzed"`
		Checksums     []spdxChecksum `json:"checksums,omitempty"`
		References    []spdxRef      `json:"externalRefs,omitempty"`
		SourceInfo    string         `json:"sourceInfo,omitempty"`
		Purpose       string         `json:"primaryPackagePurpose,omitempty"`
	}
	spdxChecksum struct {
		Algorithm string `json:"algorithm"`
		Value     string `json:"checksumValue"`
	}
	spdxRef struct {
		Category string `json:"referenceCategory"`
		Type     string `json:"referenceType"`
		Locator  string `json:"referenceLocator"`
	}
	spdxRelationship struct {
		Element string `json:"spdxElementId"`
		Type    string `json:"relationshipType"`
		Related string `json:"relatedSpdxElement"`
	}
)

// purposes are SPDX's words for kinds of components.
var purposes = map[string]string{
	"deb": "ARCHIVE", "module": "LIBRARY", "program": "APPLICATION", "toolchain": "LIBRARY", "part": "FILE",
}

// manifest is the SPDX document of an image: every component with name, version and hash. Equal
// components give equal bytes.
func manifest(board, version string, components []component) ([]byte, error) {
	created, err := epoch()
	if err != nil {
		return nil, err
	}
	const root = "SPDXRef-Image"
	doc := spdxDocument{
		Version: "SPDX-2.3", License: "CC0-1.0", ID: "SPDXRef-DOCUMENT", Name: "millrace-" + board + "-" + version,
		Creation: spdxCreation{created.Format(time.RFC3339), []string{"Tool: millrace-mkimage"}},
		Packages: []spdxPackage{{
			ID: root, Name: "millrace-image-" + board, Version: version, Download: "NOASSERTION", Purpose: "OPERATING-SYSTEM",
		}},
		Relationships: []spdxRelationship{{"SPDXRef-DOCUMENT", "DESCRIBES", root}},
	}
	ids := make(map[string]string) // by name, of what others may be in
	for i, c := range components {
		id := fmt.Sprintf("SPDXRef-%s-%d", c.kind, i+1)
		if _, ok := ids[c.name]; !ok {
			ids[c.name] = id
		}
		p := spdxPackage{ID: id, Name: c.name, Version: c.version, Download: "NOASSERTION", Purpose: purposes[c.kind]}
		if c.sha256 != "" {
			p.Checksums = []spdxChecksum{{"SHA256", c.sha256}}
		}
		if c.sum != "" {
			p.SourceInfo = "go.sum " + c.sum
		}
		if c.purl != "" {
			p.References = []spdxRef{{"PACKAGE-MANAGER", "purl", c.purl}}
		}
		doc.Packages = append(doc.Packages, p)
		owner := root
		if c.in != "" {
			if owner = ids[c.in]; owner == "" {
				panic("BUG: component " + c.name + " is in " + c.in + ", which is not listed before it")
			}
		}
		doc.Relationships = append(doc.Relationships, spdxRelationship{owner, "CONTAINS", id})
	}
	content, err := json.Marshal(doc.Packages)
	if err != nil {
		return nil, fmt.Errorf("write manifest: %w", err)
	}
	// SPDX wants a name that no other document has: that of the content.
	doc.Namespace = "urn:millrace:image:" + board + ":" + version + ":" + sumOf(content)
	b, err := json.MarshalIndent(doc, "", " ")
	if err != nil {
		return nil, fmt.Errorf("write manifest: %w", err)
	}
	return append(b, '\n'), nil
}

// sumOf is the SHA-256 of data, in hexadecimal.
func sumOf(data []byte) string {
	sum := sha256.Sum256(data)
	return hex.EncodeToString(sum[:])
}
