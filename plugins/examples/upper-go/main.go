// Command upper-go is a consumer plugin: it publishes every message in upper case under
// "upper.<subject>" and counts them in the bucket "state", if the binding grants it.
package main

import (
	"bytes"
	"errors"
	"strconv"

	"millrace/plugins/abi"
	"millrace/plugins/sdk"
)

var _ = sdk.Register(sdk.Plugin{Message: upper})

const state = sdk.Bucket("state")

func upper(m *sdk.Message) error {
	if err := m.Publish("upper."+m.Subject, nil, bytes.ToUpper(m.Data)); err != nil {
		return err
	}
	entry, err := state.Get(m.Subject)
	switch {
	case errors.Is(err, abi.Denied):
		return nil
	case err != nil && !errors.Is(err, sdk.ErrNotFound):
		return err
	}
	n, _ := strconv.Atoi(string(entry.Value)) // a key without a number starts at 0
	return state.Put(m, m.Subject, strconv.AppendInt(nil, int64(n)+1, 10))
}

func main() {}
