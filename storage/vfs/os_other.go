//go:build !linux

package vfs

import (
	"errors"
	"os"
)

func allocate(*os.File, int64) error { return errors.ErrUnsupported }

func syncData(f *os.File) error { return f.Sync() }

func startWrite(*os.File, int64, int64) error { return nil }

func cold(*os.File, int64) bool { return false }

func readDirect(*os.File, []byte, int64) (int, error) { return 0, errors.ErrUnsupported }

func wontRead(*os.File, int64, int64) {}

// FreeBytes returns how much may still be written in a directory of the machine; here that is not known, and
// errors.ErrUnsupported.
func FreeBytes(string) (int64, error) { return 0, errors.ErrUnsupported }
