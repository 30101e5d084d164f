package api

import (
	"bytes"
	"encoding/json"
	"errors"
	"fmt"
	"io"
)

// Decode reads a request body into v and refuses unknown fields. An empty body leaves v as it is.
// The error is 10025 with the reason, and the offset of a syntax error.
func Decode(body []byte, v any) *Error {
	d := json.NewDecoder(bytes.NewReader(body))
	d.DisallowUnknownFields()
	for {
		err := d.Decode(v)
		if err == nil {
			continue
		}
		if err == io.EOF {
			return nil
		}
		var syntax *json.SyntaxError
		if errors.As(err, &syntax) {
			err = fmt.Errorf("%w at offset %d", err, syntax.Offset)
		}
		return ErrInvalidJSONF(err.Error())
	}
}

// DecodeOptional is Decode for the calls that take a body which does not look like JSON as none.
func DecodeOptional(body []byte, v any) *Error {
	b := bytes.TrimLeft(body, " \t\r\n")
	if len(b) == 0 || b[0] != '{' && b[0] != '[' {
		return nil
	}
	return Decode(body, v)
}

// CheckEmpty refuses the body of a call that takes none; an empty JSON object is none.
func CheckEmpty(body []byte) *Error {
	if len(body) == 0 {
		return nil
	}
	var fields map[string]json.RawMessage
	if err := json.Unmarshal(body, &fields); err != nil || fields == nil || len(fields) > 0 {
		return ErrNotEmptyRequest
	}
	return nil
}

// Check refuses a combination of fields that STREAM.MSG.GET does not know.
func (r *MsgGetRequest) Check() *Error {
	switch {
	case r.Batch > 0 || r.MaxBytes > 0,
		r.Seq > 0 && (r.LastFor != "" || r.StartTime != nil),
		r.Seq == 0 && r.LastFor == "" && r.NextFor == "" && r.StartTime == nil,
		r.LastFor != "" && (r.StartTime != nil || r.NextFor != ""):
		return ErrBadRequest
	}
	return nil
}

// Consistent reports whether DIRECT.GET knows the combination of fields (ADR-31).
func (r *MsgGetRequest) Consistent() bool {
	switch {
	case r.Seq > 0 && (r.LastFor != "" || r.StartTime != nil),
		r.LastFor != "" && (r.StartTime != nil || r.NextFor != "" || r.Batch > 0 || len(r.MultiLastFor) > 0),
		r.NextFor != "" && len(r.MultiLastFor) > 0,
		r.UpToSeq > 0 && r.UpToTime != nil:
		return false
	}
	return true
}

// Selects reports whether the body names messages; it must not when the subject of a DIRECT.GET does.
func (r *MsgGetRequest) Selects() bool {
	return r.Seq != 0 || r.LastFor != "" || r.NextFor != "" || r.Batch != 0 || len(r.MultiLastFor) > 0 ||
		r.StartTime != nil || r.UpToSeq != 0 || r.UpToTime != nil
}

// Check refuses a purge both up to a sequence and down to a number of messages.
func (r *StreamPurgeRequest) Check() *Error {
	if r.Sequence > 0 && r.Keep > 0 {
		return ErrBadRequest
	}
	return nil
}
