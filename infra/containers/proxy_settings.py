"""Caddy's configuration for one stack: who is behind it, and how clients are received. Pure.

https://caddyserver.com/docs/json/ describes every key.
"""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from typing import Any

from infra.containers.names import PROXY_PORT, PROXY_TLS_PORT, SECRETS_FOLDER, SERVER_PORT

ADMIN = "unix//run/caddy/admin.sock"
SECURITY_HEADERS = {
    "X-Content-Type-Options": ["nosniff"],
    "X-Frame-Options": ["DENY"],
    "Referrer-Policy": ["no-referrer"],
}
STRICT_TRANSPORT = {"Strict-Transport-Security": ["max-age=31536000"]}
CERTIFICATE, KEY = "proxy-certificate.pem", "proxy-key.pem"  # in the secrets' volume
ACME_CA = "proxy-acme-ca.pem"


def caddy_settings(upstreams: Sequence[str], tls: Mapping[str, Any], max_request: int) -> str:
    """Return Caddy's JSON. `tls` is `{"mode", "host", "email", "acme_directory", "acme_ca"}`;

    `max_request` is in MiB.
    """
    on = tls["mode"] != "off"
    server: dict[str, Any] = {
        "listen": [f":{PROXY_TLS_PORT if on else PROXY_PORT}"],
        "routes": [{"handle": _handlers(upstreams, max_request, on)}],
        "protocols": ["h1", "h2"],
        "idle_timeout": "5m",
        "read_header_timeout": "30s",
        "automatic_https": {"disable_redirects": True} if on else {"disable": True},
    }
    apps: dict[str, Any] = {"http": {"servers": {"letta": server}}}
    if on:
        server["tls_connection_policies"] = [{"default_sni": tls["host"]}]
        apps["tls"] = _certificates(tls)
        apps["pki"] = {"certificate_authorities": {"local": {"install_trust": False}}}
    settings = {
        "admin": {"listen": ADMIN, "config": {"persist": False}},
        "storage": {"module": "file_system", "root": "/data/certificates"},
        "logging": {"logs": {"default": {"level": "INFO", "encoder": {"format": "console"}}}},
        "apps": apps,
    }
    return json.dumps(settings, indent=1, sort_keys=True) + "\n"


def upstreams_of(text: str) -> list[str]:
    """The servers that a configuration of ours sends clients to; [] for what isn't one."""
    try:
        handlers = json.loads(text)["apps"]["http"]["servers"]["letta"]["routes"][0]["handle"]
        found = next(item for item in handlers if item["handler"] == "reverse_proxy")
        return [str(item["dial"]).partition(":")[0] for item in found["upstreams"]]
    except (ValueError, KeyError, IndexError, StopIteration, TypeError):
        return []


def _handlers(upstreams: Sequence[str], max_request: int, on: bool) -> list[dict[str, Any]]:
    headers = {**SECURITY_HEADERS, **(STRICT_TRANSPORT if on else {})}
    return [
        {
            "handler": "headers",
            "response": {"set": headers, "delete": ["Server"], "deferred": True},
        },
        {"handler": "request_body", "max_size": max_request * 1024**2},
        {
            "handler": "reverse_proxy",
            "upstreams": [{"dial": f"{name}:{SERVER_PORT}"} for name in upstreams],
            # Answers of agents are streams of events: each goes out as it comes.
            "flush_interval": -1,
            "transport": {
                "protocol": "http",
                "dial_timeout": "3s",
                # uvicorn closes idle connections after 5 s: we must be the first to do so.
                "keep_alive": {"enabled": True, "idle_timeout": "3s"},
            },
            "load_balancing": {
                "selection_policy": {"policy": "least_conn"},
                # Only what never reached a server is tried again at another.
                "try_duration": "10s",
                "try_interval": "250ms",
            },
            "health_checks": {
                "passive": {"fail_duration": "5s", "max_fails": 1},
            },
        },
    ]


def _certificates(tls: Mapping[str, Any]) -> dict[str, Any]:
    if tls["mode"] == "files":
        files = {
            "certificate": f"{SECRETS_FOLDER}/{CERTIFICATE}",
            "key": f"{SECRETS_FOLDER}/{KEY}",
        }
        return {"certificates": {"load_files": [files]}}
    subjects = [tls["host"]]
    issuer: dict[str, Any] = {"module": "internal", "lifetime": "720h"}
    if tls["mode"] == "acme":
        issuer = {"module": "acme", "email": tls.get("email") or ""}
        if tls.get("acme_directory"):
            issuer["ca"] = tls["acme_directory"]
        if tls.get("acme_ca"):
            issuer["trusted_roots_pem_files"] = [f"{SECRETS_FOLDER}/{ACME_CA}"]
    else:
        subjects = sorted({tls["host"], "localhost", "127.0.0.1"})
    return {
        "certificates": {"automate": subjects},
        "automation": {"policies": [{"subjects": subjects, "issuers": [issuer]}]},
    }
