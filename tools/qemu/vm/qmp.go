package vm

import (
	"bufio"
	"context"
	"encoding/json"
	"fmt"
	"net"
	"time"
)

// qmpTimeout bounds one exchange on the control socket; the emulator answers at once or is gone.
const qmpTimeout = 30 * time.Second

// qmp runs one command of the QEMU Machine Protocol on the control socket at path.
func qmp(ctx context.Context, path, command string) error {
	ctx, cancel := context.WithTimeout(ctx, qmpTimeout)
	defer cancel()
	var d net.Dialer
	conn, err := d.DialContext(ctx, "unix", path)
	if err != nil {
		return fmt.Errorf("qmp %s: %w", command, err)
	}
	defer conn.Close()
	if deadline, ok := ctx.Deadline(); ok {
		if err := conn.SetDeadline(deadline); err != nil {
			return fmt.Errorf("qmp %s: %w", command, err)
		}
	}
	r := bufio.NewReader(conn)
	if _, err := r.ReadBytes('\n'); err != nil { // the greeting
		return fmt.Errorf("qmp greeting: %w", err)
	}
	for _, c := range []string{"qmp_capabilities", command} {
		if _, err := fmt.Fprintf(conn, "{\"execute\":%q}\n", c); err != nil {
			return fmt.Errorf("qmp %s: %w", c, err)
		}
		if err := qmpAnswer(r); err != nil {
			return fmt.Errorf("qmp %s: %w", c, err)
		}
	}
	return nil
}

// qmpAnswer reads up to the answer of the last command, skipping events.
func qmpAnswer(r *bufio.Reader) error {
	for {
		line, err := r.ReadBytes('\n')
		if err != nil {
			return err
		}
		var m struct {
			Return *json.RawMessage
			Error  *struct{ Class, Desc string }
		}
		if err := json.Unmarshal(line, &m); err != nil {
			return fmt.Errorf("answer %q: %w", line, err)
		}
		if m.Error != nil {
			return fmt.Errorf("%s: %s", m.Error.Class, m.Error.Desc)
		}
		if m.Return != nil {
			return nil
		}
	}
}
