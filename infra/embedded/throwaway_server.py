"""A Letta server on a throw-away database: its own release, folder and password, and no way out."""

from __future__ import annotations

import secrets
import shutil
import socket
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from infra.accounts import as_account, let_through, service_account, service_python
from infra.api import answers
from infra.embedded.folders import plain_environment
from infra.embedded.release import InstalledRelease, install
from infra.embedded.throwaway_postgres import free_port, wait_until
from infra.files import write_private
from infra.process import Report, command, start_detached
from infra.sensitive import Sensitive
from infra.stack.deployment import (
    LOOPBACK,
    SERVICE_SERVER,
    Database,
    Deployment,
    Server,
    postgres_uri,
)
from infra.stack.locations import StackFolder, cache_folder, ensure_writable
from infra.stack.releases import Release
from infra.stack.server_environment import (
    IMPORT_FIRST,
    SECRETS,
    launch_document,
    server_environment,
    without_tls,
)

START_SECONDS = 240.0  # 15 to 45 s measured; slower on a busy machine
SCRIPTS = ("cut_off.py", "launch.py")


@contextmanager
def black_hole() -> Iterator[str]:
    """Yield a URL of loopback at which every connection is refused: nobody else can listen there."""
    with socket.socket() as taken:
        taken.bind((LOOPBACK, 0))
        yield f"http://{LOOPBACK}:{taken.getsockname()[1]}"


def install_release(folder: StackFolder, release: Release, report: Report) -> InstalledRelease:
    """Find the release in the cache, or install it; the folder's account can run it then."""
    cache = cache_folder()
    ensure_writable(cache)
    account = service_account(folder, "server")
    where = install(release, cache, service_python(account), report)
    let_through(account, where.folder)
    return where


def start_server(
    folder: StackFolder,
    release: InstalledRelease,
    database: Database,
    encryption_key: Sensitive | None,
    nowhere: str,
) -> Deployment:
    """Start a server on `database` and return how it is reached.

    It can connect to its database only; `nowhere` is given to it as everybody's proxy. Without an
    `encryption_key` it gets one of its own, which opens nothing. Raises LettaOpsError
    (`throwaway-failed`) with the end of its log.
    """
    account = service_account(folder, "server")
    port = free_port()
    password, key = Sensitive(secrets.token_urlsafe(24)), encryption_key or _useless_key()
    uri = postgres_uri(database, database.owner, without_tls(release.release.version))
    document = launch_document(
        {
            **server_environment(
                uri.reveal(), password.reveal(), key.reveal(), folder.home, folder.sandbox
            ),
            **_no_way_out(nowhere),
        },
        SECRETS,
        IMPORT_FIRST,
    )
    write_private(folder.server_environment, document, account.owner)
    for name in SCRIPTS:
        copy = folder.script(name)
        shutil.copyfile(Path(__file__).with_name(name), copy)
        copy.chmod(0o644)
    job = command(
        release.python, folder.script("cut_off.py"), str(database.port), folder.server_environment,
        "letta.main:app", "server", "--secure", "--host", LOOPBACK, "--port", str(port),
        directory=folder.home, environment=plain_environment(folder), umask=0o077,
    )  # fmt: skip
    log = folder.log(SERVICE_SERVER)
    pid = start_detached(
        as_account(account, job),
        output=log,
        code="throwaway-failed",
        hint="see whether the cache folder is whole",
        what=f"starting Letta {release.release.version}",
    )
    server = Server(f"http://{LOOPBACK}:{port}", password, encryption_key)
    made = Deployment(folder.stack, "external", server, release=release.release.version)
    hidden = (uri, password, key, *made.secrets)
    wait_until(lambda: answers(made), pid, START_SECONDS, log, hidden)
    return made


def _no_way_out(nowhere: str) -> dict[str, str]:
    """For programs that the server may start: the server itself is not let out by `cut_off.py`."""
    names = ("HTTP_PROXY", "HTTPS_PROXY", "ALL_PROXY")
    return {spelling: nowhere for name in names for spelling in (name, name.lower())}


def _useless_key() -> Sensitive:
    return Sensitive(secrets.token_urlsafe(32))
