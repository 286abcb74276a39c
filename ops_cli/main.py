"""The entry point: arguments in, exit code out. The only place that catches everything."""

from __future__ import annotations

import signal
import sys
from types import FrameType
from typing import TYPE_CHECKING, Any, NoReturn

from infra.errors import LettaOpsError

if TYPE_CHECKING:
    from ops_cli.invocation import Invocation

DONE, FAILED, USAGE, UNKNOWN, INTERRUPTED = 0, 1, 2, 3, 130
ENDED_BY_SIGNAL = 128  # and its number, as shells say


class Terminated(KeyboardInterrupt):
    """SIGTERM, or SIGHUP of a terminal that went away, raised like Ctrl-C: so that children are ended
    and drafts removed. `number` is the signal's."""

    def __init__(self, number: int = signal.SIGTERM) -> None:
        super().__init__()
        self.number = signal.Signals(number)


def main() -> NoReturn:
    """Run the command line of this process, and leave with its exit code."""
    # httpx imports its own command line where it can, with all of click, pygments and rich: a
    # quarter of the time of a short command.
    sys.modules.setdefault("httpx._main", None)  # type: ignore[arg-type]  # Python's own way
    signal.signal(signal.SIGTERM, _terminated)
    if signal.getsignal(signal.SIGHUP) is not signal.SIG_IGN:  # what `nohup` asks for stays
        signal.signal(signal.SIGHUP, _terminated)
    sys.exit(run(sys.argv[1:]))


def run(arguments: list[str]) -> int:
    """Run one command line and return its exit code: 0 done, 1 failed, 2 wrong usage.

    `check` returns 0 to 3, and 3 (UNKNOWN) for what says nothing of the stack: wrong usage, or an error
    of ours. An interruption returns 130 (SIGINT), 143 (SIGTERM) or 129 (SIGHUP); 141 (SIGPIPE), where
    whoever read the answer left before its end.
    """
    # Answered before Typer is imported, which would take most of the time.
    if arguments == ["--version"]:
        from importlib.metadata import version

        print(version("letta-ops"))
        return DONE
    for stream in (sys.stdout, sys.stderr):
        if hasattr(stream, "reconfigure"):
            stream.reconfigure(errors="backslashreplace")
    try:
        code = _answered(arguments)
        sys.stdout.flush()
    except BrokenPipeError:
        from ops_cli.output import forget

        forget(sys.stdout.fileno())  # whoever read it has gone; Python would complain at its end
        return ENDED_BY_SIGNAL + signal.SIGPIPE  # as it ends others: nothing failed
    except KeyboardInterrupt:  # before the command began, or for the second time
        return INTERRUPTED
    return code


def _answered(arguments: list[str]) -> int:
    from ops_cli.nouns import command_line
    from ops_cli.options import hoist, is_check, wants_json

    failed, usage = (UNKNOWN, UNKNOWN) if is_check(arguments) else (FAILED, USAGE)
    arguments = hoist(arguments) or ["--help"]
    as_json = wants_json(arguments)
    context: Any = None
    try:
        context = command_line().make_context("letta-ops", list(arguments))
        with context:
            context.command.invoke(context)
    except BrokenPipeError:
        raise
    except BaseException as error:  # noqa: BLE001  nobody asked for a traceback
        return _explained(error, context.obj if context else None, as_json, failed, usage)
    return DONE


def _explained(
    error: BaseException, invocation: Invocation | None, as_json: bool, failed: int, usage: int
) -> int:
    """Say what happened, on stdout as JSON or on stderr as text, and return the exit code.

    `failed` and `usage` are those of a failure and of wrong usage.
    """
    import typer

    from ops_cli.output import UnsuccessfulError, note, print_error

    if isinstance(error, typer.Exit):
        return error.exit_code
    for line in getattr(error, "__notes__", ()):
        note(line)
    if invocation is not None and isinstance(error, LettaOpsError):
        error.hint = invocation.in_full(error.hint)
    if isinstance(error, UnsuccessfulError):
        print_error(error, as_json, error.result)
        return error.exit_code
    if isinstance(error, LettaOpsError):
        print_error(error, as_json)
        return failed
    if isinstance(error, typer.TyperException):
        print_error(_usage(error), as_json)
        return usage
    if isinstance(error, KeyboardInterrupt | typer.Abort | EOFError):
        print_error(_interruption(error), as_json)
        return ENDED_BY_SIGNAL + error.number if isinstance(error, Terminated) else INTERRUPTED
    if isinstance(error, SystemExit):
        raise error
    print_error(_internal(error, invocation), as_json)
    return failed


def _usage(error: Any) -> LettaOpsError:
    context = getattr(error, "ctx", None)
    path = context.command_path if context else "letta-ops"
    return LettaOpsError("usage", error.format_message().rstrip("."), f"see `{path} --help`")


def _interruption(error: BaseException) -> LettaOpsError:
    word = f"ended by {error.number.name}" if isinstance(error, Terminated) else "interrupted"
    return LettaOpsError("interrupted", word, "nothing is lost: run the same command again")


def _internal(error: BaseException, invocation: Invocation | None) -> LettaOpsError:
    """What nobody foresaw: one line; with -v the traceback too, without the secrets we know."""
    import traceback

    from infra.sensitive import redact

    verbose = invocation is not None and invocation.verbose
    known = _known_secrets(invocation)
    if verbose:
        print(redact("".join(traceback.format_exception(error)), known), file=sys.stderr)
    if isinstance(error, OSError) and error.strerror:
        where = f": {error.filename}" if error.filename else ""
        hint = "mend that and run the same command again" + ("" if verbose else "; -v shows where")
        return LettaOpsError("system", f"{error.strerror}{where}", hint)
    # Without -v only the type is told: the text may hold anything.
    said = f": {redact(str(error), known)}" if verbose else ""
    hint = (
        "this is a bug in letta-ops: report it with the lines above"
        if verbose
        else "this is a bug in letta-ops: run it again with -v to see where, and report it"
    )
    return LettaOpsError("internal", f"internal error, {type(error).__name__}{said}", hint)


def _known_secrets(invocation: Invocation | None) -> tuple[Any, ...]:
    if invocation is None or not invocation.verbose:
        return ()
    try:
        return invocation.deployment().secrets
    except Exception:  # noqa: BLE001  there may be no profile, or it is what failed
        return ()


def _terminated(number: int, _frame: FrameType | None) -> NoReturn:
    if number == signal.SIGHUP:
        _forget_terminal()
    raise Terminated(number)


def _forget_terminal() -> None:
    """It may have gone: what we still say while we clean up must not fail for that."""
    import os
    import stat

    from ops_cli.output import forget

    forget(*(stream for stream in (1, 2) if stat.S_ISCHR(os.fstat(stream).st_mode)))
