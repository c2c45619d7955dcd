"""Standard output that may be gone: a pipe whose reader has ended, a terminal that is closed."""

import os
import select
import sys


def is_closed() -> bool:
    """Tell whether nothing can be printed any more; if it can, print an empty line."""
    try:
        print(flush=True)
    except OSError:
        return True
    return False


def say(text: str) -> None:
    """Print a line; where nobody can read it, print nothing any more."""
    try:
        print(text, flush=True)
    except OSError:
        # Or the interpreter fails at its end, with an exit code of its own.
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())


def unread() -> list[int]:
    """Return which of standard output and standard error nobody reads any more."""
    poll = select.poll()
    for descriptor in (1, 2):
        poll.register(descriptor, 0)
    return [descriptor for descriptor, event in poll.poll(0) if event & select.POLLERR]
