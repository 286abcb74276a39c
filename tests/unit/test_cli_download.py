"""Downloading the official Pulumi CLI, from a server of our own."""

from __future__ import annotations

import hashlib
import io
import os
import tarfile
import threading
from collections.abc import Iterator
from functools import partial
from http.server import SimpleHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path

import pytest

from infra.pulumi_cli import cli_download
from infra.pulumi_cli.cli_cache import PULUMI_VERSION


class QuietHandler(SimpleHTTPRequestHandler):
    def log_message(self, *_: object) -> None:
        """Nothing: the test's own output is enough."""


@pytest.fixture
def release(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[tuple[Path, str]]:
    """A folder that is served like the release server, with the archive of this platform in it."""
    monkeypatch.setenv("no_proxy", "*")
    folder = tmp_path / "served"
    name = f"pulumi-v{PULUMI_VERSION}-{cli_download._platform()}.tar.gz"
    (folder / f"v{PULUMI_VERSION}").mkdir(parents=True)
    members = ("pulumi/pulumi", "pulumi/pulumi-language-python", "pulumi/pulumi-language-go")
    with tarfile.open(folder / name, "w:gz") as archive:
        for member in (*members, "../../pulumi-python-escaped"):
            facts = tarfile.TarInfo(member)
            facts.size = len(member)
            archive.addfile(facts, io.BytesIO(member.encode()))
    digest = hashlib.sha256((folder / name).read_bytes()).hexdigest()
    sums = folder / f"v{PULUMI_VERSION}" / f"pulumi-{PULUMI_VERSION}-checksums.txt"
    sums.write_text(f"{'0' * 64}  other.tar.gz\n{digest}  {name}\n")
    handler = partial(QuietHandler, directory=str(folder))
    with ThreadingHTTPServer(("127.0.0.1", 0), handler) as server:
        threading.Thread(target=server.serve_forever, daemon=True).start()
        yield folder, f"http://127.0.0.1:{server.server_port}"
        server.shutdown()


def test_the_download_is_checked_and_its_python_plugins_kept(
    tmp_path: Path, release: tuple[Path, str]
) -> None:
    _, url = release
    target = tmp_path / "a" / "b" / "c"
    target.mkdir(parents=True)
    cli_download.download_pulumi(
        PULUMI_VERSION, target, lambda line: None, archives=url, checksums=url
    )
    names = ["pulumi", "pulumi-language-python", "pulumi-python-escaped"]
    assert sorted(path.name for path in target.iterdir()) == names, (
        "a member's path must not lead out of the folder"
    )
    assert os.access(target / "pulumi", os.X_OK)


def test_a_download_with_another_checksum_is_refused(
    tmp_path: Path, release: tuple[Path, str]
) -> None:
    folder, url = release
    archive = next(folder.glob("*.tar.gz"))
    archive.write_bytes(archive.read_bytes() + b"\0")
    target = tmp_path / "target"
    target.mkdir()
    with pytest.raises(cli_download.DownloadError, match="was published"):
        cli_download.download_pulumi(
            PULUMI_VERSION, target, lambda line: None, archives=url, checksums=url
        )
    assert not list(target.iterdir())


def test_a_release_that_is_not_there_is_a_reason_not_a_crash(
    tmp_path: Path, release: tuple[Path, str]
) -> None:
    _, url = release
    with pytest.raises(cli_download.DownloadError, match="HTTP Error 404"):
        cli_download.download_pulumi(
            "3.0.0", tmp_path, lambda line: None, archives=url, checksums=url
        )
