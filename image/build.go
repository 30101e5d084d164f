package image

import (
	"bytes"
	"context"
	"crypto/ed25519"
	"fmt"
	"log/slog"
	"os"
	"os/exec"
	"path"
	"path/filepath"
	"strings"

	"millrace/board"
	"millrace/image/layout"
	"millrace/image/signature"
)

// Go packages that the image runs.
const (
	initPackage   = "./appliance/cmd/uinit"
	daemonPackage = "./appliance/cmd/millraced"
)

// Paths inside the initramfs, known to init as well.
const (
	initPath       = "init"
	daemonPath     = "bin/millraced"
	loadFile       = "etc/modules" // modules to load before any device is looked at, one a line
	osReleaseFile  = "etc/os-release"
	moduleRootPath = "lib/modules"
)

// manifestSection is the section of a version that lists what it is made of.
const manifestSection = ".spdx"

// Config says what image to build.
type Config struct {
	Board    board.Board
	Source   string // root of the millrace source tree
	Output   string // image file; kernel, initramfs and UKI are written beside it
	CacheDir string // where Debian packages are kept between builds

	// Version names this build: in os-release, in the UKI's file name, and what the boot loader
	// sorts by. Letters, digits, dots, tildes and dashes.
	Version string

	// Debug builds the debug variant: its version ends in "-debug", and who reaches the console has a shell. No
	// other image has one.
	Debug bool

	// Daemon is a millraced built elsewhere; empty builds the source tree's.
	Daemon string

	// ConfigFile is a millrace.conf to put on the EFI system partition; empty puts none, and the
	// box uses its built-in configuration.
	ConfigFile string

	// SignKeys sign the version; none leaves it unsigned, and only flashing brings it onto a box.
	SignKeys []ed25519.PrivateKey

	Logger *slog.Logger
}

// Result names what Build wrote.
type Result struct {
	Image     string // the disk image
	UKI       string // the EFI program in it: kernel, initramfs and command line
	Kernel    string // for direct boot in QEMU
	Initramfs string // for direct boot in QEMU
	Manifest  string // SPDX document that lists every component; the UKI holds the same
}

// Outputs names the files that belong to an image file.
func Outputs(image string) Result {
	base := strings.TrimSuffix(image, filepath.Ext(image))
	return Result{Image: image, UKI: base + ".efi", Kernel: base + ".vmlinuz", Initramfs: base + ".initramfs",
		Manifest: base + ".spdx.json"}
}

func (c Config) validate() error {
	if !layout.ValidVersion(c.Version) {
		return fmt.Errorf("version %q: want at most 64 letters, digits, dots, tildes and dashes", c.Version)
	}
	if c.Output == "" || c.Source == "" || c.CacheDir == "" {
		return fmt.Errorf("output, source and cache directory must be set")
	}
	if c.Logger == nil {
		return fmt.Errorf("logger must be set")
	}
	return nil
}

// Build builds the image. Equal sources, lock file and configuration give equal bytes.
func Build(ctx context.Context, c Config) (Result, error) {
	if err := c.validate(); err != nil {
		return Result{}, fmt.Errorf("image configuration: %w", err)
	}
	if c.Debug {
		c.Version += debugSuffix
		if !layout.ValidVersion(c.Version) {
			return Result{}, fmt.Errorf("image configuration: version %q is too long", c.Version)
		}
	}
	var conf []byte
	if c.ConfigFile != "" {
		var err error
		if conf, err = os.ReadFile(c.ConfigFile); err != nil {
			return Result{}, fmt.Errorf("read configuration for the image: %w", err)
		}
	}
	packages, lock, err := c.unpack(ctx)
	if err != nil {
		return Result{}, err
	}
	kernel, err := findKernel(packages)
	if err != nil {
		return Result{}, err
	}
	files, err := c.files(packages, kernel)
	if err != nil {
		return Result{}, err
	}

	tmp, err := os.MkdirTemp("", "millrace-image-")
	if err != nil {
		return Result{}, fmt.Errorf("build image: %w", err)
	}
	defer os.RemoveAll(tmp)
	programs := map[string]string{initPath: filepath.Join(tmp, "init"), daemonPath: c.Daemon}
	if err := c.goBuild(ctx, initPackage, programs[initPath]); err != nil {
		return Result{}, err
	}
	if c.Daemon == "" {
		programs[daemonPath] = filepath.Join(tmp, "millraced")
		if err := c.goBuild(ctx, daemonPackage, programs[daemonPath]); err != nil {
			return Result{}, err
		}
	}
	components, err := programComponents(programs, c.Version)
	if err != nil {
		return Result{}, err
	}
	initrd, err := initramfs(files, programs, c.Logger)
	if err != nil {
		return Result{}, err
	}
	parts, err := c.assemble(packages, kernel, initrd, append(debComponents(lock), components...))
	if err != nil {
		return Result{}, err
	}
	return c.write(packages, parts, conf)
}

// unpack reads what the image needs out of the pinned packages, and returns those.
func (c Config) unpack(ctx context.Context) (tree, []Package, error) {
	lockFile := filepath.Join(c.Source, c.Board.LockFile)
	f, err := os.Open(lockFile)
	if err != nil {
		return nil, nil, fmt.Errorf("open package lock: %w", err)
	}
	defer f.Close()
	lock, err := ParseLock(lockFile, f)
	if err != nil {
		return nil, nil, err
	}
	pinned := make(map[string]Package)
	for _, p := range lock {
		pinned[p.Asked] = p
	}
	s := &store{dir: c.CacheDir, logger: c.Logger}
	packages := make(tree)
	var used []Package
	for _, asked := range askedPackages(c.Board) {
		if asked == debugPackage && !c.Debug {
			continue
		}
		p, ok := pinned[asked]
		if !ok {
			return nil, nil, fmt.Errorf("%s pins no %s; run: go run ./tools/mkimage -board %s -refresh-lock", lockFile, asked, c.Board.Name)
		}
		deb, err := s.get(ctx, c.Board, p)
		if err != nil {
			return nil, nil, err
		}
		if err := packages.addDeb(ctx, deb, wantedInDeb); err != nil {
			return nil, nil, err
		}
		used = append(used, p)
	}
	return packages, used, nil
}

// wantedInDeb leaves out what no image needs and would fill memory: documentation, the kernel's
// symbol map, character set converters.
func wantedInDeb(name string) bool {
	return !strings.HasPrefix(name, "usr/share/") && !strings.HasPrefix(name, "boot/System.map") &&
		!strings.Contains(name, "/gconv/")
}

// kernelFiles is where the kernel is in the packages.
type kernelFiles struct {
	release string // as in uname -r
	path    string // such as "boot/vmlinuz-6.1.0-56-cloud-amd64"
}

// findKernel finds the one kernel in the packages.
func findKernel(packages tree) (kernelFiles, error) {
	var k kernelFiles
	const prefix = "boot/vmlinuz-"
	for name := range packages {
		release, ok := strings.CutPrefix(name, prefix)
		if !ok {
			continue
		}
		if k.path != "" {
			return k, fmt.Errorf("packages hold two kernels, %s and %s", k.path, name)
		}
		k = kernelFiles{release: release, path: name}
	}
	if k.path == "" {
		return k, fmt.Errorf("packages hold no kernel (%s*)", prefix)
	}
	return k, nil
}

// files returns what goes into the initramfs beside our own programs.
func (c Config) files(packages tree, k kernelFiles) (tree, error) {
	out := tree{
		osReleaseFile: {data: c.osRelease()},
		loadFile:      {data: []byte(strings.Join(c.Board.LoadModules, "\n") + "\n")},
	}
	for _, program := range c.Board.Programs {
		if err := addProgram(out, packages, program, c.Board.LibDir); err != nil {
			return nil, err
		}
	}
	if c.Debug {
		if err := addShell(out, packages); err != nil {
			return nil, err
		}
	}
	return out, addModules(out, packages, k.release, append(c.Board.LoadModules, c.Board.Modules...))
}

// addModules adds the wanted kernel modules, and the files by which init finds them, to out.
func addModules(out, packages tree, release string, wanted []string) error {
	dir := path.Join(moduleRootPath, release)
	all := make(modules)
	for name, f := range packages {
		rel, ok := strings.CutPrefix(name, dir+"/")
		if !ok || path.Ext(name) != ".ko" {
			continue
		}
		m, err := readModule(rel, f.data)
		if err != nil {
			return err
		}
		all[canonical(strings.TrimSuffix(path.Base(rel), ".ko"))] = m
	}
	builtin, err := packages.read(path.Join(dir, "modules.builtin"))
	if err != nil {
		return err
	}
	chosen, err := all.closure(wanted, builtinModules(builtin))
	if err != nil {
		return err
	}
	for _, m := range chosen {
		name := path.Join(dir, m.path)
		out[name] = packages[name]
	}
	out[path.Join(dir, "modules.builtin")] = file{data: builtin}
	out[path.Join(dir, "modules.dep")] = file{data: chosen.depFile()}
	out[path.Join(dir, "modules.alias")] = file{data: chosen.aliasFile()}
	return nil
}

// osRelease is the os-release file (freedesktop os-release specification). The boot loader takes
// title and version from the copy in the UKI; a box takes updates for its own VARIANT_ID only.
func (c Config) osRelease() []byte {
	text := fmt.Appendf(nil, "ID=millrace\nNAME=Millrace\nPRETTY_NAME=\"Millrace %s\"\n"+
		"VERSION_ID=%s\nIMAGE_ID=millrace\nIMAGE_VERSION=%s\nVARIANT_ID=%s\n", c.Version, c.Version, c.Version, c.Board.Name)
	if c.Debug {
		text = append(text, "VARIANT=Debug\n"...)
	}
	return text
}

// goBuild builds a static program of the source tree for the board.
func (c Config) goBuild(ctx context.Context, pkg, out string) error {
	c.Logger.Info("building", "package", pkg)
	cmd := exec.CommandContext(ctx, "go", "build", "-trimpath", "-buildvcs=false", "-ldflags=-s -w -buildid=", "-o", out, pkg)
	cmd.Dir = c.Source
	cmd.Env = append(os.Environ(), "CGO_ENABLED=0", "GOOS=linux", "GOARCH="+c.Board.GOARCH)
	var stderr bytes.Buffer
	cmd.Stdout, cmd.Stderr = &stderr, &stderr
	if err := cmd.Run(); err != nil {
		return fmt.Errorf("go build %s: %w\n%s", pkg, err, strings.TrimSpace(stderr.String()))
	}
	return nil
}

// parts are the files of a version.
type parts struct {
	uki, kernel, initrd, manifest []byte
}

// assemble makes the version: one EFI program with everything in it.
func (c Config) assemble(packages tree, k kernelFiles, initrd []byte, components []component) (parts, error) {
	kernel, err := packages.read(k.path)
	if err != nil {
		return parts{}, err
	}
	stub, err := packages.read(c.Board.EFI.Stub)
	if err != nil {
		return parts{}, err
	}
	components = append(components,
		partComponent("kernel", k.release, kernel), partComponent("initramfs", c.Version, initrd),
		partComponent("command line", c.Version, []byte(c.Board.Cmdline)), partComponent("EFI stub", "", stub))
	list, err := manifest(c.Board.Name, c.Version, components)
	if err != nil {
		return parts{}, err
	}
	uki, err := buildUKI(stub, []section{
		{".osrel", c.osRelease()},
		{".cmdline", []byte(c.Board.Cmdline)},
		{".uname", []byte(k.release)},
		{manifestSection, list},
		{".linux", kernel},
		{".initrd", initrd},
		{signature.SectionName, signature.Empty()}, // the last one: it covers all others
	})
	if err != nil {
		return parts{}, err
	}
	for _, key := range c.SignKeys {
		if err := Sign(uki, key); err != nil {
			return parts{}, err
		}
	}
	if len(uki) > layout.MaxUKI {
		return parts{}, fmt.Errorf("the version has %d bytes, the disk layout has room for %d", len(uki), layout.MaxUKI)
	}
	return parts{uki, kernel, initrd, list}, nil
}

// write writes all results.
func (c Config) write(packages tree, p parts, conf []byte) (Result, error) {
	loader, err := packages.read(c.Board.EFI.Loader)
	if err != nil {
		return Result{}, err
	}
	out := Outputs(c.Output)
	if err := os.MkdirAll(filepath.Dir(out.Image), 0o755); err != nil {
		return Result{}, fmt.Errorf("make output directory: %w", err)
	}
	for name, data := range map[string][]byte{
		out.UKI: p.uki, out.Kernel: p.kernel, out.Initramfs: p.initrd, out.Manifest: p.manifest,
	} {
		if err := os.WriteFile(name, data, 0o644); err != nil {
			return Result{}, fmt.Errorf("write image file: %w", err)
		}
	}
	files := map[string][]byte{
		layout.BootDir + "/" + c.Board.EFI.Removable: loader,
		// Without a count of tries: there is nothing that a flashed box could go back to.
		layout.SlotDir + "/" + layout.Slot{Version: c.Version}.Name(): p.uki,
		layout.LoaderConfig: []byte(loaderConf),
	}
	if conf != nil {
		files[layout.ConfigFile] = conf
	}
	if err := WriteDisk(out.Image, c.Board, files); err != nil {
		return Result{}, err
	}
	return out, nil
}
