"""Git-backed memory of a backup: laid down where the drill's server looks for it, and examined."""

from __future__ import annotations

from backups.manifest import MEMORY as MEMORY_PART
from backups.opening import opened_part
from backups.sources.memory_files import CODE, MemoryPlace, program
from backups.streams import chunks_of
from backups.verdicts import FAILED, PASSED, CheckResult
from healthchecks.drill.drill_run import DrillRun
from healthchecks.drill.verdict import MEMORY
from infra.embedded.home import ServerHome


def judge_memory(drill: DrillRun) -> CheckResult:
    """Restore the memory as `restore` does; it is what the manifest says, and git finds it whole.

    Raises LettaOpsError as `opened_part` and `MemoryPlace` do.
    """
    place = MemoryPlace(ServerHome(drill.folder, "memory.py", program(), CODE))
    with opened_part(drill.store, drill.backup, MEMORY_PART, drill.key) as source:
        found = place.write(chunks_of(source))
    place.swap()
    wanted = drill.manifest.memory
    if found != wanted:
        return CheckResult(
            MEMORY,
            FAILED,
            f"holds {found.repositories} repositories with {found.files} files, the manifest says"
            f" {wanted.repositories} with {wanted.files}, or their content differs",
        )
    if not found.files:
        return CheckResult(MEMORY, PASSED, "there are no memory files in the backup")
    seen = f"{found.files} files of {found.repositories} repositories, as in the manifest"
    problems = place.fsck()
    if problems is None:
        return CheckResult(MEMORY, PASSED, f"{seen}; there is no git here to look into them")
    if problems:
        return CheckResult(MEMORY, FAILED, f"git fsck: {problems[0]}")
    return CheckResult(MEMORY, PASSED, f"{seen}, whole to git")
