#!/bin/sh
# Builds the example plugins and the test guests, all of them or the named ones:
#
#   build.sh OUTDIR [NAME...]
#
# Needs go; the guests in C need clang and wasm-ld (apt install clang lld).
set -eu

if [ $# -lt 1 ]; then
	echo "usage: build.sh OUTDIR [NAME...]" >&2
	exit 2
fi
mkdir -p "$1"
out=$(cd "$1" && pwd)
shift
cd "$(dirname "$0")"
if [ $# -eq 0 ]; then
	set -- */
fi

need() {
	if ! command -v "$1" >/dev/null; then
		echo "build.sh: $1 is not installed" >&2
		exit 1
	fi
}

for name in "$@"; do
	name=${name%/}
	if [ -f "$name/main.go" ]; then
		need go
		GOOS=wasip1 GOARCH=wasm go build -buildmode=c-shared -trimpath -ldflags='-s -w' \
			-o "$out/$name.wasm" "./$name"
	else
		need clang
		need wasm-ld
		clang --target=wasm32 -O2 -Wall -Wextra -Wno-unused-parameter -Werror -nostdlib -I ../sdk/c \
			-Wl,--no-entry -Wl,--stack-first -Wl,-z,stack-size=16384 -o "$out/$name.wasm" "$name"/*.c
	fi
done
