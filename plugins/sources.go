package plugins

import (
	"embed"
	"io/fs"
)

//go:embed abi/abi.go abi/frame.go sdk/*.go sdk/c/cpi.h
var sources embed.FS

// Sources returns what a guest is built from besides its own code: the packages abi and sdk, and the
// header for C, under their paths below plugins/.
func Sources() fs.FS { return sources }
