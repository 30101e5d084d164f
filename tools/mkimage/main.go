// Command mkimage builds the bootable disk image of a board, and signs versions. It needs no privileges;
// the work is done by package image.
package main

import (
	"context"
	"flag"
	"fmt"
	"log/slog"
	"os"
	"os/exec"
	"os/signal"
	"path/filepath"
	"strings"
	"syscall"
	"time"

	"millrace/board"
	"millrace/image"
)

const usage = `usage: mkimage [flags]                          build an image
       mkimage keygen FILE                      make a key that signs versions
       mkimage sign -sign-key FILE IMAGE.efi    sign a version
       mkimage verify -key KEY IMAGE.efi        check who signed a version

`

func main() {
	ctx, stop := signal.NotifyContext(context.Background(), os.Interrupt, syscall.SIGTERM)
	defer stop()
	args := os.Args[1:]
	var err error
	switch {
	case len(args) > 0 && args[0] == "keygen":
		err = keygen(args[1:], os.Stdout)
	case len(args) > 0 && args[0] == "sign":
		err = sign(args[1:], os.Stdout)
	case len(args) > 0 && args[0] == "verify":
		err = verify(args[1:], os.Stdout)
	default:
		err = run(ctx, args)
	}
	if err != nil {
		fmt.Fprintln(os.Stderr, "mkimage:", err)
		os.Exit(1)
	}
}

// run builds an image.
func run(ctx context.Context, args []string) error {
	fs := flag.NewFlagSet("mkimage", flag.ExitOnError)
	fs.Usage = func() { fmt.Fprint(fs.Output(), usage); fs.PrintDefaults() }
	boardName := fs.String("board", "qemu-amd64", "board to build for: "+strings.Join(boardNames(), ", "))
	out := fs.String("o", ".build/millrace.img", "image `file`; kernel, initramfs and UKI go beside it")
	cache := fs.String("cache", "", "`directory` of downloaded Debian packages (default: millrace/debs in the user's cache directory)")
	version := fs.String("version", "0.1.0", "version of the image")
	debug := fs.Bool("debug", false, "build the debug variant: a shell on the console, for whoever reaches it")
	config := fs.String("config", "", "millrace.conf `file` to put on the image")
	daemon := fs.String("millraced", "", "millraced `binary` built elsewhere (default: build it from source)")
	var signKeys keyFiles
	fs.Var(&signKeys, "sign-key", "`file` with a private key that signs the version (see mkimage keygen); may be given several times")
	refresh := fs.Bool("refresh-lock", false, "pin the package versions apt offers now, and stop")
	if err := fs.Parse(args); err != nil {
		return err
	}
	if fs.NArg() > 0 {
		return fmt.Errorf("unexpected argument %q", fs.Arg(0))
	}
	b, ok := board.ByName(*boardName)
	if !ok {
		return fmt.Errorf("no board %q; boards are %s", *boardName, strings.Join(boardNames(), ", "))
	}
	source, err := sourceTree(ctx)
	if err != nil {
		return err
	}
	if *cache == "" {
		dir, err := os.UserCacheDir()
		if err != nil {
			return fmt.Errorf("find cache directory (or give -cache): %w", err)
		}
		*cache = filepath.Join(dir, "millrace", "debs")
	}
	logger := slog.New(slog.NewTextHandler(os.Stderr, nil))

	if *refresh {
		lock, err := image.RefreshLock(ctx, b, *cache, logger)
		if err != nil {
			return err
		}
		file := filepath.Join(source, b.LockFile)
		if err := os.WriteFile(file, lock, 0o644); err != nil {
			return fmt.Errorf("write package lock: %w", err)
		}
		fmt.Println("wrote", file)
		return nil
	}

	start := time.Now()
	res, err := image.Build(ctx, image.Config{
		Board: b, Source: source, Output: *out, CacheDir: *cache,
		Version: *version, Debug: *debug, Daemon: *daemon, ConfigFile: *config, SignKeys: signKeys.keys, Logger: logger,
	})
	if err != nil {
		return err
	}
	fmt.Printf("built in %.1f s\n", time.Since(start).Seconds())
	return printSizes(os.Stdout, res)
}

// boardNames lists the boards for help texts.
func boardNames() []string {
	var names []string
	for _, b := range board.All() {
		names = append(names, b.Name)
	}
	return names
}

// sourceTree is the root of the module that holds this program.
func sourceTree(ctx context.Context) (string, error) {
	out, err := exec.CommandContext(ctx, "go", "list", "-m", "-f", "{{.Dir}}", "millrace").Output()
	if err != nil {
		return "", fmt.Errorf("find the millrace source tree (run this inside it): %w", err)
	}
	return strings.TrimSpace(string(out)), nil
}
