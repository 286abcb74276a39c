"""Git-backed memory of a backup: laid down where the drill's server looks for it, and examined."""

from __future__ import annotations

from backups.manifest import MEMORY as MEMORY_PART
from backups.opening import opened_part
from backups.sources.memory_files import CODE, MemoryPlace, program
from backups.streams import chunks_of
from backups.verify import FAILED, PASSED
from healthchecks.drill.course import Course
from healthchecks.drill.verdict import MEMORY, Check
from infra.embedded.home import ServerHome


def judge_memory(course: Course) -> Check:
    """Restore the memory as `restore` does; it is what the manifest says, and git finds it whole.

    Raises LettaOpsError as `opened_part` and `MemoryPlace` do.
    """
    place = MemoryPlace(ServerHome(course.folder, "memory.py", program(), CODE))
    with opened_part(course.store, course.backup, MEMORY_PART, course.key) as source:
        found = place.write(chunks_of(source))
    place.swap()
    wanted = course.manifest.memory
    if found != wanted:
        return Check(
            MEMORY,
            FAILED,
            f"holds {found.repositories} repositories with {found.files} files, the manifest says"
            f" {wanted.repositories} with {wanted.files}, or their content differs",
        )
    if not found.files:
        return Check(MEMORY, PASSED, "there are no memory files in the backup")
    seen = f"{found.files} files of {found.repositories} repositories, as in the manifest"
    problems = place.fsck()
    if problems is None:
        return Check(MEMORY, PASSED, f"{seen}; there is no git here to look into them")
    if problems:
        return Check(MEMORY, FAILED, f"git fsck: {problems[0]}")
    return Check(MEMORY, PASSED, f"{seen}, whole to git")
