"""Asking before something is destroyed: only on a terminal, and never twice."""

from __future__ import annotations

import sys

from infra.errors import LettaOpsError


def confirm(question: str, refusal: str) -> None:
    """Ask yes or no on stderr; anything but yes raises LettaOpsError (`not-confirmed`)."""
    _need_terminal(refusal)
    if _answer(f"{question} [y/N] ").lower() not in ("y", "yes"):
        raise LettaOpsError("not-confirmed", "nothing was done", "answer y when you mean it")


def confirm_name(question: str, name: str, refusal: str) -> None:
    """Ask for `name` to be typed; anything else raises LettaOpsError (`not-confirmed`)."""
    _need_terminal(refusal)
    if _answer(f"{question}\nType the stack's name ({name}) to go on: ") != name:
        raise LettaOpsError(
            "not-confirmed", "that is not the name: nothing was done", "type it when you mean it"
        )


def _need_terminal(refusal: str) -> None:
    if not (sys.stdin.isatty() and sys.stderr.isatty()):
        raise LettaOpsError("not-confirmed", refusal, "add --yes when you mean it")


def _answer(prompt: str) -> str:
    print(prompt, end="", file=sys.stderr, flush=True)
    return sys.stdin.readline().strip()
