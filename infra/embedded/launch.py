"""Start a Python program with secrets from a file, and keep them out of what it prints.

Run by the interpreter of a Letta release, which has none of our packages: standard library only.

    python launch.py [--sessions=JSON] ENVIRONMENT.json MODULE:FUNCTION [ARGUMENT ...]

The file holds `environment`, `secrets` (values) and `secret_names`, and the module to
`import_first`. Letta prints its password when it starts; whoever reads the log must not learn it.
And it hands its whole environment to the tools of agents: once it has read its secrets, they leave
the environment. Most of its start is imports and schemas, of which more than half is spared here.

JSON is for a server that works on what a restore brings, while another serves: see `direct_sessions`.
"""

from __future__ import annotations

import copy
import datetime
import gc
import importlib
import json
import os
import shutil
import socket
import sys
import sysconfig
import tempfile
import threading
import time
import venv
from collections.abc import Callable, Iterable, Iterator, Mapping
from contextlib import contextmanager, suppress
from functools import cached_property, partial
from pathlib import Path
from types import ModuleType
from typing import Annotated, Any, TextIO

REDACTED = "[redacted]"
SESSIONS = "--sessions="
NO_SUCH_DATABASE = "3D000"  # PostgreSQL's documentation, "Appendix A"
TOKENS = ("llama_index", "core", "_static", "tiktoken_cache")
FASTAPI = ("0.116.1",)  # those whose inside is known here
READS_FILES = "markitdown"
RELEASE_PACKAGES = "letta-release.pth"  # names the packages of the release
REDIS_SECONDS = 30.0  # there is none before Letta's own start, either
NO_SCHEMA: dict[str, Any] = {"paths": {}, "info": {}, "components": {"schemas": {}}}


class LogStream:
    """A text stream that replaces secrets in whatever is written through it, and tells the time of each
    line: most of what a server says has none."""

    def __init__(self, stream: TextIO, secrets: Iterable[str]) -> None:
        self._stream = stream
        long_enough = (value for value in secrets if len(value) >= 6)
        self._secrets = sorted(long_enough, key=len, reverse=True)
        self._begins, self._lock = True, threading.RLock()

    def write(self, text: str) -> int:
        hidden = text
        for secret in self._secrets:
            hidden = hidden.replace(secret, REDACTED)
        now = datetime.datetime.now(datetime.UTC).isoformat(timespec="milliseconds")
        first, *others = hidden.split("\n")
        with self._lock:
            stamped = [self._stamped(now, first)]
            for line in others:
                self._begins = True
                stamped.append(self._stamped(now, line))
            self._stream.write("\n".join(stamped))
            self._stream.flush()
        return len(text)

    def _stamped(self, now: str, text: str) -> str:
        begins, self._begins = self._begins, self._begins and not text
        return f"{now.removesuffix('+00:00')}Z {text}" if begins and text else text

    def writelines(self, lines: Iterable[str]) -> None:
        for line in lines:
            self.write(line)

    def __getattr__(self, name: str) -> Any:
        return getattr(self._stream, name)


@contextmanager
def quick_imports() -> Iterator[None]:
    """Spare the imports what costs a third of their time (measured) and serves nobody.

    The collector looks again and again at objects that stay; and `inflect`, which names classes in
    the schemas of tools, has `typeguard` rewrite its functions at import, to check their arguments.
    """
    gc.disable()
    try:
        typeguard: Any = importlib.import_module("typeguard")
    except ImportError:  # another release's
        yield
    else:
        checked = typeguard.typechecked
        typeguard.typechecked = unchecked
        yield
        typeguard.typechecked = checked
    gc.freeze()  # nor does it look at them later
    gc.enable()


def read_files_later() -> None:
    """Spare a server what reads the files that are uploaded, until there is one.

    pandas and more come with it: a fifth of the memory, and an eighth of the imports' time (measured).
    Every release asks of that module nothing but to call `MarkItDown`.
    """
    stand_in, lock = ModuleType(READS_FILES), threading.Lock()

    def make(*arguments: Any, **options: Any) -> Any:
        with lock:
            if sys.modules.get(READS_FILES) is stand_in:
                del sys.modules[READS_FILES]
            module = importlib.import_module(READS_FILES)
        return module.MarkItDown(*arguments, **options)

    stand_in.MarkItDown = make  # type: ignore[attr-defined,unused-ignore]
    sys.modules[READS_FILES] = stand_in


@contextmanager
def schemas_on_demand(name: str) -> Iterator[None]:
    """Spare the import of module `name` what FastAPI makes for requests that may never come.

    Every parameter of every route has a validator, some 12,000 of them, since Letta has each route under
    three prefixes: made when it is used for the first time. And Letta makes the OpenAPI document at every
    start: made when somebody asks for it. Both are what they would have been (measured: 12.5 to 7.9 s).
    """
    fastapi: Any = None
    with suppress(ImportError):  # another release's
        fastapi = importlib.import_module("fastapi")
    if getattr(fastapi, "__version__", None) not in FASTAPI:
        yield
        return
    compat: Any = importlib.import_module("fastapi._compat")
    field = compat.ModelField
    field.__post_init__ = lambda _: None
    field._type_adapter = cached_property(  # noqa: SLF001
        lambda it: compat.TypeAdapter(Annotated[it.field_info.annotation, it.field_info])
    )
    field._type_adapter.__set_name__(field, "_type_adapter")  # noqa: SLF001
    of_fastapi = fastapi.FastAPI.openapi
    fastapi.FastAPI.openapi = lambda _: copy.deepcopy(NO_SCHEMA)
    yield
    fastapi.FastAPI.openapi = of_fastapi
    module = sys.modules[name]
    for each in list(vars(module).values()):
        if isinstance(each, fastapi.FastAPI):
            each.openapi = partial(openapi, each, module.generate_openapi_schema)


def openapi(app: Any, generate: Callable[[Any], None]) -> Any:
    """The document of `app`, made as Letta makes it at its start; when that fails, the next time."""
    again = app.openapi
    del app.openapi
    app.openapi_schema = None
    try:
        generate(app)
    except BaseException:
        app.openapi_schema, app.openapi = None, again
        raise
    return app.openapi_schema


def unchecked(target: Any = None, **_: Any) -> Any:
    """Do as the decorator `typeguard.typechecked` does under `python -O`: nothing."""
    return target if target is not None else unchecked


def direct_sessions(parameters: Mapping[str, str]) -> None:
    """Let sessions with Postgres work in another `database`, for as long as there is one of that name,
    or with another `search_path`: what is restored gets its lasting name while this server works on it.
    """
    event: Any = importlib.import_module("sqlalchemy.event")
    engine: Any = importlib.import_module("sqlalchemy.engine")
    path, name = parameters.get("search_path"), parameters.get("database")

    @event.listens_for(engine.Engine, "do_connect")  # type: ignore[untyped-decorator,unused-ignore]
    def connect(dialect: Any, _: Any, arguments: Any, options: dict[str, Any]) -> Any:
        if path is not None:
            options["server_settings"] = {**options.get("server_settings", {}), "search_path": path}
        if name is not None:
            try:
                return dialect.connect(*arguments, **{**options, "database": name})
            except Exception as error:
                if getattr(error, "sqlstate", None) != NO_SUCH_DATABASE:
                    raise
        return None  # as it would be without us


def redis_by_socket(path: str) -> None:
    """Let Letta's client of Redis, which knows hosts and ports, speak over the Unix socket `path`.

    What is in that Redis was of runs that ended with the server before this one: the locks of their
    conversations would refuse messages for minutes, and a client that sends a message again would be
    told of a run that is no more. So it goes.
    """
    deadline = time.monotonic() + REDIS_SECONDS
    while not flushed(path):
        if time.monotonic() > deadline:
            print(f"no Redis answers at {path}: streams in the background are not offered")
            return
        time.sleep(0.1)
    redis: Any = importlib.import_module("redis.asyncio")
    made = redis.ConnectionPool.__init__

    def make(self: Any, **options: Any) -> None:
        if options.get("host") == path:
            del options["host"]
            options.pop("port", None)
            options |= {"connection_class": redis.UnixDomainSocketConnection, "path": path}
        made(self, **options)

    redis.ConnectionPool.__init__ = make


def flushed(path: str) -> bool:
    """Whether the Redis at the socket `path` has forgotten everything."""
    with suppress(OSError), socket.socket(socket.AF_UNIX, socket.SOCK_STREAM) as link:
        link.settimeout(REDIS_SECONDS)
        link.connect(path)
        link.sendall(b"FLUSHALL\r\n")
        return link.recv(16).startswith(b"+OK")
    return False


def tokens_offline() -> None:
    """Let `tiktoken` find what it would download in the midst of a request: another package of every
    release brings it along."""
    folder = Path(sysconfig.get_path("purelib"), *TOKENS)
    if folder.is_dir():
        os.environ.setdefault("TIKTOKEN_CACHE_DIR", str(folder))


def make_tools_environment() -> None:
    """Make the virtual environment that tools of agents run in, where none of this Python is there.

    Letta's own is made with the first call of a tool, by two calls at once twice, and has nothing of the
    release's packages, which tools see without one. Whatever fails is left to Letta.
    """
    name, parent = os.environ.get("TOOL_EXEC_VENV_NAME"), os.environ.get("TOOL_EXEC_DIR")
    if not name or not parent:
        return
    target = Path(parent, name)
    version = f"python{sys.version_info.major}.{sys.version_info.minor}"
    mark = Path("lib", version, "site-packages", RELEASE_PACKAGES)
    release = f"import site; site.addsitedir({sysconfig.get_path('purelib')!r})\n"
    try:
        if not (target / mark).exists() or not (target / "bin" / "python3").exists():
            shutil.rmtree(target, ignore_errors=True)
            with tempfile.TemporaryDirectory(prefix=f"{name}-", dir=parent) as draft:
                venv.create(Path(draft, name), symlinks=True)
                Path(draft, name, mark).write_text(release)
                Path(draft, name).rename(target)
        elif (target / mark).read_bytes() != release.encode():
            (target / mark).write_text(release)
    except (OSError, ValueError) as error:  # ValueError: a path that has a colon
        print(f"the environment for tools could not be made in {target}: {error}")


def close_transports_once() -> None:
    """Keep a connection that was thrown away from disturbing the next one with its file descriptor.

    Letta makes a client of OpenAI's for each request and drops it. When the collector finds that, it
    calls the finalizers of all: the socket is closed, and the client begins to close itself, which tells
    the loop to forget the transport's descriptor. By then it may be that of a connection to Postgres that
    is just being made: the loop doesn't hear of it, and a request waits for 30 s (seen in half of the
    smoke tests after a start). A transport that the collector finds is closed already: nothing is to be
    forgotten.
    """
    transport: Any = importlib.import_module("asyncio.selector_events")._SelectorTransport  # noqa: SLF001
    close_socket = transport.__del__

    def end(self: Any, *more: Any) -> None:
        self._closing = True
        close_socket(self, *more)

    transport.__del__ = end


def refuse_programs() -> None:
    """Start no program as an MCP server where that is off: releases before 0.16.7 look at it in one of
    the ways to one, and not in the others."""
    if os.environ.get("MCP_DISABLE_STDIO", "").lower() != "true":
        return
    with suppress(ImportError):  # another release's
        client: Any = importlib.import_module("letta.services.mcp.stdio_client").AsyncStdioMCPClient

        async def refuse(*_: Any, **__: Any) -> None:
            raise ConnectionError("MCP servers over stdio are off: this server starts no programs")

        client._initialize_connection = refuse  # noqa: SLF001


def main() -> None:
    given = sys.argv[1:]
    sessions = given.pop(0).removeprefix(SESSIONS) if given[0].startswith(SESSIONS) else "{}"
    path, entry_point, *arguments = given
    module, _, function = entry_point.partition(":")
    with Path(path).open() as source:
        settings = json.load(source)
    os.environ.update(settings["environment"])
    tokens_offline()
    secrets = settings["secrets"]
    sys.stdout = LogStream(sys.stdout, secrets)
    sys.stderr = LogStream(sys.stderr, secrets)
    make_tools_environment()
    sys.argv = [module, *arguments]
    del sys.path[0]  # our own folder
    if directed := json.loads(sessions):
        direct_sessions(directed)
    read_files_later()
    close_transports_once()
    with quick_imports():
        if first := settings["import_first"]:
            with schemas_on_demand(first):
                importlib.import_module(first)
            refuse_programs()
        if (redis := os.environ.get("LETTA_REDIS_HOST", "")).startswith("/"):
            redis_by_socket(redis)
        for name in settings["secret_names"]:
            os.environ.pop(name, None)
        entry = getattr(importlib.import_module(module), function)
    entry()


if __name__ == "__main__":
    main()
