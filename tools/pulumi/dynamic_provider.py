"""The process of Python dynamic providers: `python -m pulumi.dynamic`, ending with its parent."""

from __future__ import annotations

import runpy
import sys

from orphan import end_with_parent


def main() -> None:
    """Serve until the engine interrupts us, or is gone."""
    end_with_parent()
    # As with `python -m`: modules are found from the working directory, not from beside this file.
    sys.path[0] = ""
    runpy.run_module("pulumi.dynamic", run_name="__main__", alter_sys=True)


if __name__ == "__main__":
    main()
