//go:build !linux

package cluster

import "errors"

// Disk exists on Linux only.
type Disk struct{}

// NewDisk returns an error.
func NewDisk(string, int64) (*Disk, error) {
	return nil, errors.New("disks that can be full need Linux")
}

// Fill does nothing.
func (d *Disk) Fill() error { return nil }

// Free does nothing.
func (d *Disk) Free() error { return nil }

// Close does nothing.
func (d *Disk) Close() error { return nil }

// Image exists on Linux only.
type Image struct{}

// NewImage returns an error.
func NewImage(dir, file string, size int64) (*Image, error) {
	return nil, errors.New("disks whose power can be cut need Linux")
}

// CutPower does nothing.
func (i *Image) CutPower() error { return nil }

// Close does nothing.
func (i *Image) Close() error { return nil }
