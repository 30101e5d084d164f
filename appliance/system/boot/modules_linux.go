package boot

import (
	"fmt"
	"log/slog"
	"os"
	"path/filepath"
	"strings"

	"github.com/u-root/u-root/pkg/kmodule"
	"golang.org/x/sys/unix"
)

// loadFile lists the modules to load first, one a line; package image writes it.
const loadFile = "/etc/modules"

// loadModules loads the listed modules, then the driver of every device the kernel knows, until that
// brings up no new ones: a bus driver finds further devices.
func loadModules(logger *slog.Logger) error {
	var u unix.Utsname
	if err := unix.Uname(&u); err != nil {
		return fmt.Errorf("get kernel release: %w", err)
	}
	release := unix.ByteSliceToString(u.Release[:])
	text, err := os.ReadFile(filepath.Join("/lib/modules", release, "modules.alias"))
	if err != nil {
		return fmt.Errorf("read module aliases (image without modules for this kernel?): %w", err)
	}
	aliases := parseAliases(string(text))
	prober, err := kmodule.NewProber(kmodule.ProbeOpts{KVer: release})
	if err != nil {
		return fmt.Errorf("read module dependencies: %w", err)
	}
	tried := make(map[string]bool)
	load := func(module string) bool {
		if tried[module] {
			return false
		}
		tried[module] = true
		if err := prober.Probe(module, ""); err != nil {
			logger.Warn("kernel module not loaded", "module", module, "cause", err)
			return false
		}
		return true
	}
	list, err := os.ReadFile(loadFile)
	if err != nil {
		return fmt.Errorf("read modules to load: %w", err)
	}
	for _, m := range strings.Fields(string(list)) {
		load(m)
	}
	for again := true; again; {
		again = false
		for modalias := range deviceAliases() {
			for _, m := range modulesFor(aliases, modalias) {
				again = load(m) || again
			}
		}
	}
	return nil
}

// aliasFiles is where the kernel says what devices there are: those of buses, what drivers offer to others
// (input devices), and the processor. Walking /sys/devices finds the same among thousands of folders,
// which takes a second in an emulator.
var aliasFiles = []string{"/sys/bus/*/devices/*/modalias", "/sys/class/*/*/modalias", "/sys/devices/system/*/modalias"}

// deviceAliases returns the modalias of every device.
func deviceAliases() map[string]bool {
	found := make(map[string]bool)
	for _, pattern := range aliasFiles {
		// The patterns are well formed. Devices may vanish meanwhile; what cannot be read is skipped.
		files, _ := filepath.Glob(pattern)
		for _, name := range files {
			if b, err := os.ReadFile(name); err == nil {
				found[strings.TrimSpace(string(b))] = true
			}
		}
	}
	return found
}

// loadModule loads one module that no device announces, and all it needs.
func loadModule(module string) error {
	if err := kmodule.ProbeOptions(module, "", kmodule.ProbeOpts{KVer: kernelRelease()}); err != nil {
		return fmt.Errorf("load kernel module %s: %w", module, err)
	}
	return nil
}
