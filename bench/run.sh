#!/bin/sh
# Measures this plugin against what its users would use instead, and writes RESULTS.md and the plots beside this file.
#
#   bench/run.sh [-short] [-out directory] [-only compare,pairs,growth,memory]
#   bench/run.sh -install                    # the peers, from Debian; then run it without
#   bench/run.sh -from bench/results.json    # the report of what was measured before
#
# A short run writes into a temporary directory unless -out says where. Needs Linux and Go; peers that are not installed
# are left out, and the report says so.
set -eu
cd "$(dirname "$0")/.."

peers="nginx libnginx-mod-http-js libnginx-mod-http-lua lua-resty-core php-fpm php-curl"

case ${1:-} in
-h | -help | --help)
	sed -n '2,9s/^#\( \|$\)//p' bench/run.sh
	exit
	;;
esac

if [ "${1:-}" = -install ]; then
	root=
	[ "$(id -u)" = 0 ] || root=sudo
	$root apt-get update -qq
	$root env DEBIAN_FRONTEND=noninteractive apt-get install -y -qq --no-install-recommends $peers
	exit
fi

PATH="$PATH:/usr/sbin:/usr/local/go/bin"
export PATH
scratch=$(mktemp -d)
trap 'rm -rf "$scratch"' EXIT
trap 'exit 1' INT TERM

out=bench
measure=yes
for argument in "$@"; do
	case $argument in
	-short | --short) out=$scratch ;;
	-from | --from | -from=* | --from=*) measure= ;;
	esac
done

(cd bench && go build -buildvcs=false -o "$scratch/bench" .)
commit=
if [ -n "$measure" ]; then
	go build -buildvcs=false -o "$scratch/caddy" ./cmd/caddy
	commit=$(git rev-parse --short HEAD 2>/dev/null || true)
	if [ -n "$commit" ] && [ -n "$(git status --porcelain -- '*.go' go.mod bench/go.mod 2>/dev/null)" ]; then
		commit="$commit with changes"
	fi
fi
"$scratch/bench" -caddy "$scratch/caddy" -out "$out" -commit "$commit" "$@"
