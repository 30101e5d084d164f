// Package state is what a box remembers between boots, on the state partition: who it is, which disk
// its data is on, its configuration, and what is to be done at the next boot. An update of the image
// touches none of it. system/boot calls it.
//
// Each thing is one small file that is replaced as a whole: after a power cut it is the old one or the
// new one. A file that is there but cannot be read is an error and never replaced by a new one.
//
// Reading order:
//
//	store.go     Store: the folder, and how a file is replaced
//	identity.go  node key and server name, made once
//	binding.go   the data disk of this box
//	orders.go    what the next boot is to do
//	config.go    the configuration, and whether flashing brought another
package state
