package main

import (
	"bytes"
	"context"
	"crypto/sha256"
	"debug/pe"
	"encoding/hex"
	"errors"
	"fmt"
	"os"
	"strings"
	"time"

	"github.com/nats-io/nats.go"

	"millrace/appliance/boxapi"
)

const (
	// installTime is how long a box may take to check and write an image.
	installTime = 5 * time.Minute

	// uploadTries is how often an upload is tried without getting on.
	uploadTries = 5

	// tellEvery is how often it is said how far an upload is.
	tellEvery = 10 * time.Second

	// pollEvery is how often a box is looked for while it starts.
	pollEvery = time.Second
)

// fileImage is an image to put on boxes.
type fileImage struct {
	data    []byte
	sum     string // SHA-256, hexadecimal
	version string
}

// readImage reads an image file. What is wrong with it the boxes find as well; here it costs no upload.
func readImage(path string) (fileImage, error) {
	data, err := os.ReadFile(path)
	if err != nil {
		return fileImage{}, fmt.Errorf("read image: %w", err)
	}
	f, err := pe.NewFile(bytes.NewReader(data))
	if err != nil {
		return fileImage{}, fmt.Errorf("image %s: not an EFI program (an update is the .efi file, not the disk image): %w", path, err)
	}
	defer f.Close()
	sum := sha256.Sum256(data)
	im := fileImage{data: data, sum: hex.EncodeToString(sum[:])}
	if s := f.Section(".osrel"); s != nil {
		text, err := s.Data()
		if err != nil {
			return fileImage{}, fmt.Errorf("image %s: %w", path, err)
		}
		for line := range strings.Lines(string(text)) {
			if v, ok := strings.CutPrefix(strings.Trim(line, "\x00\r\n"), "VERSION_ID="); ok {
				im.version = v
			}
		}
	}
	if im.version == "" {
		return fileImage{}, fmt.Errorf("image %s: it does not say what version it is (an update is the .efi file, not the disk image)", path)
	}
	return im, nil
}

func runNodeUpdate(ctx context.Context, c *call) error {
	f := c.flags()
	s := c.server(f)
	s.options = []nats.Option{nats.MaxReconnects(-1)}
	noWait := f.Bool("no-wait", false, "end when the box starts anew, without waiting for what comes of it")
	within := f.Duration("within", 20*time.Minute, "how long to wait for the new version to prove itself")
	args, err := c.parse(f, 2)
	if err != nil {
		return err
	}
	im, err := readImage(args[1])
	if err != nil {
		return err
	}
	return c.onNode(ctx, s, args, 0, func(conn *nats.Conn, n node) error {
		if err := c.install(ctx, conn, s.timeout, n, im); err != nil {
			return fmt.Errorf("%s: %w", n.Name, err)
		}
		if *noWait {
			return nil
		}
		return c.awaitVersion(ctx, conn, n, im.version, *within)
	})
}

// install uploads an image to a box and has it started.
func (c *call) install(ctx context.Context, conn *nats.Conn, timeout time.Duration, n node, im fileImage) error {
	fmt.Fprintf(c.stdout, "%s: %s runs, uploading %s, %.1f MB\n", n.Name, n.Box.Version, im.version, float64(len(im.data))/1e6)
	if err := c.upload(ctx, conn, timeout, n, im); err != nil {
		return err
	}
	var done boxapi.Installed
	if err := askBox(ctx, conn, installTime, n.ID, boxapi.VerbInstall, boxapi.InstallRequest{SHA256: im.sum, Reboot: true}, &done); err != nil {
		return err
	}
	fmt.Fprintf(c.stdout, "%s: %s is installed as %s, starting it\n", n.Name, done.Version, done.File)
	return nil
}

// upload sends an image, with some chunks at a time on their way. After an error it asks how far the box has come and goes
// on from there.
func (c *call) upload(ctx context.Context, conn *nats.Conn, timeout time.Duration, n node, im fileImage) error {
	most := min(boxapi.MaxChunk, conn.MaxPayload()-1024)
	if most <= 0 {
		return fmt.Errorf("the server takes payloads of %d bytes only", conn.MaxPayload())
	}
	u := upload{conn: conn, timeout: timeout, box: n.ID, image: im, pace: newPace(most)}
	began, told := time.Now(), time.Now()
	size := int64(len(im.data))
	u.progress = func(at int64) {
		if time.Since(told) >= tellEvery {
			told = time.Now()
			fmt.Fprintf(c.stdout, "%s: %d %% uploaded\n", n.Name, at*100/size)
		}
	}
	for tries := uploadTries; ; {
		at, err := u.begin(ctx)
		if err == nil && at.Offset > 0 {
			fmt.Fprintf(c.stdout, "%s: going on at byte %d\n", n.Name, at.Offset)
		}
		from := at.Offset
		if err == nil {
			at, err = u.send(ctx, at)
		}
		switch {
		case err == nil:
			fmt.Fprintf(c.stdout, "%s: uploaded in %.1f s\n", n.Name, time.Since(began).Seconds())
			return nil
		case ctx.Err() != nil:
			return err
		}
		if tries--; at.Offset > from {
			tries = uploadTries // it gets on
		}
		fmt.Fprintf(c.stderr, "%s: upload interrupted at byte %d of %d: %v\n", n.Name, at.Offset, size, err)
		if tries == 0 {
			return fmt.Errorf("upload given up: %w", err)
		}
	}
}

// awaitVersion waits until a box runs the version and has made it the good one, or has gone back.
func (c *call) awaitVersion(ctx context.Context, conn *nats.Conn, old node, version string, within time.Duration) error {
	ctx, cancel := context.WithTimeout(ctx, within)
	defer cancel()
	tick := time.NewTicker(pollEvery)
	defer tick.Stop()
	said := ""
	for {
		state := "not reachable"
		n, err := findNode(ctx, conn, old.Name)
		if err == nil && n.Box.Started.After(old.Box.Started) {
			switch b := n.Box; {
			case b.Version != version:
				return fmt.Errorf("%s: %s did not prove itself, %s runs again (%s)", old.Name, version, b.Version, b.Update.Result)
			case b.Update.Trial:
				state = fmt.Sprintf("%s is on trial, %s %s", version, n.Health.Status, n.Health.Error)
			case n.Health.OK():
				fmt.Fprintf(c.stdout, "%s: %s has proven itself\n", old.Name, version)
				return nil
			default:
				state = fmt.Sprintf("%s runs, %s %s", version, n.Health.Status, n.Health.Error)
			}
		}
		if state != said {
			said = state
			fmt.Fprintf(c.stdout, "%s: %s\n", old.Name, strings.TrimSpace(state))
		}
		select {
		case <-tick.C:
		case <-ctx.Done():
			if errors.Is(ctx.Err(), context.DeadlineExceeded) {
				return fmt.Errorf("%s: %s has not proven itself within %v: %s", old.Name, version, within, strings.TrimSpace(said))
			}
			return ctx.Err()
		}
	}
}
