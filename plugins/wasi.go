package plugins

import (
	"context"
	"encoding/binary"
	"fmt"
	"slices"
	"strings"

	"millrace/plugins/abi"
	"millrace/plugins/meter"
)

// wasiModule is what Go and libc guests import. They get a clock that stands still during a run, a
// seeded random source and an output that is logged; no files, arguments, environment or sockets.
const wasiModule = "wasi_snapshot_preview1"

// WASI error numbers.
const (
	errnoSuccess = 0
	errnoBadf    = 8
	errnoInval   = 28
	errnoNosys   = 52
)

func wasiFunctions() map[string]hostFunction {
	empty := func(_ context.Context, _ *Instance, s []uint64) { s[0] = errnoSuccess }
	sizes := func(_ context.Context, in *Instance, s []uint64) {
		clear(in.view(s[0], 4))
		clear(in.view(s[1], 4))
		s[0] = errnoSuccess
	}
	noPreopens := func(_ context.Context, _ *Instance, s []uint64) { s[0] = errnoBadf }
	return map[string]hostFunction{
		"args_get":          {signature("ii", "i"), empty},
		"args_sizes_get":    {signature("ii", "i"), sizes},
		"environ_get":       {signature("ii", "i"), empty},
		"environ_sizes_get": {signature("ii", "i"), sizes},
		"clock_time_get":    {signature("ili", "i"), wasiClock},
		"fd_write":          {signature("iiii", "i"), wasiWrite},
		"fd_fdstat_get":     {signature("ii", "i"), wasiFdstat},
		"fd_prestat_get":    {signature("ii", "i"), noPreopens},
		"proc_exit":         {signature("i", ""), wasiExit},
		"random_get":        {signature("ii", "i"), wasiRandom},
		"sched_yield":       {signature("", "i"), empty},
	}
}

// wasiOthers are the functions of preview 1 that exist and answer ENOSYS.
const wasiOthers = " clock_res_get fd_advise fd_allocate fd_close fd_datasync fd_fdstat_set_flags " +
	"fd_fdstat_set_rights fd_filestat_get fd_filestat_set_size fd_filestat_set_times fd_pread " +
	"fd_prestat_dir_name fd_pwrite fd_read fd_readdir fd_renumber fd_seek fd_sync fd_tell " +
	"path_create_directory path_filestat_get path_filestat_set_times path_link path_open path_readlink " +
	"path_remove_directory path_rename path_symlink path_unlink_file poll_oneoff proc_raise " +
	"sock_accept sock_recv sock_send sock_shutdown "

func wasiKnown(name string, typ meter.FuncType) bool {
	if f, ok := wasiFunctions()[name]; ok {
		return f.typ == typ
	}
	return typ.Results == signature("", "i").Results && slices.Contains(strings.Fields(wasiOthers), name)
}

func wasiUnsupported(_ context.Context, _ *Instance, s []uint64) { s[0] = errnoNosys }

func wasiClock(_ context.Context, in *Instance, s []uint64) {
	if uint32(s[0]) > 3 {
		s[0] = errnoInval
		return
	}
	binary.LittleEndian.PutUint64(in.view(s[2], 8), uint64(in.now))
	s[0] = errnoSuccess
}

func wasiRandom(ctx context.Context, in *Instance, s []uint64) {
	in.fillRandom(ctx, in.view(s[0], s[1]))
	s[0] = errnoSuccess
}

// wasiFdstat describes the standard streams as character devices.
func wasiFdstat(_ context.Context, in *Instance, s []uint64) {
	if uint32(s[0]) > 2 {
		s[0] = errnoBadf
		return
	}
	stat := in.view(s[1], 24)
	clear(stat)
	stat[0] = 2
	s[0] = errnoSuccess
}

func wasiWrite(ctx context.Context, in *Instance, s []uint64) {
	fd, vectors, n, writtenAt := uint32(s[0]), s[1], uint32(s[2]), s[3]
	if fd != 1 && fd != 2 {
		s[0] = errnoBadf
		return
	}
	out := &in.stdio[fd-1]
	out.level = abi.Info
	if fd == 2 {
		out.level = abi.Error
	}
	var written uint32
	for i := range uint64(n) {
		vector := in.view(vectors+8*i, 8)
		b := in.view(uint64(binary.LittleEndian.Uint32(vector)), uint64(binary.LittleEndian.Uint32(vector[4:])))
		in.charge(ctx, 4*len(b))
		out.write(in, b)
		written += uint32(len(b))
	}
	binary.LittleEndian.PutUint32(in.view(writtenAt, 4), written)
	s[0] = errnoSuccess
}

// wasiExit ends the run. A Go guest comes here after a panic, which it has written to stderr.
func wasiExit(_ context.Context, in *Instance, s []uint64) {
	in.stdio[1].flush(in)
	reason := fmt.Sprintf("the plugin exited with code %d", uint32(s[0]))
	if said := in.stdio[1].first; said != "" {
		reason += ": " + said
	}
	panic(&stop{TrapExit, reason})
}
