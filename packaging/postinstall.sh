#!/bin/sh
# After the package is installed or upgraded: the user caddy, the file for the keys, systemd.
set -e

if ! getent group caddy >/dev/null; then
	groupadd --system caddy
fi
if ! getent passwd caddy >/dev/null; then
	useradd --system --gid caddy --home-dir /var/lib/caddy --no-create-home --shell /usr/sbin/nologin caddy
fi
# PHP-FPM's socket belongs to this group on Debian and Ubuntu.
if getent group www-data >/dev/null; then
	usermod --append --groups www-data caddy
fi

if [ ! -e /etc/caddy/caddy.env ]; then
	(umask 077 && : >/etc/caddy/caddy.env)
fi
chown root:caddy /etc/caddy/caddy.env
chmod 0640 /etc/caddy/caddy.env

if [ -d /run/systemd/system ]; then
	systemctl daemon-reload
	if systemctl is-active --quiet caddy; then
		systemctl restart caddy
	else
		echo "caddy-chinaums: put the keys into /etc/caddy/caddy.env, edit /etc/caddy/Caddyfile, then run: systemctl enable --now caddy"
	fi
fi
