"""Errors that a person can act on: what went wrong, and the next step."""

from __future__ import annotations


class LettaOpsError(Exception):
    """An expected failure, shown as one message and one next step, never as a traceback.

    `code` is a stable kebab-case word for scripts (`--json` prints it), `message` says what
    happened, `hint` says what to do next. None of them may contain a secret.
    """

    def __init__(self, code: str, message: str, hint: str) -> None:
        super().__init__(message)
        self.code = code
        self.message = message
        self.hint = hint

    def __str__(self) -> str:
        return f"{self.message}\n  next: {self.hint}"

    def as_json(self) -> dict[str, str]:
        return {"code": self.code, "message": self.message, "hint": self.hint}

    def __reduce__(self) -> tuple[type[LettaOpsError], tuple[str, str, str]]:
        return (LettaOpsError, (self.code, self.message, self.hint))


class ConfigurationError(LettaOpsError):
    """One or more settings are wrong; every problem is named at once, with its key path."""

    def __init__(self, source: str, problems: list[str], hint: str) -> None:
        listing = "\n".join(f"  - {problem}" for problem in problems)
        count = f"{len(problems)} problem{'s' if len(problems) != 1 else ''}"
        super().__init__("configuration", f"{source}: {count}\n{listing}", hint)
        self.problems = tuple(problems)
