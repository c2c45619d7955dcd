"""A pool of worker processes in which a dead or hanging worker costs only its own task.

It is our own because `concurrent.futures` and loky give up the whole pool when a worker dies, the
workers of pebble share a pipe and its locks, so that one kill can block all of them, and deadpool
goes on with a worker whose initializer failed.

Each worker is a new Python process with a pipe of its own, and a thread of the parent that hands it
tasks. A worker imports only what its tasks need, not the parent's main module.
"""

import collections
import contextlib
import signal
import threading
from collections.abc import Callable, Iterator
from concurrent.futures import Future
from dataclasses import dataclass, field
from types import TracebackType
from typing import Any, Self, TypeVar

from cvrl_tf.preparation.worker_process import (
    TaskTimeout,
    WorkerDied,
    WorkerProcess,
    pickled_call,
)

_MAX_STARTS = 3  # in a row, of one worker; then the pool gives up
_JOIN_TIMEOUT = 15.0  # seconds, more than `WorkerProcess.end` takes
_START_TIMEOUT = 300.0  # seconds; imports can be slow on a busy machine or a network disk

T = TypeVar("T")


class WorkerStartError(RuntimeError):
    """The pool can't start workers; it runs no more tasks."""


class WorkerPool:
    """Runs functions in worker processes.

    Workers start at once and are replaced when they die. Use the pool as a context manager, or call
    `shutdown`. Only the parent receives Ctrl-C: SIGINT is blocked in the workers.

    Attributes:
      error: Why the pool can't start workers; None while it can.
    """

    def __init__(
        self,
        num_workers: int,
        initializer: Callable[..., object] | None = None,
        initargs: tuple[Any, ...] = (),
        max_tasks: int | None = None,
    ) -> None:
        """Starts the workers.

        Args:
          num_workers: Number of processes.
          initializer: Function to call in each worker before its first task. If it raises, the pool
            gives up.
          initargs: Arguments of `initializer`.
          max_tasks: Number of tasks after which a worker is replaced, which frees what memory it
            has gathered; None for no limit.
        """
        self.error: WorkerStartError | None = None
        self._preparation = pickled_call(initializer or _nothing, initargs)
        self._max_tasks = max_tasks
        self._changed = threading.Condition()  # guards what follows
        self._closed = False
        self._waiting: collections.deque[_Task] = collections.deque()
        self._workers: set[WorkerProcess] = set()
        self._threads = [
            threading.Thread(target=self._supervise, name=f"worker-{number}", daemon=True)
            for number in range(num_workers)
        ]
        for thread in self._threads:
            thread.start()

    def submit(
        self,
        function: Callable[..., T],
        *arguments: Any,
        timeout: float | None = None,
        on_message: Callable[[Any], None] | None = None,
    ) -> Future[T]:
        """Schedules a call of a function in a worker.

        Args:
          function: Function that can be pickled and is not defined in the main module.
          *arguments: Its arguments.
          timeout: Seconds that the function may run without a message, after which its worker is
            killed; None for no limit.
          on_message: Called in a thread of this process with each message of the function, in
            order, before the future has a result. If it is given, the function gets one more
            argument at the end: a function that sends a message, any object that can be pickled.

        Returns:
          The future result. Besides what the function raises, it may raise `WorkerDied`,
          `TaskTimeout` and `WorkerStartError`.

        Raises:
          WorkerStartError: The pool can't start workers.
          RuntimeError: The pool was shut down.
        """
        payload = pickled_call(function, arguments, on_message is not None)
        task = _Task(payload, timeout, on_message)
        with self._changed:
            if self._closed:
                raise RuntimeError("The worker pool was shut down.")
            if self.error:
                raise WorkerStartError(str(self.error)) from self.error
            self._waiting.append(task)
            self._changed.notify()
        return task.future

    def shutdown(self) -> None:
        """Cancels the tasks that wait, kills the workers, and waits for their end.

        The futures of the tasks that run raise `WorkerDied`.
        """
        with self._changed:
            self._closed = True
            waiting, self._waiting = self._waiting, collections.deque()
            for worker in self._workers:
                worker.kill()
            self._changed.notify_all()
        for task in waiting:
            task.future.cancel()
            task.future.set_running_or_notify_cancel()
        for thread in self._threads:
            thread.join(_JOIN_TIMEOUT)

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        self.shutdown()

    def _supervise(self) -> None:
        """Keeps one worker running; the body of a thread."""
        # The processes that this thread starts inherit the mask.
        signal.pthread_sigmask(signal.SIG_BLOCK, {signal.SIGINT})
        try:
            while not self._is_ending():
                with self._started_worker() as worker:
                    num_tasks = 0
                    while num_tasks != self._max_tasks and self._run_next(worker):
                        num_tasks += 1
        except _Closed:
            return
        except Exception as error:
            self._give_up(error)

    def _is_ending(self) -> bool:
        return self._closed or self.error is not None

    @contextlib.contextmanager
    def _started_worker(self) -> Iterator[WorkerProcess]:
        """A worker that is ready for tasks; it is ended on leaving.

        Raises:
          WorkerStartError: Workers die while they start, or their initializer fails.
        """
        reason: Exception | None = None
        for _ in range(_MAX_STARTS):
            with self._new_worker() as worker:
                try:
                    error = worker.call(self._preparation, _START_TIMEOUT)[1]
                except (WorkerDied, TaskTimeout) as death:
                    reason = death
                    if self._is_ending():
                        raise _Closed from None
                    continue
                if error:
                    what = f"{type(error).__name__}: {error}"
                    raise WorkerStartError(f"The workers' initializer failed: {what}") from error
                yield worker
                return
        raise WorkerStartError(
            f"A worker process failed to start {_MAX_STARTS} times in a row: {reason} Its standard "
            "error may say why."
        ) from reason

    @contextlib.contextmanager
    def _new_worker(self) -> Iterator[WorkerProcess]:
        """A process that has just been started, known to `shutdown` while it lives."""
        worker = WorkerProcess()
        with self._changed:
            self._workers.add(worker)
            if self._closed:
                worker.kill()
        try:
            yield worker
        finally:
            with self._changed:
                self._workers.remove(worker)
            worker.end()

    def _run_next(self, worker: WorkerProcess) -> bool:
        """Waits for a task and runs it; returns whether the worker can run another one."""
        with self._changed:
            self._changed.wait_for(lambda: self._waiting or self._is_ending())
            if self._is_ending():
                return False
            if not worker.is_alive():  # it died while it had nothing to do
                self._changed.notify()  # this thread will be busy with another worker
                return False
            task = self._waiting.popleft()
        if not task.future.set_running_or_notify_cancel():
            return True
        try:
            result, error = worker.call(task.payload, task.timeout, task.on_message)
        except Exception as unfinished:
            worker.kill()
            task.future.set_exception(unfinished)
            return False
        if error:
            task.future.set_exception(error)
        else:
            task.future.set_result(result)
        return not worker.is_overdue

    def _give_up(self, error: Exception) -> None:
        """Fails the tasks that wait and those to come; tasks that run may end."""
        if not isinstance(error, WorkerStartError):  # such as OSError: no more processes
            what = f"{type(error).__name__}: {error}"
            cause, error = error, WorkerStartError(f"A worker process can't be started: {what}")
            error.__cause__ = cause
        with self._changed:
            self.error = self.error or error
            waiting, self._waiting = self._waiting, collections.deque()
            self._changed.notify_all()
        for task in waiting:
            if task.future.set_running_or_notify_cancel():
                task.future.set_exception(self.error)


def _nothing() -> None:
    """Does nothing; initializes workers that need no initializer."""


class _Closed(Exception):
    """The pool is shut down while a worker starts."""


@dataclass(eq=False)
class _Task:
    """A call in a worker; see `WorkerPool.submit`.

    Attributes:
      payload: The call, from `pickled_call`.
    """

    payload: bytes
    timeout: float | None = None
    on_message: Callable[[Any], None] | None = None
    future: Future[Any] = field(default_factory=Future)
