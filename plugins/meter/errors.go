package meter

import "errors"

var (
	// ErrModule is returned for bytes that are not a WebAssembly 2.0 core module.
	ErrModule = errors.New("not a valid WebAssembly module")

	// ErrComponent is returned for a file of the component model.
	ErrComponent = errors.New("this is a component (component model), not a core module; " +
		"build for wasm32-wasip1 or wasm32-unknown-unknown")

	// ErrLimit is returned for a module that is larger than a host accepts.
	ErrLimit = errors.New("module over limit")
)
