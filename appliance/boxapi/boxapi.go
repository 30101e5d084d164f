// Package boxapi is what is asked of a Millrace box over NATS, in the system account: subjects,
// requests and answers. appliance/system/box answers, millraced carries, tools/millrace asks.
//
// A request to one box goes to Subject(id, verb), id being that of its server (as in INFO); Ping
// reaches all boxes and is answered as INFO is. Every answer is an Answer in JSON.
package boxapi

import (
	"bytes"
	"encoding/json"
	"errors"
	"fmt"
	"time"
)

// Prefix begins all subjects of boxes.
const Prefix = "$MILLRACE.BOX."

// Ping is answered by every box.
const Ping = Prefix + "PING"

// Verbs.
const (
	VerbInfo      = "INFO"          // no request; Info
	VerbLogs      = "LOGS"          // LogsRequest; Logs
	VerbPower     = "POWER"         // PowerRequest; Done
	VerbReset     = "RESET"         // ResetRequest; Done
	VerbConfigGet = "CONFIG.GET"    // no request; Config
	VerbConfigSet = "CONFIG.SET"    // Config; Done
	VerbDisks     = "DISKS"         // no request; Disks
	VerbTakeDisk  = "DISKS.TAKE"    // TakeRequest; Done
	VerbUpload    = "UPDATE.BEGIN"  // UploadRequest; Upload
	VerbData      = "UPDATE.DATA"   // Chunk, as Encode writes it; Upload
	VerbInstall   = "UPDATE.COMMIT" // InstallRequest; Installed

	// VerbLog is no request: it ends the subject on which a box sends log lines (a Logs each) to those
	// that follow.
	VerbLog = "LOG"
)

// Subject is where a verb is asked of the box whose server has the id.
func Subject(id, verb string) string { return Prefix + id + "." + verb }

// MaxChunk bounds the data of one Chunk, in bytes; a smaller max_payload asks for less.
const MaxChunk = 256 << 10

// Answer is every answer.
type Answer struct {
	Server string          `json:"server"` // id of the server beside which the box answers
	Data   json.RawMessage `json:"data,omitempty"`
	Error  string          `json:"error,omitempty"`
}

// Roles of a box.
const (
	RoleStorage = "storage" // has a data disk
	RoleRouter  = "router"  // has none: streams are off, clients and routes are served
)

// Info describes a box.
type Info struct {
	Name      string    `json:"name"` // server name
	Hostname  string    `json:"hostname"`
	Key       string    `json:"key"` // public node key
	Version   string    `json:"version"`
	Board     string    `json:"board,omitempty"` // what machines the version is for
	Debug     bool      `json:"debug,omitempty"` // the version gives a shell to who reaches the console
	Kernel    string    `json:"kernel"`
	Started   time.Time `json:"started"`
	Time      time.Time `json:"time"`
	Clock     string    `json:"clock"` // how well the time is known
	Addresses []string  `json:"addresses"`
	Role      string    `json:"role"`
	State     string    `json:"state"` // where the state is kept
	Data      string    `json:"data"`  // where streams are kept
	Health    Health    `json:"health"`
	Watchdog  string    `json:"watchdog"`
	Memory    Memory    `json:"memory"`
	Update    Update    `json:"update"`
	Warnings  []string  `json:"warnings,omitempty"`
}

// Memory is that of a box, in bytes.
type Memory struct {
	Total     int64 `json:"total"`
	Available int64 `json:"available"` // to programs, before anything would have to be given up
}

// Health is what millraced says of itself, as its HEALTHZ.
type Health struct {
	Status string `json:"status"` // "ok" or "unavailable"
	Error  string `json:"error,omitempty"`
}

// OK reports whether all is well.
func (h Health) OK() bool { return h.Status == "ok" }

// Update is where a box stands with its versions.
type Update struct {
	Trial  bool   `json:"trial"`            // the running version has not proven itself yet
	Tries  int    `json:"tries,omitempty"`  // that are left to the version on trial, after this one
	Result string `json:"result,omitempty"` // of the last update
	Slots  []Slot `json:"slots,omitempty"`
}

// Slot is one version on the disk.
type Slot struct {
	File    string `json:"file"`
	Version string `json:"version"`
	Running bool   `json:"running,omitempty"`
	Good    bool   `json:"good"` // has proven itself
}

// LogsRequest asks for the last lines, and to be sent those that follow.
type LogsRequest struct {
	Lines  int `json:"lines"`
	Follow int `json:"follow,omitempty"` // seconds, at most MaxFollow; to be asked for again in time
}

// MaxFollow is how long a box goes on sending lines after it was asked to, in seconds.
const MaxFollow = 60

// Logs are lines of the log, oldest first.
type Logs struct {
	Lines []LogLine `json:"lines"`
}

// LogLine is one line.
type LogLine struct {
	Seq  uint64    `json:"seq"` // since the box started; 0: before that
	Time time.Time `json:"time"`
	Text string    `json:"text"`
}

// PowerRequest ends the run of a box.
type PowerRequest struct {
	Off bool `json:"off"` // switch off; false: start anew
}

// ResetRequest makes a box forget who it is, at its next start, which comes at once.
type ResetRequest struct {
	Name string `json:"name"` // of the box, as a confirmation
	Data bool   `json:"data"` // erase the data disk too
}

// Config is the configuration file of a box.
type Config struct {
	Text   string `json:"text"`
	Reboot bool   `json:"reboot,omitempty"` // of a CONFIG.SET: start anew at once; it counts from then on
}

// Disks are the disks of a box.
type Disks struct {
	Disks []Disk `json:"disks"`
}

// Disk is one disk.
type Disk struct {
	Name   string `json:"name"`
	Serial string `json:"serial,omitempty"`
	Model  string `json:"model,omitempty"`
	Bytes  int64  `json:"bytes"`
	Use    string `json:"use"` // what the box does with it: "system", "data" or empty
	Holds  string `json:"holds"`
}

// TakeRequest makes a disk the data disk at the next start, which comes at once. All it holds is lost.
type TakeRequest struct {
	Disk  string `json:"disk"`  // kernel name
	Erase string `json:"erase"` // its serial number, or its name if it has none, as a confirmation
}

// UploadRequest begins the upload of an image, or goes on with one that was cut short.
type UploadRequest struct {
	Size   int64  `json:"size"`
	SHA256 string `json:"sha256"` // hexadecimal
}

// Upload is how far an upload is.
type Upload struct {
	Offset int64 `json:"offset"` // all bytes before it are there

	// Window is how many bytes from Offset on the box takes in any order, so that chunks can be on their way at the
	// same time; what begins behind it is refused.
	Window int64 `json:"window,omitempty"`
}

// Chunk is a piece of an image.
type Chunk struct {
	SHA256 string `json:"sha256"` // of the whole image: which upload this is of
	Offset int64  `json:"offset"`
	Data   []byte `json:"-"`
}

// Encode writes a chunk: its fields in JSON on one line, then the data as it is. In JSON the data would be a third longer,
// and a box would spend more time on reading it than on writing it to its disk.
func (c Chunk) Encode() ([]byte, error) {
	head, err := json.Marshal(c)
	if err != nil {
		return nil, fmt.Errorf("encode chunk: %w", err)
	}
	b := make([]byte, 0, len(head)+1+len(c.Data))
	return append(append(append(b, head...), '\n'), c.Data...), nil
}

// DecodeChunk reads what Encode wrote; Data is a part of b. A field that is not known is refused, and so is data of
// another size than 1 to MaxChunk bytes.
func DecodeChunk(b []byte) (c Chunk, err error) {
	head, data, ok := bytes.Cut(b, []byte{'\n'})
	if !ok {
		return c, errors.New("chunk: no line that says what it is")
	}
	d := json.NewDecoder(bytes.NewReader(head))
	d.DisallowUnknownFields()
	if err := d.Decode(&c); err != nil {
		return c, fmt.Errorf("chunk: %w", err)
	}
	if c.Data = data; len(data) == 0 || len(data) > MaxChunk {
		return c, fmt.Errorf("chunk of %d bytes, want 1 to %d", len(data), MaxChunk)
	}
	return c, nil
}

// InstallRequest checks an uploaded image and makes it the next to start.
type InstallRequest struct {
	SHA256 string `json:"sha256"`
	Reboot bool   `json:"reboot"` // start it at once
}

// Installed says what was installed.
type Installed struct {
	Version string `json:"version"`
	File    string `json:"file"`
}

// Done is the answer of what has nothing to tell.
type Done struct {
	Note string `json:"note,omitempty"`
}
