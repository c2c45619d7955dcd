"""One worker process: the parent's end of its pipe, and what runs at the other end."""

import contextlib
import functools
import multiprocessing
import os
import pickle
import select
import subprocess
import sys
import threading
import traceback
from collections.abc import Callable
from multiprocessing.connection import Connection
from typing import Any, TypeVar

_END_TIMEOUT = 5.0  # seconds for a process to end by itself, and again after it was killed
_MESSAGE, _RESULT, _ERROR = b"message", b"result", b"error"
_COMMAND = "import sys; sys.path[:] = {path}; from {module} import _work; _work({fd})"

T = TypeVar("T")


class WorkerDied(Exception):
    """A worker process ended before its task did.

    Attributes:
      exit_code: Exit code of the process; -N if signal N ended it; None if it is unknown.
    """

    def __init__(self, exit_code: int | None) -> None:
        super().__init__(f"The worker process died with exit code {exit_code}.")
        self.exit_code = exit_code


class TaskTimeout(Exception):
    """A task was silent for too long, and its worker was killed."""


class WorkerProcess:
    """A worker process as its parent sees it. One thread uses it; any thread may kill it.

    Attributes:
      is_overdue: Whether it was killed because it was silent for too long.
    """

    def __init__(self) -> None:
        """Starts the process."""
        self.is_overdue = False
        self._connection, there = multiprocessing.Pipe()
        with there:  # closed here, or the pipe would not end with the worker
            path = ascii([entry for entry in sys.path if isinstance(entry, str)])
            command = _COMMAND.format(path=path, module=__name__, fd=there.fileno())
            # Not multiprocessing.Process: it imports the main module, which may bring TensorFlow;
            # it unblocks SIGINT before its first process; and it blocks if a process with much to
            # read, such as a long sys.argv, dies while it starts.
            self._process = subprocess.Popen(
                [sys.executable, "-c", command],
                stdin=subprocess.DEVNULL,
                pass_fds=[there.fileno()],
            )

    def is_alive(self) -> bool:
        """Whether the process runs."""
        return self._process.poll() is None

    def kill(self) -> None:
        """Kills the process; the thread that uses it notices."""
        self._process.kill()

    def end(self) -> int | None:
        """Ends the process; returns its exit code, or None if even a kill does not end it."""
        self._connection.close()  # on which a worker with nothing to do ends by itself
        with contextlib.suppress(subprocess.TimeoutExpired):
            return self._process.wait(_END_TIMEOUT)
        self._process.kill()
        with contextlib.suppress(subprocess.TimeoutExpired):
            return self._process.wait(_END_TIMEOUT)
        return None  # it hangs in the kernel, as on a network disk that is gone

    def call(
        self,
        payload: bytes,
        timeout: float | None,
        on_message: Callable[[Any], None] | None = None,
    ) -> tuple[Any, Exception | None]:
        """Calls a function in the process and waits for it.

        Args:
          payload: The call, from `pickled_call`.
          timeout: Seconds of silence after which the process is killed; None for no limit.
          on_message: Called with each message.

        Returns:
          What the function returned and None, or None and the exception that it raised.

        Raises:
          WorkerDied: The process is dead.
          TaskTimeout: The process was silent for too long, and is dead.
          Exception: A message or the result can't be used here; the process may be at work.
        """
        self._transfer(lambda: self._connection.send_bytes(payload), timeout)
        while True:
            kind, data = self._transfer(self._receive, timeout)
            value = pickle.loads(data)
            if kind == _RESULT:
                return value, None
            if kind == _ERROR:
                return None, value
            if on_message:
                on_message(value)

    def _receive(self) -> tuple[bytes, bytes]:
        return self._connection.recv_bytes(), self._connection.recv_bytes()

    def _transfer(self, transfer: Callable[[], T], timeout: float | None) -> T:
        """Sends or receives; kills the process if that takes too long.

        By a timer, because reading and writing block even after their first byte.
        """
        timer = threading.Timer(timeout, self._kill_overdue) if timeout is not None else None
        try:
            if timer:
                timer.start()
            return transfer()
        except (EOFError, OSError):
            if self.is_overdue:
                raise TaskTimeout(f"No result and no message within {timeout:g} s.") from None
            raise WorkerDied(self.end()) from None
        finally:
            if timer:
                timer.cancel()
                timer.join()

    def _kill_overdue(self) -> None:
        self.is_overdue = True
        self._process.kill()


def pickled_call(
    function: Callable[..., Any], arguments: tuple[Any, ...], sends_messages: bool = False
) -> bytes:
    """Pickles a call for `WorkerProcess.call`.

    Args:
      function: The function.
      arguments: Its arguments.
      sends_messages: Whether it gets one more argument, a function that sends a message.
    """
    return pickle.dumps((function, arguments, sends_messages))


def _work(fd: int) -> None:
    """Runs tasks until the pipe ends; all that a worker process does."""
    os.set_inheritable(fd, False)  # or a child of a task could keep the pipe open
    connection = Connection(fd)
    # Of a copy that is never closed: an interpreter on its way out closes `connection`, which the
    # thread would take for the parent's end, and change the exit code.
    threading.Thread(target=_end_with_parent, args=[os.dup(fd)], daemon=True).start()
    with contextlib.suppress(EOFError, OSError):  # the parent wants no more, or is gone
        while True:
            kind, data = _answer(connection.recv_bytes(), functools.partial(_send, connection))
            connection.send_bytes(kind)
            connection.send_bytes(data)


def _end_with_parent(fd: int) -> None:
    """Ends this process when the other end of its pipe is closed, whatever it is at."""
    poll = select.poll()
    poll.register(fd, 0)  # which leaves POLLHUP
    poll.poll()
    os._exit(0)


def _answer(payload: bytes, send: Callable[[Any], None]) -> tuple[bytes, bytes]:
    """Runs a task; returns `_RESULT` or `_ERROR`, and the pickled result or exception."""
    try:
        function, arguments, sends_messages = pickle.loads(payload)
        result = function(*arguments, *([send] if sends_messages else []))
        return _RESULT, pickle.dumps(result)
    except Exception as error:
        trace = "".join(traceback.format_exception(error)).rstrip()
        try:
            error.add_note(f"In a worker process:\n{trace}")
            data = pickle.dumps(error)
            pickle.loads(data)  # some exceptions can be written but not read
        except Exception:
            data = pickle.dumps(RuntimeError(f"{type(error).__name__}: {error}"))
        return _ERROR, data


def _send(connection: Connection, message: Any) -> None:
    data = pickle.dumps(message)
    connection.send_bytes(_MESSAGE)
    connection.send_bytes(data)
