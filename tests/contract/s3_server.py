"""A real S3 server for tests: versitygw over a folder, on a free port of loopback."""

from __future__ import annotations

import os
import re
import secrets
import socket
import subprocess
import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from infra.files import made_once
from infra.pulumi_cli.go_tools import GoTool, build_tool, tools_folder
from infra.sensitive import Sensitive
from infra.stack.backup_settings import StoreSettings
from infra.stack.locations import cache_folder

VERSITYGW = GoTool("versitygw", "github.com/versity/versitygw/cmd/versitygw")
REGION = "us-east-1"
START_SECONDS = 20.0
PORTS_TRIED = 5


@dataclass
class S3Server:
    """One server, with what it holds below `folder`. `start` it, or use `running_s3_server`."""

    folder: Path
    versioning: bool = True
    access_key: str = field(default_factory=lambda: f"test-{secrets.token_hex(4)}")
    secret_key: Sensitive = field(default_factory=lambda: Sensitive(secrets.token_hex(20)))
    url: str = ""
    process: subprocess.Popen[bytes] | None = None

    def start(self) -> None:
        """Start it, on another port than before if need be; what it holds stays."""
        for name in ("data", "versions"):
            (self.folder / name).mkdir(parents=True, exist_ok=True)
        for _ in range(PORTS_TRIED):
            port = _free_port()
            if self._started(port):
                self.url = f"http://127.0.0.1:{port}"
                return
        raise AssertionError((self.folder / "versitygw.log").read_text())

    def stop(self) -> None:
        if self.process is not None:
            self.process.kill()
            self.process.wait()
            self.process = None

    def make_bucket(self, name: str, *, versioned: bool = False, locked_days: int = 0) -> str:
        """Make a bucket; with `locked_days` it keeps every object that long (object lock)."""
        client = self.client()
        client.create_bucket(Bucket=name, ObjectLockEnabledForBucket=bool(locked_days))
        if versioned:
            client.put_bucket_versioning(Bucket=name, VersioningConfiguration={"Status": "Enabled"})
        if locked_days:
            retention = {"DefaultRetention": {"Mode": "COMPLIANCE", "Days": locked_days}}
            client.put_object_lock_configuration(
                Bucket=name,
                ObjectLockConfiguration={"ObjectLockEnabled": "Enabled", "Rule": retention},
            )
        return name

    def settings(self, url: str, *, endpoint: str = "", timeout: float = 20.0) -> StoreSettings:
        """Settings of a store here; `endpoint` is what stands in front of the server."""
        return StoreSettings(
            url=url,
            endpoint=endpoint or self.url,
            path_style=True,
            access_key_id=Sensitive(self.access_key),
            secret_access_key=self.secret_key,
            timeout=timeout,
        )

    def environment(self) -> dict[str, str]:
        """The credentials, as boto3's usual chain finds them."""
        return {
            "AWS_ACCESS_KEY_ID": self.access_key,
            "AWS_SECRET_ACCESS_KEY": self.secret_key.reveal(),
        }

    def client(self) -> Any:
        """A plain client, to look at the store from beside."""
        import boto3.session
        from botocore.config import Config

        return boto3.session.Session().client(
            "s3",
            endpoint_url=self.url,
            region_name=REGION,
            aws_access_key_id=self.access_key,
            aws_secret_access_key=self.secret_key.reveal(),
            config=Config(s3={"addressing_style": "path"}),
        )

    def _started(self, port: int) -> bool:
        words: list[str | Path] = [_program(), "--port", f"127.0.0.1:{port}", "posix"]
        words += ["--versioning-dir", self.folder / "versions"] if self.versioning else []
        keys = {
            "ROOT_ACCESS_KEY": self.access_key,
            "ROOT_SECRET_KEY": self.secret_key.reveal(),
            "VGW_REGION": REGION,
            "VGW_KEEP_ALIVE": "true",  # as others do: connections that are kept can break, too
        }
        with (self.folder / "versitygw.log").open("ab") as log:
            self.process = subprocess.Popen(
                [*words, self.folder / "data"],
                env={"PATH": os.environ["PATH"], **keys},
                stdin=subprocess.DEVNULL,
                stdout=log,
                stderr=log,
            )
        deadline = time.monotonic() + START_SECONDS
        while self.process.poll() is None and time.monotonic() < deadline:
            with socket.socket() as probe:
                if probe.connect_ex(("127.0.0.1", port)) == 0:
                    return True
            time.sleep(0.05)  # nothing tells when it listens
        self.stop()
        return False


@contextmanager
def running_s3_server(folder: Path, *, versioning: bool = True) -> Iterator[S3Server]:
    server = S3Server(folder, versioning)
    server.start()
    try:
        yield server
    finally:
        server.stop()


def _program() -> Path:
    """versitygw as tools/go.mod pins it, built once and kept in the cache."""
    package = VERSITYGW.package.partition("/cmd/")[0]
    pinned = re.search(rf"{package} v(\S+)", (tools_folder() / "go.mod").read_text())
    assert pinned is not None, f"tools/go.mod pins no {package}"

    def report(line: str) -> None:
        print(line, file=sys.stderr)

    def fill(folder: Path) -> None:
        build_tool(VERSITYGW, folder / "versitygw", cache_folder(), os.environ, report)

    folder = cache_folder() / "versitygw" / pinned[1]
    return made_once(folder, "another build of versitygw", report, fill) / "versitygw"


def _free_port() -> int:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return int(probe.getsockname()[1])
