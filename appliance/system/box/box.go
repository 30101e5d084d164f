// Package box answers what is asked of a Millrace box (package boxapi): it turns requests into calls of
// the parts of the box that system/boot has put together.
//
// Reading order:
//
//	box.go     Service: from a verb to an answer
//	logs.go    log lines, and those who follow
//	change.go  power, reset, configuration, disks
//	update.go  upload and installation of an image
package box

import (
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"log/slog"
	"sync"
	"time"

	"millrace/appliance/boxapi"
	"millrace/appliance/system/disk"
	"millrace/appliance/system/logbook"
	"millrace/appliance/system/state"
	"millrace/appliance/system/update"
)

// ErrNoState is the answer to what has to be remembered, of a box that has nowhere to.
var ErrNoState = errors.New("this box has no state partition, so it would forget this at its next start")

// Config is the box as the service sees it. All fields are set but State and Uploads, which are nil on a
// box without a state partition.
type Config struct {
	Info   func(context.Context) boxapi.Info
	Log    *logbook.Book
	Logger *slog.Logger

	// Send tells millraced something unasked.
	Send func(verb string, data []byte) error

	// Power ends the run of the box soon: the answer is still sent.
	Power func(reboot bool, cause string)

	State       *state.Store
	ConfigText  func() string // of the configuration that the box runs with
	CheckConfig func(ctx context.Context, text string) error

	Disks     func() ([]disk.Disk, error)
	DataDisks func() []string // kernel names; empty: none

	Uploads *update.Uploads

	// Install checks an image and puts it on the system disk.
	Install func(image []byte) (update.Slot, error)

	Now func() time.Time
}

// Service answers requests. Its methods may be called concurrently.
type Service struct {
	cfg    Config
	wg     sync.WaitGroup
	ctx    context.Context // of the goroutine that sends lines to followers
	cancel context.CancelFunc

	changing sync.Mutex // held while something is changed that others may change too

	mu        sync.Mutex
	following time.Time // until when lines are sent
	running   bool      // they are being sent
}

// New returns a service for a box; Close ends it.
func New(c Config) *Service {
	ctx, cancel := context.WithCancel(context.Background())
	return &Service{cfg: c, ctx: ctx, cancel: cancel}
}

// Close ends what the service does by itself.
func (s *Service) Close() {
	s.cancel()
	s.wg.Wait()
}

// Answer answers a request in JSON.
func (s *Service) Answer(ctx context.Context, verb string, data []byte) ([]byte, error) {
	answer := map[string]func(context.Context, []byte) (any, error){
		boxapi.VerbInfo:      s.info,
		boxapi.VerbLogs:      s.logs,
		boxapi.VerbPower:     s.power,
		boxapi.VerbReset:     s.reset,
		boxapi.VerbConfigGet: s.configGet,
		boxapi.VerbConfigSet: s.configSet,
		boxapi.VerbDisks:     s.disks,
		boxapi.VerbTakeDisk:  s.takeDisk,
		boxapi.VerbUpload:    s.upload,
		boxapi.VerbData:      s.chunk,
		boxapi.VerbInstall:   s.install,
	}[verb]
	if answer == nil {
		return nil, fmt.Errorf("unknown request %q: this box may be older or newer than what asks", verb)
	}
	out, err := answer(ctx, data)
	if err != nil {
		return nil, err
	}
	return json.Marshal(out)
}

// decode reads a request. A field that is not known is refused: it may be what the asker relies on.
func decode[T any](data []byte) (v T, err error) {
	d := json.NewDecoder(bytes.NewReader(data))
	d.DisallowUnknownFields()
	if err := d.Decode(&v); err != nil {
		return v, fmt.Errorf("request: %w", err)
	}
	return v, nil
}

func (s *Service) info(ctx context.Context, _ []byte) (any, error) {
	return s.cfg.Info(ctx), nil
}

// audit notes a change that somebody asked for.
func (s *Service) audit(what string, args ...any) {
	s.cfg.Logger.Info("asked by the system account: "+what, args...)
}
