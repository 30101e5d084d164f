package api

import (
	"encoding/json"
	"errors"
	"fmt"
	"os"
	"regexp"
	"testing"
)

func TestErrorTableMatchesRecorded(t *testing.T) {
	data, err := os.ReadFile("testdata/errors.json")
	if err != nil {
		t.Fatal(err)
	}
	var want []struct {
		Constant    string `json:"constant"`
		Code        int    `json:"code"`
		ErrCode     uint16 `json:"error_code"`
		Description string `json:"description"`
	}
	if err := json.Unmarshal(data, &want); err != nil {
		t.Fatal(err)
	}
	if len(want) != len(errorTable) {
		t.Fatalf("table has %d errors, want %d", len(errorTable), len(want))
	}
	for i, w := range want {
		if got, want := errorTable[i], (errorRow{w.Constant, w.Code, w.ErrCode, w.Description}); got != want {
			t.Errorf("row %d is %+v, want %+v", i, got, want)
		}
	}
}

func TestErrorTableHasNoDuplicates(t *testing.T) {
	constants, last := map[string]bool{}, uint16(0)
	for _, row := range errorTable {
		if constants[row.constant] {
			t.Errorf("%s stands twice", row.constant)
		}
		constants[row.constant] = true
		if row.errCode <= last {
			t.Errorf("%s: err_code %d stands after %d", row.constant, row.errCode, last)
		}
		last = row.errCode
	}
}

func TestErrorPlaceholdersAreReplaced(t *testing.T) {
	for _, c := range []struct {
		err  *Error
		want string
	}{
		{ErrInvalidJSONF("x {err} y"), "invalid JSON: x {err} y (10025)"},
		{ErrSequenceNotFoundF(7), "sequence 7 not found (10043)"},
		{ErrStreamWrongLastSequenceF(9), "wrong last sequence: 9 (10071)"},
		{ErrStreamWrongLastMsgIDF("a"), "wrong last msg ID: a (10070)"},
		{ErrConsumerNameTooLongF(255), "consumer name is too long, maximum allowed is 255 (10102)"},
		{ErrConsumerMaxPendingAckExcessF(5), "consumer max ack pending exceeds system limit of 5 (10121)"},
		{ErrPedanticF("p"), "pedantic mode: p (10157)"},
		{ErrStreamNotFound, "stream not found (10059)"},
	} {
		if got := c.err.Error(); got != c.want {
			t.Errorf("got %q, want %q", got, c.want)
		}
	}
	placeholder := regexp.MustCompile(`\{\w+\}`)
	for _, err := range []*Error{ErrClusterNoPeersF("r"), ErrStreamLimitsF("r"), ErrConsumerMetadataLengthF("r"),
		ErrConsumerInactiveThresholdExcessF("r"), ErrConsumerMaxRequestBatchExceededF(1), ErrConsumerInvalidResetF("r"),
		ErrConsumerDescriptionTooLongF(1), ErrStreamTransformInvalidSourceF("r"), ErrConsumerStoreFailedF("r")} {
		if placeholder.MatchString(err.Description) {
			t.Errorf("%d: placeholder left in %q", err.ErrCode, err.Description)
		}
	}
}

func TestErrorIsByErrCode(t *testing.T) {
	err := fmt.Errorf("create stream %q: %w", "S", ErrStreamInvalidConfigF("reason"))
	if !errors.Is(err, ErrStreamInvalidConfigF("other reason")) {
		t.Error("errors with the same err_code are not Is")
	}
	if errors.Is(err, ErrStreamNotFound) {
		t.Error("errors with another err_code are Is")
	}
}

func TestErrorLookupOfUnknownCodePanics(t *testing.T) {
	for _, f := range []func(){
		func() { lookup(9999) },
		func() { lookup(10059, "{err}", "x") },
		func() { lookup(10025) },
	} {
		func() {
			defer func() {
				if recover() == nil {
					t.Error("no panic")
				}
			}()
			f()
		}()
	}
}
