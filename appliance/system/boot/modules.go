package boot

import (
	"path"
	"strings"
)

// alias says which module drives devices whose modalias matches a pattern.
type alias struct {
	pattern string // as for path.Match
	module  string
}

// parseAliases reads modules.alias: "alias PATTERN MODULE" lines; others are skipped.
func parseAliases(text string) []alias {
	var list []alias
	for line := range strings.Lines(text) {
		f := strings.Fields(line)
		if len(f) == 3 && f[0] == "alias" {
			list = append(list, alias{pattern: f[1], module: f[2]})
		}
	}
	return list
}

// modulesFor returns the modules that match a device's modalias, each once.
func modulesFor(aliases []alias, modalias string) []string {
	var list []string
	seen := make(map[string]bool)
	for _, a := range aliases {
		// A malformed pattern matches nothing, as in modprobe.
		if ok, err := path.Match(a.pattern, modalias); err != nil || !ok || seen[a.module] {
			continue
		}
		seen[a.module] = true
		list = append(list, a.module)
	}
	return list
}
