package box

import (
	"context"
	"crypto/sha256"
	"encoding/hex"
	"encoding/json"
	"errors"
	"fmt"
	"log/slog"
	"strings"
	"sync"
	"testing"
	"testing/synctest"
	"time"

	"millrace/appliance/boxapi"
	"millrace/appliance/system/disk"
	"millrace/appliance/system/logbook"
	"millrace/appliance/system/state"
	"millrace/appliance/system/update"
)

// machine is a box without hardware.
type machine struct {
	*Service
	state *state.Store
	log   *logbook.Book

	mu     sync.Mutex
	powers []string
	sent   []boxapi.Logs
	images []string
}

func newMachine(t *testing.T, change func(*Config)) *machine {
	t.Helper()
	st, err := state.Open(t.TempDir())
	if err != nil {
		t.Fatal(err)
	}
	m := &machine{state: st, log: logbook.New(time.Now)}
	c := Config{
		Info:   func(context.Context) boxapi.Info { return boxapi.Info{Name: "box-1", Version: "1.0"} },
		Log:    m.log,
		Logger: slog.New(slog.DiscardHandler),
		Send: func(verb string, data []byte) error {
			var l boxapi.Logs
			if err := json.Unmarshal(data, &l); err != nil || verb != boxapi.VerbLog {
				t.Errorf("sent %s %s: %v", verb, data, err)
			}
			m.mu.Lock()
			defer m.mu.Unlock()
			m.sent = append(m.sent, l)
			return nil
		},
		Power: func(reboot bool, cause string) {
			m.mu.Lock()
			defer m.mu.Unlock()
			m.powers = append(m.powers, fmt.Sprintf("%v %s", reboot, cause))
		},
		State: st, ConfigText: func() string { return "port: 4222" },
		CheckConfig: func(_ context.Context, text string) error {
			if strings.Contains(text, "bad") {
				return errors.New("line 1: bad")
			}
			return nil
		},
		Disks: func() ([]disk.Disk, error) {
			return []disk.Disk{
				{Name: "vda", Bytes: 1 << 30, Found: disk.Found{Content: disk.System, Detail: "Millrace image"}},
				{Name: "vdb", Serial: "S1", Bytes: 1 << 30, Found: disk.Found{Content: disk.Data, Detail: "ours"}},
				{Name: "vdc", Serial: "S2", Bytes: 1 << 30, Found: disk.Found{Content: disk.Foreign, Detail: "photos"}},
				{Name: "vdd", Bytes: 1 << 10, Found: disk.Found{Content: disk.Empty}},
			}, nil
		},
		DataDisks: func() []string { return []string{"vdb"} },
		Uploads:   update.OpenUploads(t.TempDir()),
		Install: func(image []byte) (update.Slot, error) {
			if string(image) == "bad image" {
				return update.Slot{}, errors.New("no signature")
			}
			m.images = append(m.images, string(image))
			return update.Slot{Name: "millrace_1.1+3-0.efi", Version: "1.1"}, nil
		},
		Now: time.Now,
	}
	if change != nil {
		change(&c)
	}
	m.Service = New(c)
	t.Cleanup(m.Close)
	return m
}

// ask sends a request in JSON, or a chunk as it is encoded, and returns the answer, or the error's text.
func (m *machine) ask(t *testing.T, verb string, in any) string {
	t.Helper()
	data, err := json.Marshal(in)
	if c, ok := in.(boxapi.Chunk); ok {
		data, err = c.Encode()
	}
	if err != nil {
		t.Fatal(err)
	}
	out, err := m.Answer(t.Context(), verb, data)
	if err != nil {
		return "error: " + err.Error()
	}
	return string(out)
}

func (m *machine) want(t *testing.T, verb string, in any, want string) {
	t.Helper()
	if got := m.ask(t, verb, in); !strings.Contains(got, want) {
		t.Errorf("%s %+v: %s, want %q", verb, in, got, want)
	}
}

func TestServiceAnswers(t *testing.T) {
	m := newMachine(t, nil)
	m.want(t, boxapi.VerbInfo, nil, `"name":"box-1"`)
	m.want(t, boxapi.VerbConfigGet, nil, `{"text":"port: 4222"}`)
	m.want(t, "SHELL", nil, `error: unknown request "SHELL"`)
	m.want(t, boxapi.VerbPower, map[string]bool{"of": true}, `error: request: json: unknown field "of"`)
	m.want(t, boxapi.VerbDisks, nil, `{"name":"vdb","serial":"S1","bytes":1073741824,"use":"data","holds":"ours"}`)
	m.want(t, boxapi.VerbPower, boxapi.PowerRequest{Off: true}, "{}")
	m.want(t, boxapi.VerbPower, boxapi.PowerRequest{}, "{}")
	if got := strings.Join(m.powers, ", "); got != "false asked by the system account, true asked by the system account" {
		t.Errorf("power %q", got)
	}
}

// What is refused changes nothing; what is taken is remembered before the box starts anew.
func TestServiceChanges(t *testing.T) {
	m := newMachine(t, nil)
	orders := func() string {
		o, err := m.state.Orders()
		return fmt.Sprint(o, err)
	}
	none := fmt.Sprint(state.Orders{}, nil)
	for _, tt := range []struct {
		verb string
		in   any
		want string
	}{
		{boxapi.VerbReset, boxapi.ResetRequest{Name: "box-2"}, `error: reset of "box-2" asked of "box-1"`},
		{boxapi.VerbTakeDisk, boxapi.TakeRequest{Disk: "vdc", Erase: "S1"}, `error: nothing done: disk vdc is called "S2", not "S1"`},
		{boxapi.VerbTakeDisk, boxapi.TakeRequest{Disk: "vdc"}, `error: nothing done: what disk vdc holds is lost only when its erasure is asked for by its name "S2"`},
		{boxapi.VerbTakeDisk, boxapi.TakeRequest{Disk: "vdb", Erase: "S1"}, "error: disk vdb is a data disk"},
		{boxapi.VerbTakeDisk, boxapi.TakeRequest{Disk: "vda", Erase: "vda"}, "error: disk vda cannot be taken"},
		{boxapi.VerbTakeDisk, boxapi.TakeRequest{Disk: "vdd", Erase: "vdd"}, "error: disk vdd cannot be taken"},
		{boxapi.VerbTakeDisk, boxapi.TakeRequest{Disk: "vdz", Erase: "vdz"}, "error: there is no disk vdz"},
		{boxapi.VerbConfigSet, boxapi.Config{Text: "bad", Reboot: true}, "error: configuration not taken: line 1: bad"},
	} {
		m.want(t, tt.verb, tt.in, tt.want)
		if orders() != none || len(m.powers) > 0 {
			t.Errorf("%s %+v: orders %s, power %v", tt.verb, tt.in, orders(), m.powers)
		}
		if _, found, _ := m.state.Config(); found {
			t.Errorf("%s %+v: there is a configuration", tt.verb, tt.in)
		}
	}
	m.want(t, boxapi.VerbConfigSet, boxapi.Config{Text: "port: 1"}, "from the next start on")
	if text, _, err := m.state.Config(); text != "port: 1" || err != nil || len(m.powers) > 0 {
		t.Errorf("configuration %q, %v, power %v", text, err, m.powers)
	}
	m.want(t, boxapi.VerbConfigSet, boxapi.Config{Text: "port: 2", Reboot: true}, "{}")
	m.want(t, boxapi.VerbTakeDisk, boxapi.TakeRequest{Disk: "vdc", Erase: "S2"}, "{}")
	if got, want := orders(), fmt.Sprint(state.Orders{TakeDisk: "S2"}, nil); got != want {
		t.Errorf("orders %s, want %s", got, want)
	}
	m.want(t, boxapi.VerbReset, boxapi.ResetRequest{Name: "box-1", Data: true}, "{}")
	if got, want := orders(), fmt.Sprint(state.Orders{Reset: true, EraseData: true}, nil); got != want {
		t.Errorf("orders %s, want %s", got, want)
	}
	if got := strings.Join(m.powers, ", "); got != "true new configuration, true new data disk, true reset asked by the system account" {
		t.Errorf("power %q", got)
	}
}

func TestServiceWithoutState(t *testing.T) {
	m := newMachine(t, func(c *Config) { c.State, c.Uploads = nil, nil })
	for verb, in := range map[string]any{
		boxapi.VerbReset:     boxapi.ResetRequest{Name: "box-1"},
		boxapi.VerbConfigSet: boxapi.Config{Text: "x"},
		boxapi.VerbTakeDisk:  boxapi.TakeRequest{Disk: "vdc", Erase: "S2"},
		boxapi.VerbUpload:    boxapi.UploadRequest{},
		boxapi.VerbData:      boxapi.Chunk{},
		boxapi.VerbInstall:   boxapi.InstallRequest{},
	} {
		m.want(t, verb, in, "error: "+ErrNoState.Error())
	}
}

func TestServiceUpdate(t *testing.T) {
	m := newMachine(t, nil)
	for _, image := range []string{"an image", "bad image"} {
		hash := sha256.Sum256([]byte(image))
		sum := hex.EncodeToString(hash[:])
		m.want(t, boxapi.VerbUpload, boxapi.UploadRequest{Size: int64(len(image)), SHA256: sum}, `{"offset":0,"window":2097152}`)
		m.want(t, boxapi.VerbData, boxapi.Chunk{SHA256: sum, Data: []byte(image[:3])}, `{"offset":3,`)
		m.want(t, boxapi.VerbData, boxapi.Chunk{SHA256: sum, Data: []byte(image[:4])}, "error: the upload is at byte 3")
		m.want(t, boxapi.VerbInstall, boxapi.InstallRequest{SHA256: sum, Reboot: true}, "error: the upload is at byte 3 of")
		m.want(t, boxapi.VerbUpload, boxapi.UploadRequest{Size: int64(len(image)), SHA256: sum}, `{"offset":3,`)
		m.want(t, boxapi.VerbData, boxapi.Chunk{SHA256: sum, Offset: 3, Data: []byte(image[3:])}, fmt.Sprintf(`{"offset":%d,`, len(image)))
		if image == "bad image" {
			m.want(t, boxapi.VerbInstall, boxapi.InstallRequest{SHA256: sum, Reboot: true}, "error: image not installed: no signature")
			continue
		}
		m.want(t, boxapi.VerbInstall, boxapi.InstallRequest{SHA256: sum, Reboot: true}, `{"version":"1.1","file":"millrace_1.1+3-0.efi"}`)
	}
	if len(m.images) != 1 || strings.Join(m.powers, ", ") != "true update to 1.1" {
		t.Errorf("installed %q, power %q", m.images, m.powers)
	}
	m.want(t, boxapi.VerbData, boxapi.Chunk{SHA256: "x"}, "error: chunk of 0 bytes")
	m.want(t, boxapi.VerbData, boxapi.Chunk{SHA256: "x", Data: make([]byte, boxapi.MaxChunk+1)}, "error: chunk of 262145 bytes")
	m.want(t, boxapi.VerbData, map[string]string{}, "error: chunk: no line")
}

// Lines reach those who follow as long as they ask, each once, and no longer.
func TestServiceFollow(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		m := newMachine(t, nil)
		fmt.Fprintln(m.log, "before")
		sent := func() string {
			synctest.Wait()
			m.mu.Lock()
			defer m.mu.Unlock()
			var s []string
			for _, l := range m.sent {
				for _, x := range l.Lines {
					s = append(s, x.Text)
				}
			}
			return strings.Join(s, " ")
		}
		m.want(t, boxapi.VerbLogs, boxapi.LogsRequest{Lines: 5, Follow: 10}, `"text":"before"`)
		fmt.Fprintln(m.log, "one")
		if got := sent(); got != "one" {
			t.Errorf("sent %q", got)
		}
		time.Sleep(8 * time.Second)
		m.want(t, boxapi.VerbLogs, boxapi.LogsRequest{Follow: 10}, `{"lines":[]}`)
		time.Sleep(8 * time.Second)
		fmt.Fprintln(m.log, "two")
		if got := sent(); got != "one two" {
			t.Errorf("sent %q", got)
		}
		time.Sleep(3 * time.Second)
		fmt.Fprintln(m.log, "three")
		if got := sent(); got != "one two" {
			t.Errorf("sent %q though nobody asks any more", got)
		}
		m.want(t, boxapi.VerbLogs, boxapi.LogsRequest{Follow: boxapi.MaxFollow + 1}, "error: ")
		m.want(t, boxapi.VerbLogs, boxapi.LogsRequest{Lines: -1}, "error: ")
		m.Close() // ends the bubble's goroutines
	})
}

// An answer stays within what a server takes as a payload, whatever the lines hold.
func TestConvertBounds(t *testing.T) {
	book := logbook.New(time.Now)
	for range 2000 {
		fmt.Fprintln(book, strings.Repeat("\x01", 1000))
	}
	doc, err := json.Marshal(convert(book.Tail(4000)))
	if err != nil || len(doc) > maxLogBytes+1024 || len(doc) < maxLogBytes/2 {
		t.Errorf("%d bytes, %v; want at most %d", len(doc), err, maxLogBytes)
	}
}
