"""The passphrase of all stacks: made once, private, never replaced."""

from __future__ import annotations

import stat
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest

from infra.errors import LettaOpsError
from infra.pulumi_cli.passphrase import ensure_passphrase


def test_the_passphrase_is_made_once_and_private(tmp_path: Path) -> None:
    state = tmp_path / "state"
    path = ensure_passphrase(state)
    first = path.read_text()
    assert len(first.strip()) >= 43, "32 bytes in base64"
    assert stat.S_IMODE(path.stat().st_mode) == 0o600
    assert ensure_passphrase(state) == path
    assert path.read_text() == first
    assert [path.name for path in state.iterdir()] == ["passphrase"]


def test_many_at_once_agree_on_one_passphrase(tmp_path: Path) -> None:
    with ThreadPoolExecutor(16) as pool:
        results = pool.map(lambda _: ensure_passphrase(tmp_path).read_text(), range(64))
    assert len(set(results)) == 1
    assert [path.name for path in tmp_path.iterdir()] == ["passphrase"]


@pytest.mark.parametrize(
    ("text", "mode", "message"),
    [("", 0o600, "is empty"), ("\n", 0o600, "is empty"), ("secret", 0o640, r"mode 0640")],
)
def test_a_passphrase_that_protects_nothing_is_refused(
    tmp_path: Path, text: str, mode: int, message: str
) -> None:
    path = tmp_path / "passphrase"
    path.write_text(text)
    path.chmod(mode)
    with pytest.raises(LettaOpsError, match=message):
        ensure_passphrase(tmp_path)
    assert path.read_text() == text
