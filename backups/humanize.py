"""Sizes and times as people say them."""

from __future__ import annotations

UNITS = ("bytes", "kB", "MB", "GB", "TB")
PERIODS = ((86400 * 2, 86400, "d"), (3600 * 2, 3600, "h"), (60 * 2, 60, "min"))


def size_in_words(size: float) -> str:
    """`1.2 GB`: powers of 1000, as disks are sold."""
    for unit in UNITS:
        if size < 1000 or unit == UNITS[-1]:
            break
        size /= 1000
    return f"{size:.0f} {unit}" if unit == UNITS[0] else f"{size:.1f} {unit}"


def time_in_words(seconds: float) -> str:
    """`3 d`, `26 h`, `90 min`, `41 s`: one number that is never 1 for want of a smaller unit."""
    for least, length, unit in PERIODS:
        if seconds >= least:
            return f"{seconds / length:.0f} {unit}"
    return f"{max(seconds, 0):.0f} s"
