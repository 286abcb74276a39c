"""Files are whole or not there; a lock says who holds it."""

from __future__ import annotations

import os
from pathlib import Path

import pytest

from infra.errors import LettaOpsError
from infra.files import held, is_made, made_once, write_file, write_private
from infra.stack.locations import stack_folder


def test_a_private_file_is_private_from_its_first_byte(tmp_path: Path) -> None:
    path = tmp_path / "deep" / "secret"
    write_private(path, "text")
    assert path.read_text() == "text"
    assert path.stat().st_mode & 0o777 == 0o600


def test_a_failed_write_leaves_the_old_file_and_no_draft(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    path = tmp_path / "file"
    write_file(path, "old", 0o644)

    def full(descriptor: int) -> None:
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(os, "fsync", full)
    with pytest.raises(OSError, match="No space left"):
        write_file(path, "new", 0o644)
    assert path.read_text() == "old"
    assert list(tmp_path.iterdir()) == [path]


def test_a_held_lock_names_its_holder(tmp_path: Path) -> None:
    path = tmp_path / "lock"
    with held(path, "the first"):
        with (
            pytest.raises(LettaOpsError, match=rf"the first \(pid {os.getpid()}\)") as failure,
            held(path, "the second"),
        ):
            pass
        assert failure.value.code == "locked"
    with held(path, "the third"):
        assert "the third" in path.read_text()


@pytest.mark.parametrize(
    "name", ["", "A", ".", "../x", "a/b", "a b", "a\n", ".pulumi", "1st", "passphrase", "x" * 41]
)
def test_a_name_that_cannot_be_a_folder_is_refused(tmp_path: Path, name: str) -> None:
    with pytest.raises(LettaOpsError, match="cannot be the name of a stack"):
        stack_folder(name, tmp_path)


def test_a_stacks_folder_is_below_the_state_folder(tmp_path: Path) -> None:
    assert stack_folder("prod-2", tmp_path).profile == tmp_path / "prod-2" / "profile.toml"


def test_what_is_made_once_is_made_by_the_first_and_found_by_the_next(tmp_path: Path) -> None:
    made: list[Path] = []
    folder = tmp_path / "cache" / "thing"
    for _ in range(2):
        assert made_once(folder, "someone", lambda _: None, made.append) == folder
    assert made == [folder]
    assert is_made(folder)


def test_what_an_interruption_left_is_made_anew(tmp_path: Path) -> None:
    folder = tmp_path / "thing"

    def interrupted(target: Path) -> None:
        (target / "half").write_text("")
        raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        made_once(folder, "someone", lambda _: None, interrupted)
    assert not is_made(folder)
    made_once(folder, "someone", lambda _: None, lambda target: None)
    assert not (folder / "half").exists()
    assert is_made(folder)
