"""nginx's settings for one stack (how clients are received), and who is behind it. Pure."""

from __future__ import annotations

import shlex
from collections.abc import Mapping, Sequence
from typing import Any

from infra.targets.docker.names import (
    PROXY_CHALLENGE_PORT,
    PROXY_PORT,
    PROXY_TLS_PORT,
    SECRETS_FOLDER,
    SERVER_PORT,
)

CERTIFICATE, KEY = "proxy-certificate.pem", "proxy-key.pem"  # in the secrets' volume
ACME_CA = "proxy-acme-ca.pem"
ACME_FOLDER = "/data/acme"
LETS_ENCRYPT = "https://acme-v02.api.letsencrypt.org/directory"

SETTINGS = """\
# Written by letta-ops.
load_module /usr/lib/nginx/modules/ngx_http_js_module.so;
worker_processes 2;
pid /run/proxy/nginx.pid;
error_log stderr notice;
events {{
    worker_connections 4096;
}}
http {{
    # Without the query: it may hold the codes of a log-in.
    log_format plain '$remote_addr "$request_method $uri" $status $request_time $upstream_addr';
    access_log /dev/stdout plain;
    server_tokens off;
    default_type application/json;
    client_body_temp_path /run/proxy/tmp/body;
    proxy_temp_path /run/proxy/tmp/proxy;
    fastcgi_temp_path /run/proxy/tmp/fastcgi;
    uwsgi_temp_path /run/proxy/tmp/uwsgi;
    scgi_temp_path /run/proxy/tmp/scgi;
    keepalive_timeout 300s;
    js_import route from /usr/local/lib/letta-ops/route.js;
    js_set $letta route.upstream;
    # A server that ends leaves the engine's own name service at once.
    resolver 127.0.0.11 valid=2s ipv6=off;
    server {{
        listen 127.0.0.1:8081;
        access_log off;
        return 204;
    }}
{front}    server {{
{listen}
        client_max_body_size {max_request}m;
        add_header X-Content-Type-Options nosniff always;
        add_header X-Frame-Options DENY always;
        add_header Referrer-Policy no-referrer always;
{strict}        # What it answers itself is JSON, too, in the server's form.
        error_page 413 @too-large;
        error_page 500 502 503 504 @away;
        location @too-large {{
            return 413 '{{"detail": "the request has more than {max_request} MiB (proxy.max_request)"}}';
        }}
        location @away {{
            return 502 '{{"detail": "no Letta server answers: see `letta-ops status`"}}';
        }}
        location / {{
            proxy_pass $letta;
            proxy_http_version 1.1;
            proxy_set_header Connection "";
            proxy_set_header Host $http_host;
            proxy_set_header X-Forwarded-For $remote_addr;
            proxy_set_header X-Forwarded-Proto $scheme;
            # Answers of agents are streams of events, and may take long: each goes out as it comes.
            proxy_buffering off;
            proxy_request_buffering off;
            proxy_read_timeout 3600s;
            proxy_send_timeout 3600s;
            proxy_connect_timeout 2s;
            # Only what never reached a server is tried again at another.
            proxy_next_upstream error timeout;
            proxy_next_upstream_timeout 15s;
        }}
    }}
}}
"""
LISTEN_TLS = """\
        listen {port} ssl;
        http2 on;
        ssl_certificate {certificate};
        ssl_certificate_key {key};
        ssl_protocols TLSv1.2 TLSv1.3;
        ssl_session_tickets off;
        ssl_session_cache shared:letta:2m;"""
STRICT = "        add_header Strict-Transport-Security max-age=31536000 always;\n"
CHALLENGE = """\
    server {{
        listen {port};
        location /.well-known/acme-challenge/ {{
            root {folder}/webroot;
            default_type text/plain;
        }}
        location / {{
            return 308 https://$host$request_uri;
        }}
    }}
"""


def nginx_settings(tls: Mapping[str, Any], max_request: int) -> str:
    """Return nginx's settings file. `tls` has `mode` and `host`; `max_request` is in MiB."""
    mode = tls["mode"]
    on = mode != "off"
    live = f"{ACME_FOLDER}/live"
    acme = mode == "acme"
    listen = LISTEN_TLS.format(
        port=PROXY_TLS_PORT,
        certificate=f"{live}/certificate.pem" if acme else f"{SECRETS_FOLDER}/{CERTIFICATE}",
        key=f"{live}/key.pem" if acme else f"{SECRETS_FOLDER}/{KEY}",
    )
    return SETTINGS.format(
        listen=listen if on else f"        listen {PROXY_PORT};",
        front=CHALLENGE.format(port=PROXY_CHALLENGE_PORT, folder=ACME_FOLDER) if acme else "",
        strict=STRICT if on else "",
        max_request=max_request,
    )


def acme_settings(tls: Mapping[str, Any]) -> str:
    """Return what `letta-ops-acme` of the proxy's image reads; empty when there's nothing to fetch."""
    if tls["mode"] != "acme":
        return ""
    authority = f"{SECRETS_FOLDER}/{ACME_CA}" if tls.get("acme_ca") else ""
    variables = {
        "host": tls["host"],
        "email": tls.get("email") or "",
        "directory": tls.get("acme_directory") or LETS_ENCRYPT,
        "authority": authority,
    }
    return "".join(f"{name}={shlex.quote(str(value))}\n" for name, value in variables.items())


def upstream(alias: str, servers: Sequence[str] = ()) -> str:
    """Return what the proxy reads for each request: the address of `alias`, which all of `servers`
    (containers) share, then their names.
    """
    return " ".join([f"http://{alias}:{SERVER_PORT}", *servers])


def servers_of(text: str) -> list[str]:
    """The containers that an `upstream` sends clients to; [] for what isn't one."""
    address, *servers = text.split() or [""]
    return servers if address.startswith("http://") else []
