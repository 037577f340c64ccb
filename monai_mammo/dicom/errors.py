"""The one error of all reading: which file, why it cannot be used, what to do about it.

Not a hierarchy: callers show the message; nobody needs to tell the cases apart by type.
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from os import PathLike


class MammogramError(ValueError):
    """A file or its content cannot be used; says which, why, and what helps.

    The message never contains a patient attribute: whoever raises it states tags, sizes and codes, not the values
    of identifying attributes.

    Args:
        path: the file (or, where there is no file, the thing) that cannot be used.
        reason: what is wrong with it, without a closing full stop.
        remedy: what the user can do, without a closing full stop.
    """

    def __init__(self, path: str | PathLike[str], reason: str, remedy: str) -> None:
        # All three go into args, so that the error survives pickling between a DataLoader's worker and its parent.
        super().__init__(path, reason, remedy)
        self.path = path
        self.reason = reason
        self.remedy = remedy

    def __str__(self) -> str:
        return f"{self.path}: {self.reason}. {self.remedy}."


def cause_of(error: BaseException) -> BaseException:
    """The `MammogramError` behind an error, or the error itself: MONAI wraps the errors of what it runs."""
    cause: BaseException | None = error
    while cause is not None:
        if isinstance(cause, MammogramError):
            return cause
        cause = cause.__cause__ if cause.__cause__ is not cause else None  # `raise cause_of(error) from error`
    return error


@contextmanager
def refusing(path: str | PathLike[str], what: str, remedy: str) -> Iterator[None]:
    """Turn what a parser or codec raises in this block into a MammogramError that says `what` failed.

    The original text is dropped: it may quote the file's content, and with it the patient.
    """
    try:
        yield
    except (MammogramError, KeyboardInterrupt, SystemExit, GeneratorExit):
        raise
    except BaseException as error:  # noqa: BLE001
        # Codecs share no base class (pydicom, nibabel, pynrrd, Pillow, zlib, ...), and a panic in one written in Rust
        # (pylibjpeg-rle) is not even an Exception.
        raise MammogramError(path, f"{what} ({type(error).__name__})", remedy) from None
