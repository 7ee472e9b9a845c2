"""Every error the package raises on purpose.

::

    MosaicError               1   anything below; never raised itself
    |- SettingsError          2   a flag, a key of the YAML file, or a value of one of them
    |- InputError             3   what is read: missing, unreadable, damaged, changed, not recognised
    |- StorageError           3   what is written: no such bucket, no permission, no space
    |- TokenizerError         3   not found, without a fast form, or a chat template that fails
    |- DriftError             4   the output holds a run with other settings or other input
    |- RejectShareError       5   more records were rejected than the run allows
    |- VerificationError      6   a published data set is not what its manifest says
    |- TaskError              7   a task failed for a reason of its own, or lost its worker too often
    |  `- StalledError        7   it made no step for longer than --stall-timeout
    |- ConcurrentRunError     8   another run is at work on the same output, or has taken it over
    `- UnfitError             9   the doctor found what would stop a run
    Interrupted         130, 143  SIGINT or SIGTERM; the same command resumes. Beside the tree, as a BaseException

The number is the exit status of the command line. A message names the culprit (file, row, flag), the value, the
limit where there is one, and the remedy, because it is all that a user gets to see: none of these ends in a traceback.
A record that cannot be used is no error. It becomes a :class:`mosaic_ray.records.Reject`.
"""

from __future__ import annotations


class MosaicError(Exception):
    """Base of every error raised on purpose; ``exit_code`` is the status the command line ends with.

    passing: whether the same may succeed if it is tried again, elsewhere or later, as where a store stayed unavailable.
    task: the task that failed; None where it was none.
    """

    exit_code = 1
    passing = False
    task: int | None = None


class SettingsError(MosaicError):
    """A setting is missing, unknown, or has a value it cannot have."""

    exit_code = 2


class InputError(MosaicError):
    """The input cannot be read as it stands."""

    exit_code = 3


class StorageError(MosaicError):
    """The output store refused a write, a listing or a deletion."""

    exit_code = 3


class TokenizerError(MosaicError):
    """The tokenizer or its chat template cannot be used."""

    exit_code = 3


class DriftError(MosaicError):
    """The output directory holds a run that this command would not continue but change."""

    exit_code = 4


class RejectShareError(MosaicError):
    """A larger share of the input was rejected than ``max_reject_share`` allows."""

    exit_code = 5


class VerificationError(MosaicError):
    """A published data set differs from what its manifest states."""

    exit_code = 6


class TaskError(MosaicError):
    """A task failed for a reason of its own, or its worker was lost more often than a task may lose one."""

    exit_code = 7


class StalledError(TaskError):
    """A task made no step for longer than it may, as where a read hangs."""

    passing = True


class ConcurrentRunError(MosaicError):
    """Another run is at work on the same output, or took it over when this one was not heard of."""

    exit_code = 8


class UnfitError(MosaicError):
    """The doctor found something that would stop a run."""

    exit_code = 9


class Interrupted(BaseException):
    """The run was asked to stop; what is finished stays, and the same command goes on from there.

    Like KeyboardInterrupt no Exception, or any library's ``except Exception`` could swallow it.
    """

    def __init__(self, message: str, *, signal_number: int) -> None:
        super().__init__(message)
        self.exit_code = 128 + signal_number
