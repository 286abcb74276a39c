"""Names for files, from what people call things: in ASCII, none that leads out, no two alike."""

from __future__ import annotations

import hashlib
import re
import unicodedata

# git quotes other names where it lists them, and the successor takes the quoted ones for no file.
PLAIN = re.compile(r"[^A-Za-z0-9._-]+")
LONGEST = 100
# Names that Windows keeps for devices; a store may be carried there.
RESERVED = re.compile(r"(?i)(con|prn|aux|nul|com\d|lpt\d)(\..*)?")


class Names:
    """Gives each thing of one folder a name that no other has, whatever the case of its letters."""

    def __init__(self) -> None:
        self._files: set[str] = set()
        self._folders: set[str] = set()

    def of(self, text: str, ending: str = "") -> str:
        """`text` as a path of plain names; with `/` in it a folder each. It ends in `ending`."""
        parts = [plain(part) for part in text.replace("\\", "/").split("/")]
        stem = "/".join(part for part in parts if part) or "unnamed"
        if not self._files.isdisjoint(_above(stem.casefold())):
            stem = stem.replace("/", "-")  # a folder that it would stand in is a file
        found, number = stem + ending, 1
        while found.casefold() in self._files | self._folders:
            number += 1
            found = f"{stem}-{number}{ending}"
        self._files.add(found.casefold())
        self._folders.update(_above(found.casefold()))
        return found


def _above(path: str) -> list[str]:
    parts = path.split("/")
    return ["/".join(parts[:depth]) for depth in range(1, len(parts))]


def plain(text: str) -> str:
    """One name; nothing, where `text` has nothing that one can be made of and would lead elsewhere."""
    letters = unicodedata.normalize("NFKD", text)
    kept = "".join(each for each in letters if not unicodedata.combining(each))
    found = PLAIN.sub("-", kept).strip("-.")
    if not found and kept.strip(". "):
        found = "u" + hashlib.sha256(text.encode("utf-8", "surrogatepass")).hexdigest()[:8]
    if RESERVED.fullmatch(found):
        found = f"_{found}"
    if len(found) > LONGEST:
        digest = hashlib.sha256(text.encode("utf-8", "surrogatepass")).hexdigest()[:8]
        found = f"{found[:LONGEST]}-{digest}"
    return found
