"""Encryption of what leaves the machine: age, to recipients or with a passphrase."""

from __future__ import annotations

import signal
import threading
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from functools import partial
from typing import Any

from backups.stores.store import Sink, Source
from infra.errors import LettaOpsError
from infra.sensitive import Sensitive

SIGNALS = (signal.SIGINT, signal.SIGTERM, signal.SIGHUP)


def new_identity() -> tuple[Sensitive, str]:
    """Make an age identity; return it and its recipient."""
    from pyrage import x25519

    made = x25519.Identity.generate()
    return Sensitive(str(made)), str(made.to_public())


def parse_recipients(recipients: Sequence[str]) -> list[Any]:
    """Raises LettaOpsError (`configuration`) naming the recipient that is none."""
    from pyrage import RecipientError, x25519

    found = []
    for text in recipients:
        try:
            found.append(x25519.Recipient.from_str(text))
        except RecipientError:
            raise LettaOpsError(
                "configuration",
                f"backup.recipients: {text!r} is no age recipient",
                "copy it whole, age1 and 58 more letters and digits; `letta-ops backup keygen`"
                " makes a new identity and shows its recipient",
            ) from None
    return found


def encrypt_stream(source: Source, sink: Sink, recipients: Sequence[str]) -> None:
    """Encrypt all of `source` into `sink`; an error of either comes out as it is."""
    import pyrage

    guarded, parsed = _Guarded(source), parse_recipients(recipients)
    _guard(guarded, lambda: pyrage.encrypt_io(guarded, _Writer(sink, guarded), parsed))


def decrypt_stream(source: Source, sink: Sink, identities: Sequence[Sensitive]) -> None:
    """Decrypt all of `source` into `sink`.

    Raises LettaOpsError: `wrong-identity` when none of the identities fits, `part-damaged` when
    the text was altered or cut; what was written before that is not to be trusted.
    """
    import pyrage

    guarded, parsed = _Guarded(source), _identities(identities)
    try:
        _guard(guarded, lambda: pyrage.decrypt_io(guarded, _Writer(sink, guarded), parsed))
    except (pyrage.DecryptError, OSError) as error:
        if error is guarded.error:
            raise
        raise _not_decrypted(error) from None  # of a later piece age says it as an OSError


def seal_with_passphrase(text: Sensitive, passphrase: Sensitive) -> bytes:
    import pyrage

    return bytes(pyrage.passphrase.encrypt(text.reveal().encode(), passphrase.reveal()))


def open_with_passphrase(sealed: bytes, passphrase: Sensitive) -> Sensitive:
    """Raises LettaOpsError (`wrong-identity`) for another passphrase, or altered data."""
    import pyrage

    try:
        return Sensitive(pyrage.passphrase.decrypt(sealed, passphrase.reveal()).decode())
    except (pyrage.DecryptError, UnicodeDecodeError):
        raise LettaOpsError(
            "wrong-identity",
            "the passphrase does not open this backup",
            "give the one with which it was made, as backup.passphrase",
        ) from None


class _Guarded:
    """A source whose own errors, and those of the sink, are kept: age would rename them."""

    def __init__(self, source: Source) -> None:
        self._source = source
        self.error: BaseException | None = None

    def read(self, size: int = -1) -> bytes:
        data: bytes = self.keep(lambda: self._source.read(size))
        return data

    def keep(self, step: Callable[[], Any]) -> Any:
        try:
            return step()
        except BaseException as error:
            self.error = error
            raise


class _Writer:
    def __init__(self, sink: Sink, guarded: _Guarded) -> None:
        self._sink, self._guarded = sink, guarded

    def write(self, data: bytes) -> int:
        self._guarded.keep(lambda: self._sink.write(data))
        return len(data)

    def flush(self) -> None:
        self._guarded.keep(self._sink.flush)


def _guard(guarded: _Guarded, step: Callable[[], None]) -> None:
    try:
        with _interruptions(guarded):
            step()
    except BaseException:
        if guarded.error is not None:
            raise guarded.error from None
        raise


@contextmanager
def _interruptions(guarded: _Guarded) -> Iterator[None]:
    """Keep what a signal's handler raises, too: it may come between any two lines of what age calls."""
    if threading.current_thread() is not threading.main_thread():
        yield  # no handler runs there
        return
    before = {number: signal.getsignal(number) for number in SIGNALS}
    for number, handler in before.items():
        if callable(handler):
            signal.signal(number, partial(_kept, guarded, handler))
    try:
        yield
    finally:
        for number, handler in before.items():
            if callable(handler):
                signal.signal(number, handler)


def _kept(guarded: _Guarded, handler: Callable[[int, Any], Any], number: int, frame: Any) -> None:
    guarded.keep(lambda: handler(number, frame))


def _identities(texts: Sequence[Sensitive]) -> list[Any]:
    from pyrage import IdentityError, x25519

    lines = [line.strip() for text in texts for line in text.reveal().splitlines()]
    try:
        found = [x25519.Identity.from_str(line) for line in lines if line and line[0] != "#"]
    except IdentityError:
        found = []
    if not found:
        raise LettaOpsError(
            "identity",
            "the age identity can't be read: it must be lines of AGE-SECRET-KEY-1...",
            "name the file that `letta-ops backup keygen` or age-keygen wrote: file:PATH",
        )
    return found


def _not_decrypted(error: Exception) -> LettaOpsError:
    if "no matching keys" in str(error).lower():
        return LettaOpsError(
            "wrong-identity",
            "none of the identities at hand opens this backup",
            "`letta-ops backup show` names the recipients it was made for; give one's identity"
            " with --identity file:PATH. If it is one's, the part was altered: `letta-ops backup"
            " verify` tells",
        )
    return damaged("an encrypted part can't be decrypted", str(error) or type(error).__name__)


def damaged(what: str, why: str) -> LettaOpsError:
    return LettaOpsError(
        "part-damaged",
        f"{what}: {why}",
        "this backup can't be trusted: use another one (`letta-ops backup list`), and look after the"
        " store's disks",
    )
