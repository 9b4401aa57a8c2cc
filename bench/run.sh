#!/bin/sh
# Measures this plugin against what its users would use instead, and writes RESULTS.md and the plots beside this file.
#
#   bench/run.sh [-short] [-out directory] [-only compare,pairs,stale,growth,memory]
#   bench/run.sh -install                    # the peers, from Debian; then run it without
#   bench/run.sh -only against -against ./other-caddy -out /tmp    # two builds of the plugin, side by side
#   bench/run.sh -from bench/results.json    # the report of what was measured before
#
# A short run writes into a temporary directory unless -out says where. Needs Linux and Go; peers that are not installed
# are left out, and the report says so. A whole run begins with the depth of the inbox's stores; for NATS, NATS_SERVER_BINARY
# may name a nats-server of 2.11 or later.
set -eu
cd "$(dirname "$0")/.."

peers="nginx libnginx-mod-http-js libnginx-mod-http-lua lua-resty-core php-fpm php-curl"

case ${1:-} in
-h | -help | --help)
	sed -n '2,11s/^#\( \|$\)//p' bench/run.sh
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
trap 'rm -rf "$scratch" || :' EXIT # what is left of it is no failure
trap 'exit 1' INT TERM

out=bench
measure=yes
whole=yes
for argument in "$@"; do
	case $argument in
	-short | --short) out=$scratch whole= ;;
	-from | --from | -from=* | --from=*) measure= whole= ;;
	-only | --only | -only=* | --only=*) whole= ;;
	esac
done

(cd bench && go build -buildvcs=false -o "$scratch/bench" .)
commit=
if [ -n "$whole" ]; then
	for store in bolt nats; do
		echo "# Inbox depth, store $store"
		CHINAUMS_DEPTH="1000 100000 1000000" go test -run '^$' -bench Depth -benchtime 3x -timeout 1h "./inbox/${store}store"
	done >"$scratch/benchmarks"
	set -- -benchmarks "$scratch/benchmarks" "$@"
fi
if [ -n "$measure" ]; then
	go build -buildvcs=false -o "$scratch/caddy" ./cmd/caddy
	commit=$(git rev-parse --short HEAD 2>/dev/null || true)
	if [ -n "$commit" ] && [ -n "$(git status --porcelain -- '*.go' go.mod bench/go.mod 2>/dev/null)" ]; then
		commit="$commit with changes"
	fi
fi
"$scratch/bench" -caddy "$scratch/caddy" -out "$out" -commit "$commit" "$@"
