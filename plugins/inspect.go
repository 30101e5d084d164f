package plugins

import (
	"fmt"
	"strings"

	"millrace/plugins/abi"
	"millrace/plugins/meter"
)

// inspect holds a module's imports and exports against CPI 1 and lists all that does not fit.
func inspect(m *meter.Module) error {
	var problems []string
	add := func(format string, args ...any) { problems = append(problems, fmt.Sprintf(format, args...)) }
	if name := m.Reserved(); name != "" {
		add("%s is a reserved name", name)
	}
	host := cpiFunctions()
	for _, im := range m.Imports {
		switch known, ok := host[im.Name]; {
		case im.Name == meter.YieldImport:
			// named above
		case im.Kind != meter.KindFunc:
			add("imports the %s %s.%s; a plugin brings its own", im.Kind, im.Module, im.Name)
		case im.Module == abi.Module && !ok:
			add("imports %s.%s, which this host does not have", im.Module, im.Name)
		case im.Module == abi.Module && known.typ != im.Type:
			add("imports %s.%s as %v; it is %v", im.Module, im.Name, im.Type, known.typ)
		case im.Module == abi.Module:
		case im.Module == wasiModule:
			if !wasiKnown(im.Name, im.Type) {
				add("imports %s.%s %v, which WASI preview 1 does not have", im.Module, im.Name, im.Type)
			}
		default:
			add("imports %s.%s; a plugin may import from %s and %s only", im.Module, im.Name, abi.Module, wasiModule)
		}
	}
	exports := map[string]meter.Export{}
	for _, ex := range m.Exports {
		exports[ex.Name] = ex
	}
	if ex, ok := exports[abi.ExportMemory]; !ok || ex.Kind != meter.KindMemory {
		add("exports no memory named %q", abi.ExportMemory)
	}
	for _, want := range required() {
		if ex, ok := exports[want.Name]; !ok || ex.Kind != meter.KindFunc {
			add("exports no function %s%v", want.Name, want.Type)
		}
	}
	for _, want := range append(required(), optional()...) {
		if ex, ok := exports[want.Name]; ok && ex.Kind == meter.KindFunc && ex.Type != want.Type {
			add("exports %s as %v; it must be %v", ex.Name, ex.Type, want.Type)
		}
	}
	if len(problems) > 0 {
		return fmt.Errorf("%w: %s", ErrInvalid, strings.Join(problems, "; "))
	}
	return nil
}
