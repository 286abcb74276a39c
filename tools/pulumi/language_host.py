"""A language host for Python programs, for machines that cannot have Pulumi's own.

It serves the gRPC service `pulumirpc.LanguageRuntime` on the servicer of the Automation API, and
runs programs as the official `pulumi-language-python-exec` does (SDK 3.250.0).
"""

from __future__ import annotations

import asyncio
import contextvars
import logging
import os
import runpy
import signal
import sys
import threading
import traceback
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from contextlib import suppress
from pathlib import Path
from typing import Any

from orphan import end_with_parent

try:
    import grpc  # type: ignore[import-untyped]  # grpcio carries no types
    import pulumi
    from pulumi.automation._server import LanguageServer
    from pulumi.runtime import reset_options, run_in_stack, set_all_config
    from pulumi.runtime._grpc_settings import _GRPC_CHANNEL_OPTIONS
    from pulumi.runtime.proto import language_pb2, language_pb2_grpc
except ImportError as error:
    sys.exit(f"{sys.executable} cannot import Pulumi's SDK: {error}\n  next: run make setup")


class LanguageHost(LanguageServer):
    """Runs the program that the engine names in each request.

    N802, ARG002: the service's definition gives the methods their names and arguments.
    """

    def __init__(self, engine_address: str) -> None:
        super().__init__(program=lambda: None)
        self.engine_address = engine_address

    def Handshake(self, request: Any, context: Any) -> Any:  # noqa: N802, ARG002
        return language_pb2.LanguageHandshakeResponse()

    def Run(self, request: Any, context: Any) -> Any:  # noqa: N802, ARG002
        # The SDK keeps its settings in context variables: a run must not see those of the last one.
        return contextvars.copy_context().run(self._run, request)

    def _run(self, request: Any) -> Any:
        os.chdir(request.pwd)
        reset_options(
            project=request.project,
            stack=request.stack,
            root_directory=request.info.root_directory,
            parallel=request.parallel,
            engine_address=self.engine_address,
            monitor_address=request.monitor_address,
            preview=request.dryRun,
            organization=request.organization or "organization",
        )
        set_all_config(dict(request.config), list(request.configSecretKeys))
        # The entry point "." means the folder, whose __main__.py runpy runs with that folder first
        # on sys.path; Path drops the dot.
        program = Path(request.info.program_directory) / request.info.entry_point
        sys.argv = [str(program), *request.args]

        def run_program() -> None:
            runpy.run_path(str(program), run_name="__main__")

        loop = asyncio.new_event_loop()
        loop.set_default_executor(ThreadPoolExecutor(max(request.parallel, 1) * 4))
        loop.set_exception_handler(self._exception_handler)
        try:
            return _outcome(program, lambda: loop.run_until_complete(run_in_stack(run_program)))
        finally:
            _close(loop)


def _outcome(program: Path, run: Callable[[], object]) -> Any:
    """Call `run`; show a failure as the official executor would, and answer the engine.

    `bail` tells the engine that the reason has been shown, so that it adds none of its own.
    """
    try:
        run()
    except SystemExit as end:
        # The SDK itself exits with 0 when the engine has gone away.
        if end.code in (None, 0):
            return language_pb2.RunResponse()
        message = f"program exited with non-zero exit code: {end.code}"
        return language_pb2.RunResponse(error=message)
    except grpc.RpcError as error:
        if error.code() == grpc.StatusCode.UNAVAILABLE:
            return language_pb2.RunResponse()
        pulumi.log.error(f"the engine refused: {error.details()}")
    except Exception as error:  # noqa: BLE001 - whatever a program raises is its user's to see
        expected = isinstance(error, pulumi.RunError)
        pulumi.log.error(str(error) if expected else _user_traceback(program, error))
    else:
        return language_pb2.RunResponse()
    return language_pb2.RunResponse(bail=True)


def _user_traceback(program: Path, error: Exception) -> str:
    """The traceback from the program's first own frame on; whole when it has none."""
    main = program / "__main__.py" if program.is_dir() else program
    frames = traceback.extract_tb(error.__traceback__)
    own = [number for number, frame in enumerate(frames) if Path(frame.filename) == main]
    limit = own[0] - len(frames) if own else None
    shown = "".join(traceback.format_exception(error, limit=limit))
    return f"Program failed with an unhandled exception:\n{shown}"


def _close(loop: asyncio.AbstractEventLoop) -> None:
    # A failed program leaves tasks behind; asyncio complains of each one that is still pending.
    for task in asyncio.all_tasks(loop):
        task.cancel()
        with suppress(asyncio.CancelledError, Exception):
            loop.run_until_complete(task)
    loop.close()
    sys.stdout.flush()
    sys.stderr.flush()


def main(arguments: list[str]) -> None:
    """Serve until the engine interrupts us or is gone. Prints the port, as every plugin does."""
    if not arguments:
        sys.exit("usage: pulumi-language-python [FLAGS] ENGINE_ADDRESS")
    end_with_parent()
    # Programs must not find the modules that lie beside this file.
    sys.path.pop(0)
    logging.getLogger("asyncio").setLevel(logging.CRITICAL)
    stopped = threading.Event()
    for number in (signal.SIGINT, signal.SIGTERM):
        signal.signal(number, lambda *_: stopped.set())
    server = grpc.server(ThreadPoolExecutor(max_workers=4), options=_GRPC_CHANNEL_OPTIONS)
    # Flags come first, the address last (sdk/go/common/resource/plugin, buildArgsForNewPlugin).
    language_pb2_grpc.add_LanguageRuntimeServicer_to_server(LanguageHost(arguments[-1]), server)
    print(server.add_insecure_port("127.0.0.1:0"), flush=True)
    server.start()
    stopped.wait()
    server.stop(0)
    # An ordinary exit would wait for the threads of a program that the engine has given up on.
    os._exit(0)


if __name__ == "__main__":
    main(sys.argv[1:])
