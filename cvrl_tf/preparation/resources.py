"""What a machine has little of: the memory of a worker process, and errors that are no video's."""

import errno
import resource
from pathlib import Path

import cv2

MEMORY_LIMIT = 2**30  # bytes, of a process; a 4K video takes some 500 MB
OUT_OF_MEMORY = f"needs more than {MEMORY_LIMIT / 2**30:g} GiB of memory"

_CHUNK = 2**20


def limit_memory() -> None:
    """Bound the memory of this process: what needs more than `MEMORY_LIMIT` fails.

    Files that are mapped, such as libraries, don't count.
    """
    hard = resource.getrlimit(resource.RLIMIT_DATA)[1]
    allowed = MEMORY_LIMIT if hard == resource.RLIM_INFINITY else min(MEMORY_LIMIT, hard)
    resource.setrlimit(resource.RLIMIT_DATA, (allowed, hard))


def is_out_of_memory(error: BaseException) -> bool:
    """Tell whether an error says that there is no memory, in Python, OpenCV or FFmpeg."""
    return (
        isinstance(error, MemoryError)
        or getattr(error, "errno", None) == errno.ENOMEM
        or (isinstance(error, cv2.error) and error.code == cv2.Error.StsNoMem)
    )


def is_of_the_machine(error: BaseException) -> bool:
    """Tell whether an error is about the machine, whatever file it came with.

    EIO is not among them: FFmpeg has it for files that are cut short, too.
    """
    return getattr(error, "errno", None) in (errno.EMFILE, errno.ENFILE, errno.ESTALE)


def check_readable(path: Path) -> None:
    """Read a file to its end.

    Decoders report a disk that fails like a damaged video.

    Raises:
      OSError: it can't be read.
    """
    with path.open("rb") as file:
        while file.read(_CHUNK):
            pass
