"""Running a script of ours as the server runs: how it gets there, by stdin and nothing else."""

from __future__ import annotations

# Reads as much of stdin as the script is long, so that what the script reads comes behind it.
LOADER = (
    "import sys; source = sys.stdin.buffer;"
    " exec(compile(source.read(int(source.readline())), 'script.py', 'exec'))"
)


def arguments(interpreter: str) -> list[str]:
    return [interpreter, "-I", "-c", LOADER]


def stdin(script: str, question: str) -> str:
    return f"{len(script.encode())}\n{script}{question}\n"
