"""Downloading the official Pulumi CLI with its plugins, checked against the published checksum."""

from __future__ import annotations

import errno
import hashlib
import http.client
import platform
import shutil
import sys
import tarfile
import urllib.error
import urllib.request
from pathlib import Path
from urllib.error import HTTPError
from urllib.parse import urlsplit

from infra.background import Background
from infra.process import Report

ARCHIVES = "https://get.pulumi.com/releases/sdk"
CHECKSUMS = "https://github.com/pulumi/pulumi/releases/download"
CONNECT_SECONDS = 5.0


class DownloadError(Exception):
    """The official CLI cannot be had from here; the message says why."""


def download_pulumi(
    version: str,
    folder: Path,
    report: Report,
    *,
    archives: str = ARCHIVES,
    checksums: str = CHECKSUMS,
) -> None:
    """Put the CLI and its Python plugins into `folder`.

    Raises DownloadError when the server can't be reached, has no such file, or sends one whose
    SHA-256 is not the published one; nothing is unpacked in any of these cases.
    """
    try:
        _download(version, folder, report, archives, checksums)
    except (OSError, http.client.HTTPException) as error:
        if isinstance(error, OSError) and error.errno in (errno.ENOSPC, errno.EDQUOT):
            raise
        raise DownloadError(f"the download broke off: {error or type(error).__name__}") from None


def _download(version: str, folder: Path, report: Report, archives: str, checksums: str) -> None:
    name = f"pulumi-v{version}-{_platform()}.tar.gz"
    expected = _published(f"{checksums}/v{version}/pulumi-{version}-checksums.txt", name)
    report(f"  downloading {name} (about 150 MB)")
    archive = folder / name
    try:
        digest = _fetch(f"{archives}/{name}", archive)
        if digest != expected:
            raise DownloadError(f"{name} has SHA-256 {digest}, and {expected} was published")
        _unpack(archive, folder)
    finally:
        archive.unlink(missing_ok=True)


def _platform() -> str:
    architectures = {"x86_64": "x64", "amd64": "x64", "aarch64": "arm64", "arm64": "arm64"}
    architecture = architectures.get(platform.machine().lower())
    if sys.platform not in ("linux", "darwin") or architecture is None:
        raise DownloadError(f"none is published for {sys.platform} on {platform.machine()}")
    return f"{sys.platform}-{architecture}"


def _published(url: str, name: str) -> str:
    with _open(url) as answer:
        lines = answer.read(1024 * 1024).decode(errors="replace").splitlines()
    for line in lines:
        digest, _, listed = line.partition(" ")
        if listed.strip().lstrip("*") == name:
            return digest.lower()
    raise DownloadError(f"{url} has no checksum of {name}")


def _fetch(url: str, target: Path) -> str:
    """Save the answer at `url` as `target`; return its SHA-256."""
    with _open(url) as answer, target.open("wb") as sink:
        shutil.copyfileobj(answer, sink, 1024 * 1024)
    with target.open("rb") as source:
        return hashlib.file_digest(source, "sha256").hexdigest()


def _open(url: str) -> http.client.HTTPResponse:
    """Request `url`; proxies are taken from the environment.

    The time-out of urllib covers connecting and each read, but not the name look-up, which takes up
    to half a minute where packets are dropped: hence the thread, which is left behind in that case.
    """
    # S310: every URL is built from the two constants above.
    asked = Background(lambda: urllib.request.urlopen(url, timeout=CONNECT_SECONDS), "download")  # noqa: S310
    host = urlsplit(url).hostname
    if not asked.wait(2 * CONNECT_SECONDS):
        raise DownloadError(f"{host} did not answer in {2 * CONNECT_SECONDS:.0f} s")
    try:
        answer: http.client.HTTPResponse = asked.result()
    except (OSError, ValueError, http.client.HTTPException) as error:
        if isinstance(error, urllib.error.URLError) and not isinstance(error, HTTPError):
            raise DownloadError(f"{host}: {error.reason}") from None
        raise DownloadError(f"{host}: {error}") from None
    return answer


def _unpack(archive: Path, folder: Path) -> None:
    """Take the CLI and its Python plugins; the other languages' plugins are 300 MB more."""
    try:
        with tarfile.open(archive) as members:
            for member in members:
                name = Path(member.name).name
                content = members.extractfile(member) if member.isfile() else None
                if content is None or not (name == "pulumi" or "python" in name):
                    continue
                # By base name only: no member can be written outside the folder.
                with (folder / name).open("wb") as sink:
                    shutil.copyfileobj(content, sink)
                (folder / name).chmod(0o755)
    except (tarfile.TarError, EOFError) as error:
        raise DownloadError(f"{archive.name} cannot be unpacked: {error}") from None
