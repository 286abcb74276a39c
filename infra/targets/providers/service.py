"""One supervised service: its program file, its environment, its start, and the wait until it's well."""

from __future__ import annotations

import http.client
import shlex
import shutil
import socket
import time
import urllib.request
from collections.abc import Mapping
from pathlib import Path
from typing import Any, ClassVar

from infra.accounts import Account, operator, service_account
from infra.embedded import supervisor
from infra.embedded.folders import plain_environment, prepare_folders, prepare_own_folders
from infra.errors import LettaOpsError
from infra.files import write_file, write_private
from infra.process import tail
from infra.sensitive import Sensitive
from infra.stack.deployment import LOOPBACK
from infra.stack.locations import StackFolder
from infra.stack.server_environment import launch_document, secret_values
from infra.targets.providers.provider import Properties, Provider

OPERATOR = "operator"  # the account of whoever runs `up`
PACKAGE_FOLDER = Path(__file__).parents[2]
POLL_SECONDS = 0.2
FAILING_SECONDS = 20.0  # how long a service may fail to start before we stop waiting

PROGRAM = """\
; Written by letta-ops.
[program:{name}]
command={command}
directory={directory}
{user}umask=077
autostart=true
autorestart=true
startsecs=1
; It never gives up: a service that can't start now may when the disk is free again.
startretries=1000000
stopsignal={stop_signal}
stopwaitsecs={patience}
{group}redirect_stderr=true
stdout_logfile={log}
stdout_logfile_maxbytes=20MB
stdout_logfile_backups=3
environment={environment}
"""


class SupervisedService(Provider):
    """Inputs: `name`, `command` (list), `directory`, `health` (see `_healthy`), `port`, `digest` (of
    what else it depends on), and optionally `account` (`postgres`, `operator`; else `server`), `files`
    (of this package, copied beside the program), `stop_signal`, `environment` (written to the file
    that `launch.py` reads) with `secret_names` (which of it are secrets) and `import_first` (the
    module that reads them).

    A service of the `operator` has the plain `variables`, and the `path` of when it was made.
    """

    compared: ClassVar[tuple[str, ...]] = (
        "command", "directory", "account", "environment", "health", "port", "digest", "files",
        "stop_signal", "variables",
    )  # fmt: skip

    def make(self, folder: StackFolder, inputs: Properties) -> tuple[str, Properties]:
        try:
            self._start(folder, inputs)
        except LettaOpsError:
            self.remove(folder, inputs)  # nothing half-made: it must not go on failing unseen
            raise
        return inputs["name"], {}

    def change(self, folder: StackFolder, old: Properties, new: Properties) -> Properties:
        state = supervisor.states(folder).get(new["name"])
        same = all(old.get(name) == new.get(name) for name in self.compared)
        # What is on disk may be left of an update that failed, which the engine doesn't know of.
        same = same and is_written(folder, new)
        if same and state is not None and _is_coming(state, new["health"]):
            # Its supervisor, started for another service, has started it as well.
            _wait(folder, new)
        else:
            self._start(folder, new)
        return {}

    def remove(self, folder: StackFolder, outputs: Properties) -> None:
        name = outputs["name"]
        folder.program(name).unlink(missing_ok=True)
        if outputs.get("environment"):
            folder.server_environment.unlink(missing_ok=True)
        if supervisor.process(folder) is None:
            supervisor.end_leftovers(folder)  # without a keeper, all of the stack's processes are
            return
        supervisor.drop_service(folder, name)
        if not list(folder.programs.glob("*.conf")):
            supervisor.stop(folder)

    def drift(self, folder: StackFolder, outputs: Properties) -> str | None:
        if not is_written(folder, outputs):
            return f"the settings of {outputs['name']} differ"
        state = supervisor.states(folder).get(outputs["name"])
        if state is None or not state.running:
            return f"{outputs['name']} is {state.state if state else 'not running'}"
        if not _healthy(outputs["health"], int(outputs["port"])):
            return f"{outputs['name']} does not answer"
        return None

    def _start(self, folder: StackFolder, inputs: Properties) -> None:
        account = _account(folder, inputs)
        if inputs.get("account") == OPERATOR:
            prepare_own_folders(folder)
        else:
            prepare_folders(folder)
        for name in inputs.get("files") or []:
            copy = folder.script(name)
            shutil.copyfile(PACKAGE_FOLDER / name, copy)
            copy.chmod(0o644)
        if inputs.get("environment"):
            write_environment(account, folder, inputs)
        path = folder.program(inputs["name"])
        write_file(path, program(account, folder, inputs), 0o600)
        # A new supervisord has read the file, and starts the service. Told to stop it at once, it would
        # send a signal that gets lost between fork and exec, and wait as long as a stop may take.
        if not supervisor.ensure_running(folder, plain_environment(folder)):
            supervisor.reload_service(folder, inputs["name"])
        _wait(folder, inputs)


def program(account: Account, folder: StackFolder, inputs: Mapping[str, Any]) -> str:
    """Return the service's supervisord file. It holds no secret."""
    environment = plain_environment(folder)
    if inputs.get("account") == OPERATOR:
        # In one order: Pulumi has none.
        environment |= {**dict(sorted(inputs["variables"].items())), "PATH": inputs["path"]}
    pairs = ",".join(f'{name}="{value}"' for name, value in environment.items())
    stop_signal = inputs.get("stop_signal") or "TERM"
    fields = {
        "name": inputs["name"],
        "command": shlex.join(inputs["command"]),
        "directory": inputs["directory"],
        "user": "" if account.is_us else f"user={account.name}\n",
        "stop_signal": stop_signal,
        # Postgres stops its own children; a signal to all of them would look like a crash.
        "group": "" if stop_signal == "INT" else "stopasgroup=true\nkillasgroup=true\n",
        # A large database writes its last checkpoint as long as it takes.
        "patience": 600 if stop_signal == "INT" else 60,
        "log": folder.log(inputs["name"]),
        "environment": pairs,
    }
    return PROGRAM.format(**{name: str(text).replace("%", "%%") for name, text in fields.items()})


def write_environment(account: Account, folder: StackFolder, inputs: Mapping[str, Any]) -> None:
    """Write the file from which `launch.py` reads; only the service's account may read it."""
    write_private(folder.server_environment, _document(inputs), account.owner)


def is_written(folder: StackFolder, inputs: Mapping[str, Any]) -> bool:
    """Whether the files that the service starts from are those that `inputs` ask for."""
    account = _account(folder, inputs)
    try:
        same = folder.program(inputs["name"]).read_text() == program(account, folder, inputs)
        if same and inputs.get("environment"):
            return folder.server_environment.read_text() == _document(inputs)
    except OSError:
        return False
    return same


def _account(folder: StackFolder, inputs: Mapping[str, Any]) -> Account:
    if inputs.get("account") == OPERATOR:
        return operator()
    return service_account(folder, inputs.get("account") or "server")


def _document(inputs: Mapping[str, Any]) -> str:
    return launch_document(
        inputs["environment"], inputs.get("secret_names") or [], inputs.get("import_first")
    )


def _hidden(inputs: Mapping[str, Any]) -> list[Sensitive]:
    return secret_values(inputs.get("environment") or {}, inputs.get("secret_names") or [])


def _wait(folder: StackFolder, inputs: Mapping[str, Any]) -> None:
    """Wait until the service is well. Raises LettaOpsError (`service-not-healthy`) with its log."""
    name, health = inputs["name"], inputs["health"]
    started = time.monotonic()
    failing_since: float | None = None
    while True:
        state = supervisor.states(folder).get(name)
        settled = state is not None and state.running and state.uptime >= health.get("uptime", 0)
        if settled and _healthy(health, int(inputs["port"])):
            return
        now = time.monotonic()
        if state is not None and state.running and state.uptime > FAILING_SECONDS:
            failing_since = None
        elif state is None or state.state in ("BACKOFF", "FATAL", "EXITED", "UNKNOWN"):
            failing_since = failing_since or now
        gave_up = failing_since is not None and now - failing_since > FAILING_SECONDS
        if gave_up or now - started > float(health["seconds"]):
            raise _not_healthy(folder, inputs, now - started)
        time.sleep(POLL_SECONDS)


def _not_healthy(folder: StackFolder, inputs: Mapping[str, Any], seconds: float) -> LettaOpsError:
    log = folder.log(inputs["name"])
    lines = "\n".join(f"    {line}" for line in tail(log, secrets=_hidden(inputs)).splitlines())
    return LettaOpsError(
        "service-not-healthy",
        f"{inputs['name']} was not healthy after {seconds:.0f} s; the last lines of its log:\n{lines}",
        f"read {log}, mend the cause, then run `letta-ops --stack {folder.stack} up` again",
    )


def _is_coming(state: supervisor.ServiceState, health: Mapping[str, Any]) -> bool:
    return state.state in ("STARTING", "RUNNING") and state.uptime < float(health["seconds"])


def _healthy(health: Mapping[str, Any], port: int) -> bool:
    """`{"kind": "tcp"}`: it accepts connections; `{"kind": "http", "path": ...}`: it answers 200.

    `{"kind": "redis", "path": ...}`: a Redis answers on this socket; `{"kind": "none"}`: it listens
    nowhere. With any, `uptime` seconds have to be behind it.
    """
    try:
        if health["kind"] == "none":
            return True
        if health["kind"] == "redis":
            return _pong(health["path"])
        if health["kind"] == "tcp":
            with socket.create_connection((LOOPBACK, port), timeout=1):
                return True
        opener = urllib.request.build_opener(urllib.request.ProxyHandler({}))
        url = f"http://{LOOPBACK}:{port}{health['path']}"
        with opener.open(url, timeout=5) as answer:
            return bool(answer.status == 200)
    except (OSError, http.client.HTTPException):  # URLError is an OSError
        return False


def _pong(path: str) -> bool:
    with socket.socket(socket.AF_UNIX, socket.SOCK_STREAM) as link:
        link.settimeout(1)
        link.connect(path)
        link.sendall(b"PING\r\n")
        return link.recv(16).startswith(b"+PONG")
