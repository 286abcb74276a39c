"""The images: what they are called, what goes into a build, what the helper of the engine decides."""

from __future__ import annotations

import importlib.util
import json
import os
import re
import shutil
import socket
import subprocess
import sys
import tarfile
import threading
import tomllib
from collections.abc import Iterator
from dataclasses import replace
from http.server import BaseHTTPRequestHandler, HTTPServer
from pathlib import Path
from typing import Any

import pytest

from infra.errors import LettaOpsError
from infra.sensitive import Sensitive
from infra.stack.releases import RELEASES
from infra.targets.docker.images import recipes
from infra.targets.docker.images.engine_build import context, failed
from infra.targets.docker.images.recipes import DEFAULT_BASE, NAMES, BuildSettings, tag
from infra.targets.docker.names import POSTGRES_USER, PROXY_USER, REDIS_USER, SERVER_USER

ROOT = Path(__file__).resolve().parents[2]
RELEASE = "0.16.8"
USERS = {
    "letta": SERVER_USER,
    "postgres": POSTGRES_USER,
    "proxy": PROXY_USER,
    "redis": REDIS_USER,
}


@pytest.mark.parametrize("name", NAMES)
def test_a_tag_is_the_name_a_version_and_a_digest(name: str) -> None:
    found = tag(name, RELEASE, BuildSettings())
    assert re.fullmatch(rf"letta-ops/{name}:[0-9][0-9.]*-[0-9a-f]{{12}}", found)
    assert tag(name, RELEASE, BuildSettings()) == found


def test_the_servers_image_is_called_after_its_release() -> None:
    assert tag("letta", RELEASE, BuildSettings()).startswith(f"letta-ops/letta:{RELEASE}-")


@pytest.mark.parametrize("name", NAMES)
def test_a_tag_does_not_depend_on_how_the_network_is_reached(name: str, tmp_path: Path) -> None:
    elsewhere = BuildSettings(
        ca_bundle=tmp_path / "absent.pem",
        proxy=Sensitive("http://user:password@proxy.example:3128"),
        index_url=Sensitive("https://user:password@index.example/simple"),
        apt_mirror="http://mirror.example/debian",
    )
    assert tag(name, RELEASE, elsewhere) == tag(name, RELEASE, BuildSettings())


@pytest.mark.parametrize("name", NAMES)
def test_another_base_is_another_tag(name: str) -> None:
    assert tag(name, RELEASE, BuildSettings(base="own:1")) != tag(name, RELEASE, BuildSettings())


@pytest.mark.parametrize("name", NAMES)
def test_the_packages_of_another_day_are_another_tag_and_come_past_the_engines_cache(
    name: str,
) -> None:
    now, later = BuildSettings(), BuildSettings(packages="2027-03-01")
    assert tag(name, RELEASE, later) != tag(name, RELEASE, now)
    files = recipes._files(name, later)
    assert [path for path in files if files[path] != recipes._files(name, now)[path]] == [
        "build/packages"
    ]
    dockerfile = files["Dockerfile"].decode()
    assert dockerfile.index("COPY build/ /build/") < dockerfile.index("/build/install")


@pytest.mark.parametrize("name", NAMES)
def test_every_file_of_the_build_is_in_the_tag(
    name: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    shutil.copytree(recipes.FOLDER, tmp_path / "images")
    monkeypatch.setattr(recipes, "FOLDER", tmp_path / "images")
    before = tag(name, RELEASE, BuildSettings())
    changed = [*(tmp_path / "images" / name).rglob("*"), *(tmp_path / "images" / "build").iterdir()]
    files = [path for path in changed if path.is_file() and path.suffix != ".py"]
    assert len(files) >= 4
    for path in files:
        content = path.read_text()
        path.write_text(content + "\n# changed\n")
        assert tag(name, RELEASE, BuildSettings()) != before, path
        path.write_text(content)
    assert tag(name, RELEASE, BuildSettings()) == before


def test_our_scripts_and_the_source_distribution_are_in_the_servers_tag(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    before = tag("letta", RELEASE, BuildSettings())
    script = tmp_path / "launch.py"
    script.write_text("pass\n")
    with monkeypatch.context() as patched:
        patched.setattr(recipes, "SCRIPTS", (script,))
        assert tag("letta", RELEASE, BuildSettings()) != before
    with monkeypatch.context() as patched:
        release = RELEASES[RELEASE]
        other = replace(release, sdist_sha256="0" * 64)
        patched.setitem(RELEASES, RELEASE, other)
        assert tag("letta", RELEASE, BuildSettings()) != before


@pytest.mark.parametrize("content", [None, "no certificate"])
def test_certificates_that_cannot_be_used_are_named(content: str | None, tmp_path: Path) -> None:
    bundle = tmp_path / "company.pem"
    if content is not None:
        bundle.write_text(content)
    with pytest.raises(LettaOpsError, match=r"company\.pem") as caught:
        recipes._reach(BuildSettings(ca_bundle=bundle))
    assert caught.value.code == "ca-bundle"


def test_a_build_gets_its_settings_where_nothing_keeps_them(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Docker keeps only the proxies' build arguments out of an image's history."""
    monkeypatch.setenv("NO_PROXY", "internal.example")
    bundle = tmp_path / "company.pem"
    bundle.write_text("-----BEGIN CERTIFICATE-----\n")
    settings = BuildSettings(
        base="own:1",
        ca_bundle=bundle,
        proxy=Sensitive("http://proxy.example"),
        index_url=Sensitive("https://index.example/simple"),
        apt_mirror="http://mirror.example/debian",
    )
    assert recipes._arguments("redis", RELEASE, settings) == {
        "BASE": "own:1",
        "VERSION": "8",
        "http_proxy": "http://proxy.example",
        "HTTP_PROXY": "http://proxy.example",
        "https_proxy": "http://proxy.example",
        "HTTPS_PROXY": "http://proxy.example",
        "FTP_PROXY": "https://index.example/simple",
    }
    assert recipes._reach(settings) == {
        "build/ca.pem": bundle.read_bytes(),
        "build/apt-mirror": b"http://mirror.example/debian",
    }


def test_without_settings_a_build_uses_what_the_environment_says(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    for name in list(os.environ):
        if name.lower().endswith("_proxy") or name in ("SSL_CERT_FILE", "UV_DEFAULT_INDEX"):
            monkeypatch.delenv(name)
    monkeypatch.setenv("https_proxy", "http://proxy.example")
    monkeypatch.setenv("PIP_INDEX_URL", "https://index.example/simple")
    assert recipes._arguments("letta", RELEASE, BuildSettings()) == {
        "BASE": DEFAULT_BASE,
        "VERSION": RELEASE,
        "https_proxy": "http://proxy.example",
        "HTTPS_PROXY": "http://proxy.example",
        "FTP_PROXY": "https://index.example/simple",
    }
    assert recipes._reach(BuildSettings())["build/ca.pem"] == b""


def test_a_builds_context_depends_on_its_files_alone() -> None:
    files = {"Dockerfile": b"FROM scratch\n", "bin/run": b"#!/bin/sh\n", "bin/text": b"text\n"}
    archive = context(files).read()
    assert context(dict(reversed(files.items()))).read() == archive
    with tarfile.open(fileobj=context(files)) as found:
        modes = {entry.name: (entry.mode, entry.uid, entry.gid, entry.mtime) for entry in found}
    assert modes == {
        "Dockerfile": (0o644, 0, 0, 0),
        "bin": (0o755, 0, 0, 0),
        "bin/run": (0o755, 0, 0, 0),
        "bin/text": (0o644, 0, 0, 0),
    }


@pytest.mark.parametrize(
    ("words", "code"),
    [
        ("write /usr/lib/x: no space left on device", "disk-full"),
        ("The command '/build/install' returned a non-zero code: 100", "image-build-failed"),
    ],
)
def test_a_failed_build_says_what_was_missing(words: str, code: str) -> None:
    error = failed("redis", ["Step 5/18 : RUN /build/install", words])
    assert error.code == code
    assert words in error.message


@pytest.mark.parametrize("name", NAMES)
def test_every_dockerfile_ends_in_a_clean_unprivileged_stage(name: str) -> None:
    text = (recipes.FOLDER / name / "Dockerfile").read_text()
    _, _, final = text.partition("\nFROM scratch\n")
    assert re.search(rf"^USER {USERS[name]}:{USERS[name]}$", final, re.MULTILINE)
    assert f'letta-ops.image="{name}"' in final
    assert "\nHEALTHCHECK " in final
    assert "\nRUN " not in final
    assert "\nVOLUME " not in text  # it would hide a forgotten volume behind an anonymous one


def test_the_image_installs_the_uv_of_our_lock() -> None:
    packages = tomllib.loads((ROOT / "uv.lock").read_text())["package"]
    (locked,) = [package for package in packages if package["name"] == "uv"]
    text = (recipes.FOLDER / "letta" / "uv.txt").read_text()
    assert text.startswith(f"uv=={locked['version']} ")
    hashes = re.findall(r"--hash=(sha256:[0-9a-f]{64})", text)
    assert hashes
    assert set(hashes) <= {wheel["hash"] for wheel in locked["wheels"]}


class Answers(BaseHTTPRequestHandler):
    """Answers each path with the status that the test wants, 401 without the password."""

    statuses: dict[str, int]

    def do_GET(self) -> None:
        known = self.headers.get("Authorization") == "Bearer the-password"
        self.send_response(self.statuses[self.path] if known else 401)
        self.end_headers()

    def log_message(self, *_: Any) -> None:
        pass


@pytest.fixture
def server() -> Iterator[HTTPServer]:
    made = HTTPServer(("127.0.0.1", 0), Answers)
    threading.Thread(target=made.serve_forever, daemon=True).start()
    yield made
    made.shutdown()
    made.server_close()


@pytest.mark.parametrize(
    ("health", "agents", "password", "code", "words"),
    [
        (200, 200, "the-password", 0, ""),
        (200, 500, "the-password", 1, "/v1/agents/?limit=1: HTTP status 500\n"),
        (503, 200, "the-password", 1, "/v1/health/: HTTP status 503\n"),
        (200, 200, "another-password", 1, "/v1/health/: HTTP status 401\n"),
    ],
)
def test_the_servers_health_is_its_answer_and_its_databases(
    health: int,
    agents: int,
    password: str,
    code: int,
    words: str,
    server: HTTPServer,
    tmp_path: Path,
) -> None:
    Answers.statuses = {"/v1/health/": health, "/v1/agents/?limit=1": agents}
    document = {"environment": {"LETTA_SERVER_PASSWORD": password}}
    (tmp_path / "environment.json").write_text(json.dumps(document))
    script = (recipes.FOLDER / "letta" / "healthcheck.py").read_text()
    done = subprocess.run(
        [sys.executable, "-I", "-S", "-c", script.replace("8283", str(server.server_port))],
        env={"LETTA_OPS_ENVIRONMENT_FILE": str(tmp_path / "environment.json")},
        capture_output=True, text=True, check=False,
    )  # fmt: skip
    assert (done.returncode, done.stdout, done.stderr) == (code, words, "")


@pytest.mark.parametrize(
    ("said", "words"),
    [
        (b"HTTP/1.1 200 OK\r\n\r\nwell", ""),
        (b"HTTP/1.1 503 Service Unavailable\r\n\r\n", "/health: HTTP status 503\n"),
        (b"", "/health: no answer\n"),
        (b"nonsense", "/health: no answer\n"),
        (None, "/health: Connection refused\n"),
    ],
)
def test_another_services_health_is_the_status_that_it_answers(
    said: bytes | None, words: str
) -> None:
    with socket.create_server(("127.0.0.1", 0)) as listener:
        port = listener.getsockname()[1]
        if said is None:
            listener.close()
        job = [str(recipes.FOLDER / "letta" / "healthcheck.py"), str(port), "/health"]
        asked = subprocess.Popen([sys.executable, "-I", "-S", *job], stdout=subprocess.PIPE)
        if said is not None:
            link, _ = listener.accept()
            with link:
                assert link.recv(65536).startswith(b"GET /health HTTP/1.0\r\n")
                link.sendall(said)
        printed, _ = asked.communicate(timeout=30)
    assert (asked.returncode, printed.decode()) == (int(bool(words)), words)


def docker_engine() -> Any:
    specification = importlib.util.spec_from_file_location(
        "docker_engine", ROOT / "tools" / "docker_engine.py"
    )
    assert specification is not None
    assert specification.loader is not None
    module = importlib.util.module_from_spec(specification)
    specification.loader.exec_module(module)
    return module


def test_the_tests_base_is_the_one_that_stacks_get() -> None:
    assert docker_engine().PINNED == DEFAULT_BASE


@pytest.mark.parametrize(
    ("words", "tried", "remedy"),
    [
        ("iptables v1.8.9 (nf_tables): Could not fetch rule set", set(), "legacy"),
        ("iptables v1.8.9 (legacy): can't initialize", {"legacy"}, None),
        ("error initializing graphdriver: overlay2 is not supported", set(), "vfs"),
        ("error initializing graphdriver: vfs", {"vfs"}, None),
        ("Devices cgroup isn't mounted", set(), None),
    ],
)
def test_an_engine_that_does_not_start_is_told_what_else_to_try(
    words: str, tried: set[str], remedy: str | None
) -> None:
    assert docker_engine().remedy_for(words, tried) == remedy
