"""Run every benchmark (or those named) on a stack of their own and print their figures.

python -m benchmarks [cli] [start] [provisioning] [messages] [containers] [backups] [down_time] [agents]
    [registry] [migrate] [postgres] [memory] [pgbackrest]
"""

from __future__ import annotations

import sys

from benchmarks import (
    agents,
    backup_rivals,
    backups,
    cli,
    containers,
    down_time,
    messages,
    migrate,
    postgres,
    provisioning,
    registry,
    start,
)
from benchmarks.stage import stage

BENCHMARKS = {
    "cli": cli.measure,
    "start": start.measure,
    "provisioning": provisioning.measure,
    "messages": messages.measure,
    "containers": containers.measure,
    "backups": backups.measure,
    "down_time": down_time.measure,
    "agents": agents.measure,
    "registry": registry.measure,
    "migrate": migrate.measure,
    "postgres": postgres.measure,
    "memory": backups.measure_memory,
    "pgbackrest": backup_rivals.pgbackrest,
}


def main(names: list[str]) -> int:
    unknown = [name for name in names if name not in BENCHMARKS]
    if unknown:
        print(f"unknown: {', '.join(unknown)}; known: {', '.join(BENCHMARKS)}", file=sys.stderr)
        return 2
    with stage() as machine:
        for name in names or BENCHMARKS:
            for figure in BENCHMARKS[name](machine):
                print(figure, flush=True)
    return 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
