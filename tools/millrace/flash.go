package main

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"io"
	"os"
	"path/filepath"
	"strings"

	"github.com/klauspost/compress/zstd"

	daemon "millrace/appliance/node"
	"millrace/appliance/system/boot"
	"millrace/board"
	"millrace/image"
	"millrace/image/flash"
	"millrace/image/layout"
)

// maxNodeConfig bounds the size of a configuration file; one for a node has a few KiB.
const maxNodeConfig = 1 << 20

func runFlash(ctx context.Context, c *call) error {
	f := c.flags()
	boardName := f.String("board", "", "`board` that the image must be for: "+strings.Join(boardNames(), ", "))
	config := f.String("config", "", "configuration `file` of the node; it goes onto the disk")
	name := f.String("name", "", "`name` of the node, when the configuration has none: one file then serves several nodes")
	force := f.String("force", "", "overwrite a built-in disk or an existing file: its `serial` number or name, repeated")
	args, err := c.parse(f, 2)
	if err != nil {
		return err
	}
	conf, err := nodeConfig(*config, *name)
	if err != nil {
		return err
	}
	// Looked at before the image is unpacked, and again before it is written.
	target, err := flash.Inspect(args[1])
	if err != nil {
		return err
	}
	if err := target.Check(layout.DiskBytes, *force); err != nil {
		return err
	}
	dir, err := os.MkdirTemp("", "millrace-flash-")
	if err != nil {
		return fmt.Errorf("unpack image: %w", err)
	}
	defer os.RemoveAll(dir)
	img := filepath.Join(dir, "image")
	if err := unpackImage(args[0], img); err != nil {
		return err
	}
	if err := checkBoard(args[0], img, *boardName); err != nil {
		return err
	}
	if conf != nil {
		if err := image.SetConfig(img, conf); err != nil {
			return fmt.Errorf("put configuration %s on the image: %w", *config, err)
		}
	} else {
		fmt.Fprintln(c.stderr, "no --config: unless the image has a configuration, the box takes its built-in one: DHCP, port 4222, no passwords")
	}
	r, err := os.Open(img)
	if err != nil {
		return fmt.Errorf("read image: %w", err)
	}
	defer r.Close()
	say := func(text string) { fmt.Fprintln(c.stdout, text) }
	if err := flash.Run(ctx, r, args[1], *force, say, progress(c.stderr)); err != nil {
		return err
	}
	fmt.Fprintf(c.stdout, "%s holds %s and reads back as written\n", args[1], filepath.Base(args[0]))
	return nil
}

// boardNames lists the boards for help texts.
func boardNames() []string {
	var names []string
	for _, b := range board.All() {
		names = append(names, b.Name)
	}
	return names
}

// checkBoard checks that an image is for the wanted board; empty: any.
func checkBoard(name, img, want string) error {
	if _, ok := board.ByName(want); want != "" && !ok {
		return fmt.Errorf("no board %q; boards are %s", want, strings.Join(boardNames(), ", "))
	}
	got, err := image.BoardOf(img)
	if err != nil {
		return fmt.Errorf("image %s: %w", name, err)
	}
	if want != "" && got != want {
		return fmt.Errorf("image %s is for board %s, not %s", name, got, want)
	}
	return nil
}

// nodeConfig reads a node's configuration and checks it as the box and as millraced on it will; nil for
// none. name is the node's, unless it is empty or the file has one.
func nodeConfig(file, name string) ([]byte, error) {
	if file == "" {
		if name != "" {
			return nil, errors.New("--name wants --config")
		}
		return nil, nil
	}
	text, err := os.ReadFile(file)
	if err != nil {
		return nil, fmt.Errorf("read configuration: %w", err)
	}
	if len(text) > maxNodeConfig {
		return nil, fmt.Errorf("configuration %s has %d bytes, at most %d", file, len(text), maxNodeConfig)
	}
	f, err := boot.ParseConfig(file, string(text))
	if err != nil {
		return nil, err
	}
	switch own := f.ServerName(); {
	case name == "" || own == name:
	case own != "":
		return nil, fmt.Errorf("%s: server_name is %q, --name %q", file, own, name)
	case strings.ContainsFunc(name, func(r rune) bool { return r <= ' ' || r > '~' || r == '"' || r == '\\' }):
		return nil, fmt.Errorf("--name %q: want printable ASCII without spaces and quotes", name)
	default:
		if !bytes.HasSuffix(text, []byte("\n")) {
			text = append(text, '\n')
		}
		text = fmt.Appendf(text, "server_name: %q\n", name)
		if f, err = boot.ParseConfig(file, string(text)); err != nil {
			return nil, err
		}
	}
	if name == "" {
		name = "millrace-box" // the box makes itself one like that
	}
	return text, checkServer(file, f.Millraced(true, name))
}

// checkServer checks what millraced is given on the box. Its errors name the owner's file.
func checkServer(file string, text []byte) error {
	dir, err := os.MkdirTemp("", "millrace-flash-")
	if err != nil {
		return fmt.Errorf("check configuration: %w", err)
	}
	defer os.RemoveAll(dir)
	tmp := filepath.Join(dir, "millrace.conf")
	if err := os.WriteFile(tmp, text, 0o600); err != nil {
		return fmt.Errorf("check configuration: %w", err)
	}
	if _, err := daemon.Load(tmp); err != nil {
		return errors.New(strings.ReplaceAll(err.Error(), tmp, file))
	}
	return nil
}

// unpackImage copies an image, plain or compressed with zstd, into a sparse file.
func unpackImage(from, to string) error {
	in, err := os.Open(from)
	if err != nil {
		return fmt.Errorf("read image: %w", err)
	}
	defer in.Close()
	var r io.Reader = in
	magic := make([]byte, 4)
	if _, err := in.ReadAt(magic, 0); err == nil && string(magic) == "\x28\xb5\x2f\xfd" {
		z, err := zstd.NewReader(in)
		if err != nil {
			return fmt.Errorf("read image %s: %w", from, err)
		}
		defer z.Close()
		r = z
	}
	out, err := os.OpenFile(to, os.O_CREATE|os.O_EXCL|os.O_RDWR, 0o600)
	if err != nil {
		return fmt.Errorf("unpack image: %w", err)
	}
	size, err := flash.CopySparse(out, io.LimitReader(r, layout.DiskBytes+1))
	if err == nil && size != layout.DiskBytes {
		err = fmt.Errorf("want %d bytes, which every disk image has; a version to update with ends in .efi and is for millrace node update", layout.DiskBytes)
	}
	if err := errors.Join(err, out.Close()); err != nil {
		return fmt.Errorf("read image %s: %w", from, err)
	}
	return nil
}

// progress shows how far flashing has come: in one line of a terminal, or in a few lines elsewhere.
func progress(w io.Writer) flash.Progress {
	every, end := int64(25), "\n"
	if f, ok := w.(*os.File); ok {
		if st, err := f.Stat(); err == nil && st.Mode()&os.ModeCharDevice != 0 {
			every, end = 1, "\r"
		}
	}
	shown := ""
	return func(step string, done, total int64) {
		percent := done * 100 / total / every * every
		if text := fmt.Sprintf("%s: %3d %%", step, percent); text != shown {
			shown = text
			if done == total {
				fmt.Fprintln(w, text)
			} else {
				fmt.Fprint(w, text, end)
			}
		}
	}
}
