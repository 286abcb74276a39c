"""Starting a server: what its imports are spared, and that it finds everything as it was."""

from __future__ import annotations

import json
import os
import re
import socket
import subprocess
import sys
import time
from pathlib import Path

import pytest

from infra.embedded import launch
from infra.embedded.valkey import configure, install_valkey
from infra.log_lines import OUR_STAMP
from infra.stack.locations import StackFolder
from infra.stack.server_environment import MCP_STDIO_OFF, launch_document

MODULES = {
    "typeguard.py": "def typechecked(target=None, **options):\n    return 'checked'\n",
    "slow.py": """\
import gc, os, typeguard
assert not gc.isenabled()
bare = typeguard.typechecked(len)
called = typeguard.typechecked(forward_ref_policy=None)(len)
secret = os.environ['SECRET']
""",
    "served.py": """\
import gc, os, sys, slow, typeguard
def main():
    assert slow.bare is slow.called is len, 'arguments were checked'
    assert typeguard.typechecked() == 'checked', 'it is as it was'
    assert gc.isenabled() and gc.get_freeze_count() > 0
    assert 'SECRET' not in os.environ and slow.secret == 'a-long-secret'
    print('served', sys.argv[1:], slow.secret)
""",
}


def launched(modules: Path, *arguments: str | Path) -> str:
    """What a program prints that is started with modules of the folder; it succeeds."""
    done = subprocess.run(
        [sys.executable, launch.__file__, *arguments],
        env={**os.environ, "PYTHONPATH": str(modules), "PYTHONDONTWRITEBYTECODE": "1"},
        capture_output=True, text=True, check=False,
    )  # fmt: skip
    assert done.returncode == 0, done.stderr
    said = filter(None, done.stdout.splitlines())
    assert all(map(OUR_STAMP.match, said)), "it tells the time of each line"
    return re.sub(OUR_STAMP.pattern, "", done.stdout, flags=re.MULTILINE)


@pytest.mark.parametrize("has_typeguard", [True, False])
def test_imports_are_spared_what_serves_nobody(tmp_path: Path, has_typeguard: bool) -> None:
    for name, text in MODULES.items():
        (tmp_path / name).write_text(text)
    if not has_typeguard:
        (tmp_path / "typeguard.py").write_text("raise ImportError")
        for name in ("slow.py", "served.py"):
            lines = (tmp_path / name).read_text().splitlines(keepends=True)
            kept = [line for line in lines if "checked" not in line]
            (tmp_path / name).write_text("".join(kept).replace(", typeguard", ""))
    document = tmp_path / "document.json"
    document.write_text(launch_document({"SECRET": "a-long-secret"}, ["SECRET"], "slow"))
    assert (
        launched(tmp_path, document, "served:main", "--port", "1")
        == "served ['--port', '1'] [redacted]\n"
    )
    assert json.loads(document.read_text())["import_first"] == "slow"


WEB = {
    "fastapi/__init__.py": """\
__version__ = '%s'
class FastAPI:
    openapi_schema = None
    def openapi(self):
        return self.openapi_schema or {'paths': {'/': 1}, 'info': {}, 'components': {'schemas': {}}}
""",
    "fastapi/_compat.py": """\
made = []
class TypeAdapter:
    def __init__(self, of):
        made.append(of)
class ModelField:
    def __init__(self, field_info):
        self.field_info = field_info
        self.__post_init__()
    def __post_init__(self):
        self._type_adapter = TypeAdapter(self.field_info)
""",
    "app.py": """\
from types import SimpleNamespace
from fastapi import FastAPI, _compat
field = _compat.ModelField(SimpleNamespace(annotation=int))
app = FastAPI()
generated = []
failures = []
def generate_openapi_schema(app):
    if failures:
        raise failures.pop()
    app.openapi_schema = app.openapi()
    app.openapi_schema['info']['title'] = 'Letta API'
    generated.append(len(app.openapi_schema['paths']))
generate_openapi_schema(app)
early = (list(_compat.made), list(generated))
def main():
    first = field._type_adapter
    assert field._type_adapter is first and len(_compat.made) == 1
    failures.extend([ValueError()] if not generated[-1] else [])
    try:
        app.openapi()
    except ValueError:
        pass  # one that could not be made is made the next time
    print(early, app.openapi(), app.openapi() is app.openapi(), generated)
""",
}


@pytest.mark.parametrize(
    ("version", "early", "generated"),
    [
        ("0.116.1", "([], [0])", "[0, 1]"),
        ("0.999", "([namespace(annotation=<class 'int'>)], [1])", "[1]"),
    ],
    ids=["known", "unknown"],
)
def test_what_describes_the_api_is_made_when_it_is_asked_for(
    tmp_path: Path, version: str, early: str, generated: str
) -> None:
    (tmp_path / "fastapi").mkdir()
    for name, text in WEB.items():
        (tmp_path / name).write_text(text.replace("%s", version))
    document = tmp_path / "document.json"
    document.write_text(launch_document({}, [], "app"))
    printed = launched(tmp_path, document, "app:main")
    whole = {"paths": {"/": 1}, "info": {"title": "Letta API"}, "components": {"schemas": {}}}
    assert printed == f"{early} {whole} True {generated}\n"


SESSIONS = {
    "sqlalchemy/__init__.py": "",
    "sqlalchemy/engine.py": "class Engine:\n    pass\n",
    "sqlalchemy/event.py": """\
from sqlalchemy.engine import Engine
def listens_for(target, name):
    assert (target, name) == (Engine, 'do_connect')
    return lambda call: globals().update(connect=call)
""",
    "app.py": """\
from sqlalchemy import event
there = ['letta', 'letta_restoring']
class Refused(Exception):
    def __init__(self, sqlstate):
        self.sqlstate = sqlstate
class Dialect:
    def connect(self, host, database, server_settings=None):
        if database not in there:
            raise Refused('3D000')
        if host == 'down':
            raise Refused('08006')
        return f"{database} {server_settings}"
def connect(host='here'):
    options = {'database': 'letta', 'server_settings': {'a': 'b'}}
    made = event.connect(Dialect(), None, (host,), options)
    return made or Dialect().connect(host, **options)
def main():
    print(connect())
    try:
        print(connect('down'))
    except Refused as error:
        print(error.sqlstate)
    there.remove('letta_restoring')
    print(connect())
""",
}
OF_APP = "{'a': 'b'}"


@pytest.mark.parametrize(
    ("sessions", "printed"),
    [
        (
            {"database": "letta_restoring"},
            [f"letta_restoring {OF_APP}", "08006", f"letta {OF_APP}"],
        ),
        (
            {"search_path": '"a, b", public'},
            ["letta {'a': 'b', 'search_path': '\"a, b\", public'}", "08006"],
        ),
    ],
    ids=["database", "schema"],
)
def test_sessions_work_where_they_are_told_until_that_has_its_lasting_name(
    tmp_path: Path, sessions: dict[str, str], printed: list[str]
) -> None:
    (tmp_path / "sqlalchemy").mkdir()
    for name, text in SESSIONS.items():
        (tmp_path / name).write_text(text)
    document = tmp_path / "document.json"
    document.write_text(launch_document({}, [], ""))
    found = launched(tmp_path, f"--sessions={json.dumps(sessions)}", document, "app:main")
    assert found.splitlines()[: len(printed)] == printed


CLIENT = """\
class UnixDomainSocketConnection:
    pass
class ConnectionPool:
    def __init__(self, connection_class=None, **options):
        self.made = connection_class, options
"""
ASKING = """\
import redis.asyncio as redis
def main():
    print(redis.ConnectionPool(host=HOST, port=6379, db=0).made)
    print(redis.ConnectionPool(host='other', port=1).made)
"""


def test_redis_is_spoken_to_over_its_socket_and_begins_anew(tmp_path: Path) -> None:
    """With the real server, and of the client what is asked of it."""
    folder = StackFolder(tmp_path / "state", "one")
    folder.services.mkdir(parents=True)
    folder.redis_socket.parent.mkdir(parents=True)
    socket_path = str(folder.redis_socket)
    configure(folder)
    (tmp_path / "redis").mkdir()
    (tmp_path / "redis" / "__init__.py").touch()
    (tmp_path / "redis" / "asyncio.py").write_text(CLIENT)
    (tmp_path / "served.py").write_text(f"HOST = {socket_path!r}\n{ASKING}")
    document = tmp_path / "document.json"
    document.write_text(launch_document({"LETTA_REDIS_HOST": socket_path}, [], None))
    program = install_valkey(tmp_path / "cache")
    with subprocess.Popen([program, folder.redis_settings], stdout=subprocess.DEVNULL) as server:
        try:
            until_there(folder.redis_socket)
            assert folder.redis_socket.stat().st_mode & 0o077 == 0, "nobody else gets in"
            assert asked(folder, "SET old lock") == "+OK"
            lines = launched(tmp_path, document, "served:main").splitlines()
            assert asked(folder, "DBSIZE") == ":0"
        finally:
            server.terminate()
    assert lines == [
        f"(<class 'redis.asyncio.UnixDomainSocketConnection'>, {{'db': 0, 'path': {socket_path!r}}})",
        "(None, {'host': 'other', 'port': 1})",
    ]


def test_a_server_starts_where_no_redis_does(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr(launch, "REDIS_SECONDS", 0.2)
    launch.redis_by_socket(str(tmp_path / "none"))
    assert "streams in the background are not offered" in capsys.readouterr().out


def until_there(path: Path) -> None:
    deadline = time.monotonic() + 30
    while not path.exists():
        assert time.monotonic() < deadline, f"no {path}"
        time.sleep(0.02)


def asked(folder: StackFolder, command: str) -> str:
    with socket.socket(socket.AF_UNIX) as link:
        link.connect(str(folder.redis_socket))
        link.sendall(f"{command}\r\n".encode())
        return link.recv(100).decode().strip()


TOOLS = """\
import os, subprocess
def main():
    tools = os.path.join(os.environ['TOOL_EXEC_DIR'], os.environ['TOOL_EXEC_VENV_NAME'])
    code = 'import sys, pip, psycopg; print(sys.prefix)'
    said = subprocess.run([tools + '/bin/python3', '-c', code], capture_output=True, text=True)
    assert said.stdout.strip() == tools, said.stderr
    print('tools see what the release has')
"""


def test_tools_run_in_an_environment_that_lasts_and_sees_the_releases_packages(
    tmp_path: Path,
) -> None:
    (tmp_path / "served.py").write_text(TOOLS)
    environment = {"TOOL_EXEC_DIR": str(tmp_path), "TOOL_EXEC_VENV_NAME": "tools"}
    document = tmp_path / "environment.json"
    document.write_text(launch_document(environment, [], None))

    def start() -> None:
        assert launched(tmp_path, document, "served:main") == "tools see what the release has\n"

    start()
    (mark,) = tmp_path.glob(f"tools/lib/*/site-packages/{launch.RELEASE_PACKAGES}")
    installed = mark.with_name("installed.py")
    installed.touch()
    mark.write_text("import site; site.addsitedir('/another/release')\n")
    start()
    assert installed.exists(), "what tools require is not fetched again at each start"
    interpreter = tmp_path / "tools" / "bin" / "python3"
    interpreter.unlink()
    interpreter.symlink_to("/no/such/python3")
    start()
    assert not installed.exists(), "it was another Python's"
    assert [path.name for path in tmp_path.glob("tools*")] == ["tools"]


def test_a_server_starts_where_no_environment_for_tools_can_be_made(tmp_path: Path) -> None:
    (tmp_path / "served.py").write_text("def main(): print('served')")
    environment = {"TOOL_EXEC_DIR": str(tmp_path / "none"), "TOOL_EXEC_VENV_NAME": "tools"}
    document = tmp_path / "environment.json"
    document.write_text(launch_document(environment, [], None))
    first, last = launched(tmp_path, document, "served:main").splitlines()
    assert first.startswith("the environment for tools could not be made")
    assert last == "served"


READS = """\
import sys
from concurrent.futures import ThreadPoolExecutor
from markitdown import MarkItDown
def main():
    assert not hasattr(sys, 'reader_came'), 'nobody needed it'
    with ThreadPoolExecutor(8) as pool:
        read = list(pool.map(lambda n: MarkItDown(enable_plugins=False).convert(str(n)), range(8)))
    assert read == [f'read {n}' for n in range(8)] and sys.reader_came == 1
    import markitdown
    print(markitdown.MarkItDown().convert('more'))
"""
READER = """\
import sys, time
time.sleep(0.1)
sys.reader_came = getattr(sys, 'reader_came', 0) + 1
class MarkItDown:
    def __init__(self, enable_plugins=True): pass
    def convert(self, path): return 'read ' + path
"""


def test_what_reads_files_is_imported_when_there_is_one(tmp_path: Path) -> None:
    (tmp_path / "markitdown.py").write_text(READER)
    (tmp_path / "served.py").write_text(READS)
    document = tmp_path / "environment.json"
    document.write_text(launch_document({}, [], "served"))
    assert launched(tmp_path, document, "served:main") == "read more\n"


PROGRAMS = """\
import asyncio
from letta.services.mcp.stdio_client import AsyncStdioMCPClient
def main():
    try:
        print(asyncio.run(AsyncStdioMCPClient()._initialize_connection('touch')))
    except ConnectionError as error:
        print('refused')
"""
CLIENT_OF_PROGRAMS = """\
class AsyncStdioMCPClient:
    async def _initialize_connection(self, command):
        return f'{command} runs'
"""


@pytest.mark.parametrize(("off", "said"), [("true", "refused\n"), ("false", "touch runs\n")])
def test_no_program_is_started_as_an_mcp_server_unless_that_is_allowed(
    tmp_path: Path, off: str, said: str
) -> None:
    package = tmp_path / "letta" / "services" / "mcp"
    package.mkdir(parents=True)
    (package / "stdio_client.py").write_text(CLIENT_OF_PROGRAMS)
    (tmp_path / "served.py").write_text(PROGRAMS)
    document = tmp_path / "environment.json"
    document.write_text(launch_document({MCP_STDIO_OFF: off}, [], "served"))
    assert launched(tmp_path, document, "served:main") == said


DROPPED = """\
import asyncio, gc, socket
class Client:
    def __init__(self, loop, transport):
        self.loop, self.transport, self.itself = loop, transport, self
    def __del__(self):  # as OpenAI's
        self.loop.call_soon(self.transport.close)
async def work():
    loop = asyncio.get_running_loop()
    one, other = socket.socketpair()
    number = one.fileno()
    transport, protocol = await loop.create_connection(asyncio.Protocol, sock=one)
    transport.pause_reading()
    Client(loop, transport)
    del transport, protocol, one
    gc.collect()
    next_one, next_other = socket.socketpair()
    next_one.setblocking(False)
    assert next_one.fileno() == number, 'the collector did not close it'
    heard = loop.create_future()
    loop.add_writer(next_one, lambda: heard.done() or heard.set_result(None))
    await asyncio.wait_for(heard, 5)
    loop.remove_writer(next_one)
    print('heard')
def main():
    asyncio.run(work())
"""


def test_a_connection_that_was_dropped_does_not_disturb_the_next_one(tmp_path: Path) -> None:
    (tmp_path / "served.py").write_text(DROPPED)
    document = tmp_path / "environment.json"
    document.write_text(launch_document({}, [], None))
    assert launched(tmp_path, document, "served:main") == "heard\n"
