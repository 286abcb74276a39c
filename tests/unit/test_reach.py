"""The script that asks model providers, run as it is run beside a server: a process, stdin, a file."""

from __future__ import annotations

import datetime as dt
import ipaddress
import json
import os
import socket
import ssl
import subprocess
import sys
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any

import pytest

from infra.embedded import reach
from infra.targets.remote_script import LOADER

KEY = "sk-a-secret-key"
MODELS = json.dumps({"data": [{"id": "one"}, {"id": "two"}]})
OLLAMA = json.dumps({"models": [{"name": "one"}]})


@contextmanager
def provider(
    status: int = 200, body: str = MODELS, tls: Path | None = None
) -> Iterator[tuple[int, list[tuple[str, dict[str, str]]]]]:
    """A provider that answers everything alike, and remembers paths and headers."""
    seen: list[tuple[str, dict[str, str]]] = []

    class Handler(BaseHTTPRequestHandler):
        def do_GET(self) -> None:
            seen.append((self.path, dict(self.headers)))
            self.send_response(status)
            self.send_header("Content-Length", str(len(body)))
            self.end_headers()
            self.wfile.write(body.encode())

        def log_message(self, *arguments: object) -> None:
            pass

    class Quiet(ThreadingHTTPServer):
        def handle_error(self, *arguments: object) -> None:
            pass  # a client that doesn't trust us hangs up

    with Quiet(("127.0.0.1", 0), Handler) as listener:
        if tls is not None:
            context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
            context.load_cert_chain(tls)
            listener.socket = context.wrap_socket(
                listener.socket, server_side=True, do_handshake_on_connect=False
            )
        threading.Thread(target=listener.serve_forever, daemon=True).start()
        try:
            yield listener.server_port, seen
        finally:
            listener.shutdown()


def ask(
    tmp_path: Path, environment: dict[str, str], others: list[dict[str, str]] | None = None
) -> tuple[list[dict[str, Any]], str]:
    """What the script says, and the text in which it said it."""
    file = tmp_path / "server-environment.json"
    file.write_text(json.dumps({"environment": environment}))
    script = Path(reach.__file__).read_text()
    clean = {
        name: value for name, value in os.environ.items() if not name.lower().endswith("_proxy")
    }
    done = subprocess.run(
        [sys.executable, "-I", "-c", LOADER],
        input=f"{len(script.encode())}\n{script}{json.dumps(others or [])}\n",
        env={**clean, "LETTA_OPS_ENVIRONMENT_FILE": str(file)},
        capture_output=True, text=True, timeout=60, check=False,
    )  # fmt: skip
    assert done.returncode == 0, done.stderr
    return json.loads(done.stdout), done.stdout + done.stderr


def openai(port: int, scheme: str = "http") -> dict[str, str]:
    return {"OPENAI_API_KEY": KEY, "OPENAI_BASE_URL": f"{scheme}://127.0.0.1:{port}/v1"}


def test_every_kind_of_provider_is_asked_as_letta_asks_it(tmp_path: Path) -> None:
    with provider() as (port, seen), provider(body=OLLAMA) as (other, heard):
        base = f"http://127.0.0.1:{port}"
        environment = {
            **openai(port),
            "ANTHROPIC_API_KEY": KEY,
            "ANTHROPIC_BASE_URL": base + "/anthropic",
            "VLLM_API_BASE": base + "/vllm",
            "OLLAMA_BASE_URL": f"http://127.0.0.1:{other}/v1",
        }
        rows, text = ask(tmp_path, environment)
    assert {row["name"]: row["models"] for row in rows} == {
        "openai": 2, "anthropic": 2, "vllm": 2, "ollama": 1,
    }  # fmt: skip
    assert all(row["failed"] is None for row in rows)
    headers = dict(seen)
    assert set(headers) == {"/v1/models", "/anthropic/v1/models", "/vllm/v1/models"}
    assert headers["/v1/models"]["Authorization"] == f"Bearer {KEY}"
    assert headers["/anthropic/v1/models"]["X-Api-Key"] == KEY
    assert [path for path, _ in heard] == ["/api/tags"]
    assert KEY not in text


def test_a_key_without_a_url_means_the_providers_own(tmp_path: Path) -> None:
    found = reach.configured({"OPENAI_API_KEY": KEY, "OLLAMA_BASE_URL": ""})
    assert [(each["name"], each["url"]) for each in found] == [
        ("openai", "https://api.openai.com/v1")
    ]
    assert reach.configured({"OPENAI_BASE_URL": "http://x"}) == []


@pytest.mark.parametrize(
    ("status", "body", "step", "words"),
    [
        (401, "", "authentication", "it refuses the key (401)"),
        (403, "", "authentication", "it refuses the key (403)"),
        (404, "", "models", "status 404 for GET http://127.0.0.1"),
        (502, "", "http", "status 502"),
        (200, "<html>", "models", "no list of models"),
        (200, "[]", "models", "no list of models"),
    ],
)
def test_the_step_that_fails_is_named(
    status: int, body: str, step: str, words: str, tmp_path: Path
) -> None:
    with provider(status, body) as (port, _):
        (row,), text = ask(tmp_path, openai(port))
    assert row["failed"] == step
    assert words in row["detail"]
    assert KEY not in text


def test_a_name_that_is_not_known_fails_at_dns(tmp_path: Path) -> None:
    (row,), _ = ask(tmp_path, {"OLLAMA_BASE_URL": "http://nobody.invalid:11434"})
    assert (row["failed"], row["name"]) == ("dns", "ollama")
    assert row["detail"].startswith("nobody.invalid: ")


def test_a_port_on_which_nobody_listens_fails_at_tcp(tmp_path: Path) -> None:
    with socket.socket() as reserved:
        reserved.bind(("127.0.0.1", 0))
        (row,), _ = ask(tmp_path, openai(reserved.getsockname()[1]))
    assert row["failed"] == "tcp"
    assert "refused" in row["detail"]


def self_signed(folder: Path) -> Path:
    """A certificate of our own for 127.0.0.1, with its key, in one file."""
    from cryptography import x509
    from cryptography.hazmat.primitives import hashes, serialization
    from cryptography.hazmat.primitives.asymmetric import ec

    key = ec.generate_private_key(ec.SECP256R1())
    name = x509.Name([x509.NameAttribute(x509.NameOID.COMMON_NAME, "a test")])
    now = dt.datetime.now(dt.UTC)
    address = x509.SubjectAlternativeName([x509.IPAddress(ipaddress.ip_address("127.0.0.1"))])
    made = (
        x509.CertificateBuilder()
        .subject_name(name).issuer_name(name).public_key(key.public_key())
        .serial_number(x509.random_serial_number())
        .not_valid_before(now - dt.timedelta(days=1)).not_valid_after(now + dt.timedelta(days=9))
        .add_extension(address, critical=False)
        .add_extension(x509.BasicConstraints(ca=True, path_length=None), critical=True)
        .sign(key, hashes.SHA256())
    )  # fmt: skip
    path = folder / "both.pem"
    path.write_bytes(
        key.private_bytes(
            serialization.Encoding.PEM,
            serialization.PrivateFormat.PKCS8,
            serialization.NoEncryption(),
        )
        + made.public_bytes(serialization.Encoding.PEM)
    )
    return path


def test_a_certificate_that_is_not_trusted_fails_at_tls_unless_its_authority_is_named(
    tmp_path: Path,
) -> None:
    certificate = self_signed(tmp_path)
    with provider(tls=certificate) as (port, _):
        (row,), _ = ask(tmp_path, openai(port, "https"))
        (trusted,), _ = ask(tmp_path, {**openai(port, "https"), "SSL_CERT_FILE": str(certificate)})
    assert row["failed"] == "tls"
    assert "isn't trusted" in row["detail"]
    assert (trusted["failed"], trusted["models"]) == (None, 2)


def test_what_does_not_speak_tls_fails_at_tls(tmp_path: Path) -> None:
    with provider() as (port, _):
        (row,), _ = ask(tmp_path, openai(port, "https"))
    assert row["failed"] == "tls"


def test_a_proxy_of_the_servers_environment_is_what_must_be_reached(tmp_path: Path) -> None:
    with provider() as (port, seen):
        environment = {
            "OLLAMA_BASE_URL": "http://models.invalid",
            "HTTP_PROXY": f"http://127.0.0.1:{port}",
        }
        (row,), _ = ask(tmp_path, environment)
    assert seen[0][0] == "http://models.invalid/api/tags"
    assert (row["failed"], row["url"]) == (None, "http://models.invalid")


def test_a_password_in_a_url_is_sent_and_not_shown(tmp_path: Path) -> None:
    with provider(body=OLLAMA) as (port, seen):
        (row,), text = ask(
            tmp_path, {"OLLAMA_BASE_URL": f"http://me:swordfish@127.0.0.1:{port}/?token=abc"}
        )
    assert row["models"] == 1
    assert row["url"] == f"http://127.0.0.1:{port}"
    assert seen[0][1]["Authorization"].startswith("Basic ")
    assert "swordfish" not in text
    assert "token" not in text


def test_a_provider_that_a_user_added_is_tried_without_its_key_and_once(tmp_path: Path) -> None:
    with provider(401, "") as (port, seen), provider() as (own, heard):
        others = [
            {"name": "mine", "kind": "added", "url": f"http://127.0.0.1:{port}/v1"},
            {"name": "same", "kind": "added", "url": f"http://127.0.0.1:{own}/v1/"},
        ]
        rows, _ = ask(tmp_path, openai(own), others)
    assert [(row["name"], row["failed"]) for row in rows] == [("openai", None), ("mine", None)]
    assert "key" in rows[1]["detail"]
    assert "Authorization" not in seen[0][1]
    assert len(heard) == 1


def test_one_that_never_answers_is_told_with_its_step(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(reach, "ALL_SECONDS", 0.3)
    monkeypatch.setattr(reach, "proxy_for", lambda _: None)
    with socket.create_server(("127.0.0.1", 0)) as silent:
        url = f"http://127.0.0.1:{silent.getsockname()[1]}"
        (row,) = reach.examine([{"name": "x", "kind": "ollama", "url": url}])
    assert (row["failed"], row["detail"]) == ("http", "no answer in 0 s")
