"""The engine's failures, in words that a person can act on."""

from __future__ import annotations

import hashlib
import json
import shutil
from pathlib import Path

import pytest

from infra.errors import LettaOpsError
from infra.targets.docker.engine.address import LOCAL, address, variables
from infra.targets.docker.engine.client import _ensure_new_enough, explain, unreachable

WORDS = [
    ("Bind for 127.0.0.1:8283 failed: port is already allocated", "port-taken"),
    ("listen tcp 127.0.0.1:8283: bind: address already in use", "port-taken"),
    ("write /var/lib/docker/x: no space left on device", "disk-full"),
    ("No such image: letta-ops/letta:1", "image-missing"),
    ("pull access denied for letta-ops/letta", "image-missing"),
    ("Pool overlaps with other one on this address space", "network-exhausted"),
    ("could not find an available, non-overlapping IPv4 address pool", "network-exhausted"),
    ("all predefined address pools have been fully subnetted", "network-exhausted"),
    ("configured logging driver does not support reading", "engine-keeps-no-logs"),
    ("something that nobody has seen yet", "engine"),
]


@pytest.mark.parametrize(("words", "code"), WORDS)
def test_what_the_engine_says_becomes_our_error(words: str, code: str) -> None:
    error = explain(words)
    assert error.code == code
    assert words in error.message
    assert error.hint


def test_no_permission_is_told_apart_from_no_engine() -> None:
    denied = unreachable(PermissionError(13, "Permission denied"))
    absent = unreachable(ConnectionRefusedError(111, "Connection refused"))
    assert (denied.code, absent.code) == ("engine-permission", "no-engine")
    assert "group `docker`" in denied.hint


@pytest.mark.parametrize("version", ["1.40", "1.9", "0"])
def test_an_engine_that_is_too_old_is_refused(version: str) -> None:
    with pytest.raises(LettaOpsError) as failure:
        _ensure_new_enough({"ApiVersion": version, "Version": "19.03"})
    assert failure.value.code == "engine-too-old"
    assert "1.41" in failure.value.message


def test_a_new_enough_engine_is_taken() -> None:
    _ensure_new_enough({"ApiVersion": "1.41"})
    _ensure_new_enough({"ApiVersion": "1.50"})


def a_context(folder: Path, host: str, *, tls: bool = False, verify: bool = True) -> None:
    """What `docker context create other` and `docker context use other` write."""
    digest = hashlib.sha256(b"other").hexdigest()
    meta = folder / "contexts" / "meta" / digest
    meta.mkdir(parents=True)
    endpoint = {"docker": {"Host": host, "SkipTLSVerify": not verify}}
    (meta / "meta.json").write_text(
        json.dumps({"Name": "other", "Metadata": {}, "Endpoints": endpoint})
    )
    if tls:
        certificates = folder / "contexts" / "tls" / digest / "docker"
        certificates.mkdir(parents=True)
        for name in ("ca.pem", "cert.pem", "key.pem"):
            (certificates / name).write_text("")
    (folder / "config.json").write_text(json.dumps({"currentContext": "other"}))


@pytest.fixture
def docker_folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    for name in ("DOCKER_HOST", "DOCKER_CONTEXT", "DOCKER_TLS_VERIFY", "DOCKER_CERT_PATH"):
        monkeypatch.delenv(name, raising=False)
    monkeypatch.setenv("DOCKER_CONFIG", str(tmp_path))
    return tmp_path


def test_without_a_context_all_know_the_engine_by_themselves(docker_folder: Path) -> None:
    assert (address(), variables()) == (LOCAL, {})


def test_the_current_contexts_engine_is_named_to_those_that_know_no_contexts(
    docker_folder: Path,
) -> None:
    a_context(docker_folder, "unix:///run/user/1000/docker.sock")
    assert address() == "unix:///run/user/1000/docker.sock"
    assert variables() == {"DOCKER_HOST": "unix:///run/user/1000/docker.sock"}


def test_a_contexts_certificates_come_along(docker_folder: Path) -> None:
    a_context(docker_folder, "tcp://engine.example:2376", tls=True)
    given = variables()
    assert given["DOCKER_HOST"] == "tcp://engine.example:2376"
    assert given["DOCKER_TLS_VERIFY"] == "1"
    assert (Path(given["DOCKER_CERT_PATH"]) / "ca.pem").is_file()


def test_docker_host_comes_before_any_context(
    docker_folder: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    a_context(docker_folder, "tcp://engine.example:2376")
    monkeypatch.setenv("DOCKER_HOST", "unix:///named.sock")
    assert (address(), variables()) == ("unix:///named.sock", {})


def test_a_context_without_verification_says_so(docker_folder: Path) -> None:
    a_context(docker_folder, "tcp://engine.example:2376", tls=True, verify=False)
    assert variables().keys() == {"DOCKER_HOST", "DOCKER_CERT_PATH"}


@pytest.mark.parametrize("broken", ["absent", "unreadable"])
def test_a_context_that_cannot_be_read_is_never_another_engine(
    docker_folder: Path, broken: str
) -> None:
    a_context(docker_folder, "tcp://engine.example:2376")
    (meta,) = docker_folder.rglob("meta.json")
    meta.write_text("no json") if broken == "unreadable" else shutil.rmtree(meta.parent)
    with pytest.raises(LettaOpsError, match="'other' can't be read") as failure:
        variables()
    assert failure.value.code == "engine-context"
