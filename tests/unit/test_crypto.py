"""Encryption: what the source, the sink or a signal raises comes out as it is."""

from __future__ import annotations

import io
import signal

import pytest

from backups import crypto
from backups.crypto import encrypt_stream, new_identity
from ops_cli.main import Terminated


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM])
def test_an_interruption_between_two_lines_is_no_failed_encryption(
    number: signal.Signals, monkeypatch: pytest.MonkeyPatch
) -> None:
    def write(_: object, data: bytes) -> int:
        signal.raise_signal(number)
        return len(data)

    def ended(which: int, _: object) -> None:
        raise Terminated(which)

    # Here no error of the sink is kept: as between the lines of what age calls.
    monkeypatch.setattr(crypto._Writer, "write", write)
    _, recipient = new_identity()
    # Whoever runs the tests without a terminal may have SIGINT ignored.
    handlers = {signal.SIGINT: signal.default_int_handler, signal.SIGTERM: ended}
    before = {each: signal.signal(each, handler) for each, handler in handlers.items()}
    wanted = KeyboardInterrupt if number == signal.SIGINT else Terminated
    try:
        with pytest.raises(wanted) as caught:
            encrypt_stream(io.BytesIO(b"a" * 1_000_000), io.BytesIO(), [recipient])
        assert type(caught.value) is wanted
        assert signal.getsignal(signal.SIGTERM) is ended
    finally:
        for each, handler in before.items():
            signal.signal(each, handler)


def test_what_the_sink_raises_comes_out_as_it_is() -> None:
    class Full(io.BytesIO):
        def write(self, data: object, /) -> int:
            raise OSError(28, "No space left on device")

    _, recipient = new_identity()
    with pytest.raises(OSError, match="No space left"):
        encrypt_stream(io.BytesIO(b"a" * 1_000_000), Full(), [recipient])
