"""Loading a tokenizer in a process of its own, while this one does something else: starting Ray, say.

A process and not a thread: the library holds Python's lock for all the seconds that a large vocabulary takes, and a
signal would have to wait for it. It ends with the answer, or with this process.
"""

from __future__ import annotations

import json
import os
import pickle
import subprocess
import sys
import weakref

from mosaic_ray.errors import MosaicError, TokenizerError
from mosaic_ray.tokens.spec import TokenizerSpec


class TokenizerAhead:
    """A tokenizer on its way; see :func:`mosaic_ray.tokens.load.load_tokenizer` for the arguments.

    offline: from this machine alone.
    """

    def __init__(self, name: str, *, chat_template: str | None = None, offline: bool = False) -> None:
        self._name = name
        hub = {"HF_HUB_OFFLINE": "1"} if offline else {}
        self._process = subprocess.Popen(
            # -P: what lies in the working directory must not stand in for a library.
            [sys.executable, "-P", "-c", f"from {__name__} import answer; answer()", json.dumps([name, chat_template])],
            env={**os.environ, **hub, "PYTHONPATH": os.pathsep.join(os.path.abspath(place) for place in sys.path)},
            stdout=subprocess.PIPE,
        )
        self._end = weakref.finalize(self, _end, self._process)

    def result(self) -> TokenizerSpec:
        """The tokenizer, once. Waits for it, and raises the TokenizerError that loading it raised."""
        answer, _ = self._process.communicate()
        self._end()
        if self._process.returncode != 0:
            raise TokenizerError(
                f"tokenizer {self._name!r} could not be loaded: the process that loads it ended with status "
                f"{self._process.returncode}"
            )
        loaded: TokenizerSpec | MosaicError = pickle.loads(answer)
        if isinstance(loaded, MosaicError):
            raise loaded
        return loaded


def _end(process: subprocess.Popen[bytes]) -> None:
    process.kill()
    process.wait()


def answer() -> None:
    """What the process does: write the tokenizer, or the error, to standard output, and nothing else."""
    import signal

    signal.signal(signal.SIGINT, signal.SIG_IGN)  # of the whole group; who started this one says what it means
    out = os.fdopen(os.dup(sys.stdout.fileno()), "wb")
    os.dup2(sys.stderr.fileno(), sys.stdout.fileno())
    from mosaic_ray.tokens.load import load_tokenizer

    name, chat_template = json.loads(sys.argv[1])
    loaded: TokenizerSpec | MosaicError
    try:
        loaded = load_tokenizer(name, chat_template=chat_template)
    except MosaicError as error:
        loaded = error
    with out:
        pickle.dump(loaded, out, protocol=pickle.HIGHEST_PROTOCOL)
