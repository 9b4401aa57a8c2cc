#!/bin/sh
# Before the package is removed; an upgrade ("upgrade" or 1) leaves Caddy running.
set -e

case "${1:-remove}" in
remove | 0)
	if [ -d /run/systemd/system ]; then
		systemctl disable --now caddy.socket caddy >/dev/null 2>&1 || true
	fi
	;;
esac
