"""What every dynamic provider of ours shares: one change at a time, and errors a person can act on."""

from __future__ import annotations

import errno
import logging
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any, ClassVar, TypeVar

from pulumi import dynamic

from infra.errors import LettaOpsError
from infra.files import held
from infra.providers.provider import MODULES, provider_named
from infra.pulumi_cli import last_error
from infra.stack.locations import StackFolder

Properties = dict[str, Any]
T = TypeVar("T")


class Provider(dynamic.ResourceProvider):
    """Base of the embedded providers.

    Every resource has the inputs `state` and `stack` (which folder it belongs to). A subclass says
    with `compared` which inputs make a difference, with `drift` what it finds changed in reality,
    and does the work in `make`, `change` and `remove`, each of which must be safe to run again.
    """

    # Our providers hold no secrets: they are pickled by reference, and so need no encryption.
    serialize_as_secret_always = False

    compared: ClassVar[tuple[str, ...]] = ()
    outputs: ClassVar[tuple[str, ...]] = ()  # what `make` adds to the inputs
    secret_outputs: ClassVar[tuple[str, ...]] = ()
    kind: ClassVar[str] = ""  # the type of its resources in Pulumi's state; "": the class's name

    def __reduce__(self) -> tuple[Any, tuple[str, ...]]:
        """Pulumi keeps the pickled provider in its state: only a name that outlives every move."""
        name = type(self).__name__
        ours = MODULES.get(name) == type(self).__module__
        return (provider_named, (name,)) if ours else (type(self), ())

    def make(self, folder: StackFolder, inputs: Properties) -> tuple[str, Properties]:
        """Create the thing, or adopt what is there; return its id and its outputs."""
        raise NotImplementedError

    def change(self, folder: StackFolder, old: Properties, new: Properties) -> Properties:
        """Make the existing thing as `new` wants it; return its outputs."""
        return self.make(folder, new)[1]

    def remove(self, folder: StackFolder, outputs: Properties) -> None:
        """Remove the thing. Data stays: only `destroy --delete-data` removes it."""

    def drift(self, folder: StackFolder, outputs: Properties) -> str | None:
        """Say what differs in reality from what was made, or None. Must be quick and harmless."""
        return None

    def create(self, props: Properties) -> dynamic.CreateResult:
        props = _whole(props)
        folder = _folder(props)
        id_, outputs = self._guarded(folder, "create", lambda: self.make(folder, props))
        return dynamic.CreateResult(id_, {**_public(props), **outputs})

    def read(self, id_: str, props: Properties) -> dynamic.ReadResult:
        # What drifted is named in an output, so that `pulumi refresh` shows it.
        outputs = _public(_whole(props))
        return dynamic.ReadResult(id_, {**outputs, "drift": self._drift(_folder(props), outputs)})

    def diff(self, _id: str, olds: Properties, news: Properties) -> dynamic.DiffResult:
        olds, news = _whole(olds), _whole(news)
        changed = [name for name in self.compared if olds.get(name) != news.get(name)]
        folder = _folder(news)
        drifted = not changed and self._drift(folder, _public(olds)) is not None
        return dynamic.DiffResult(changes=bool(changed or drifted))

    def update(self, _id: str, olds: Properties, news: Properties) -> dynamic.UpdateResult:
        olds, news = _whole(olds), _whole(news)
        folder = _folder(news)
        outputs = self._guarded(folder, "update", lambda: self.change(folder, olds, news))
        return dynamic.UpdateResult({**_public(news), **outputs})

    def delete(self, _id: str, props: Properties) -> None:
        folder = _folder(props)
        self._guarded(folder, "delete", lambda: self.remove(folder, props))

    def _drift(self, folder: StackFolder, outputs: Properties) -> str | None:
        try:
            return self.drift(folder, outputs)
        except LettaOpsError as error:
            last_error.keep(folder, error)
            raise

    def _guarded(self, folder: StackFolder, verb: str, work: Callable[[], T]) -> T:
        """Run `work` alone on this stack; keep an expected error for whoever started us.

        The engine passes on an error's text only. `letta-ops up` shows code, message and next step
        from the file that is written here.
        """
        _silence_grpc()
        try:
            # Also against a provider that outlived the `kill -9` of its Pulumi.
            with held(folder.provider_lock, f"{type(self).__name__} {verb}", lambda _: None):
                return work()
        except (OSError, LettaOpsError) as error:
            expected = _system_error(folder, verb, error) if isinstance(error, OSError) else error
            last_error.keep(folder, expected)
            raise expected from None


def _system_error(folder: StackFolder, verb: str, error: OSError) -> LettaOpsError:
    full = error.errno in (errno.ENOSPC, errno.EDQUOT)
    return LettaOpsError(
        "disk-full" if full else "system",
        f"{verb} failed: {error.strerror}: {error.filename or folder.root}",
        "free some disk space, then run the same command again: nothing is lost"
        if full
        else "mend the cause, then run the same command again: nothing is lost",
    )


def _silence_grpc() -> None:
    # grpc logs the traceback of every failed call; the engine shows the error itself already.
    logging.getLogger("grpc").setLevel(logging.CRITICAL)


def _folder(props: Mapping[str, Any]) -> StackFolder:
    return StackFolder(Path(props["state"]), props["stack"])


def _whole(value: Any) -> Any:
    """Pulumi knows no whole numbers: give ports back as what they were."""
    if isinstance(value, dict):
        return {name: _whole(item) for name, item in value.items()}
    if isinstance(value, list):
        return [_whole(item) for item in value]
    return int(value) if isinstance(value, float) and value.is_integer() else value


def _public(props: Properties) -> Properties:
    return {name: value for name, value in props.items() if not name.startswith("__")}
