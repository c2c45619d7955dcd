"""What happens beside the steps of a run: checkpoints, preemption, metrics, and when to stop."""

import contextlib
import dataclasses
import json
import os
import resource
import signal
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import tensorflow as tf
import tf_keras as keras

from cvrl_tf import output
from cvrl_tf.checkpoint_files import Saver
from cvrl_tf.training.failures import Stopped

PREEMPTED = os.EX_TEMPFAIL  # exit code, 75: rerun to resume
# Ctrl-C, what schedulers send before they end a run, and a terminal that is closed.
_SIGNALS = (signal.SIGINT, signal.SIGTERM, signal.SIGHUP, signal.SIGUSR1)


class _AfterSteps(keras.callbacks.Callback):
    """Calls `after_steps` whenever the host hears of the training, so once an execution."""

    def __init__(self) -> None:
        super().__init__()
        self._supports_tf_logs = True  # no need to fetch the metrics in every step

    @property
    def step(self) -> int:
        """Optimizer steps done."""
        return int(self.model.optimizer.iterations.numpy())

    def on_train_begin(self, logs: dict | None = None) -> None:
        self._before = self.step

    def on_train_batch_end(self, batch: int, logs: dict | None = None) -> None:
        before, self._before = self._before, self.step
        self.after_steps(before, self._before, logs or {})

    def after_steps(self, before: int, step: int, logs: dict) -> None:
        """Handle that training has gone from one step to another."""


class Checkpoints(_AfterSteps):
    """Saves every so many steps and after each epoch; and apart, the best epoch.

    The last step of an epoch is saved only when the epoch's test and log are done too, for a run
    that resumes there does not come back to them.
    """

    def __init__(
        self,
        saver: Saver,
        every: int,
        steps_per_epoch: int,
        best: "Best",
    ) -> None:
        """Args:
        saver: of the run.
        every: steps between checkpoints.
        steps_per_epoch: of the run.
        best: how the best epoch is kept.
        """
        super().__init__()
        self._saver, self._every, self._steps_per_epoch = saver, every, steps_per_epoch
        self._best = best

    def after_steps(self, before: int, step: int, logs: dict) -> None:
        if step // self._every > before // self._every and step % self._steps_per_epoch:
            self._saver.save(step)

    def on_epoch_end(self, epoch: int, logs: dict | None = None) -> None:
        self._best.save(self.step, logs or {})
        self._saver.save(self.step)


@dataclasses.dataclass(frozen=True)
class Best:
    """The checkpoint of the best epoch.

    Attributes:
      saver: of the checkpoint.
      metric: what to call best, as Keras logs it ("val_top1"); None for none. Less is better where
        its name ends with "loss".
      value: float32 [], its best value so far; checkpoints hold it.
    """

    saver: Saver
    metric: str | None
    value: tf.Variable

    def save(self, step: int, logs: dict) -> None:
        """Save if the logs of an epoch are the best so far."""
        if self.metric is None or self.metric not in logs:
            return
        now, best = float(logs[self.metric]), float(self.value.numpy())
        if np.isnan(best) or (now < best if self.metric.endswith("loss") else now > best):
            self.value.assign(now)
            self.saver.save(step)


class Preemption(_AfterSteps):
    """Ends the run on a signal, but not in the middle of a step: saves at its end, and exits.

    At the last step of an epoch that is after the epoch's test, when `Checkpoints` has saved.
    Before the first step there is nothing to save, and the signal means what it did before. So does
    the second Ctrl-C. Several workers save and exit together, at the end of the next step, of which
    each of them hears through `StepState.stop`, whoever got the signal.

    Ctrl-C waits, too: an exception in any place could fall between a step and its log, or be lost
    in code that catches it.
    """

    def __init__(self, saver: Saver, steps_per_epoch: int, num_workers: int) -> None:
        super().__init__()
        self._saver, self._steps_per_epoch = saver, steps_per_epoch
        self._alone = num_workers == 1
        self._asked: int | None = None  # the signal
        self._stepped = False

    def on_train_begin(self, logs: dict | None = None) -> None:
        super().on_train_begin(logs)
        self._stepped = False
        self._handlers: dict[int, Any] = {
            number: signal.signal(number, self._ask)
            for number in _SIGNALS
            if signal.getsignal(number) is not signal.SIG_IGN  # as nohup wants it
        }

    def on_train_end(self, logs: dict | None = None) -> None:
        for number, handler in self._handlers.items():
            signal.signal(number, handler)

    def _ask(self, number: int, _: object) -> None:
        self._asked = number
        if self._alone and not self._stepped:
            self.on_train_end()
            signal.raise_signal(number)
        elif number == signal.SIGINT:
            signal.signal(number, self._handlers[number])
            with contextlib.suppress(OSError):  # not print, which may be at work just now
                os.write(
                    2, b"\nSaving at the end of the step. Ctrl-C again ends the run at once.\n"
                )

    def on_train_batch_begin(self, batch: int, logs: dict | None = None) -> None:
        if self._asked:
            self.model.step_state.stop.assign(1.0)

    @property
    def _due(self) -> bool:
        return bool(self._asked and self._alone) or self.model.step_state.stop.numpy() > 0

    def after_steps(self, before: int, step: int, logs: dict) -> None:
        self._stepped = True
        if step % self._steps_per_epoch and self._due:
            self._saver.save(step)
            self._exit()

    def on_epoch_end(self, epoch: int, logs: dict | None = None) -> None:
        if self._due:
            self._exit()

    def _exit(self) -> None:
        self.on_train_end()
        output.say(f"\nStopped; saved at step {self.step}. Rerun the same command to resume.")
        sys.exit(128 + signal.SIGINT if self._asked == signal.SIGINT else PREEMPTED)


class NotFinite(_AfterSteps):
    """Stops the run when a loss or a gradient was not finite, before that is saved."""

    def __init__(
        self,
        report: Path | None,
        learning_rate: Callable[[int], float],
        video_ids: Callable[[int], list[str]],
    ) -> None:
        """Args:
        report: JSON file that will say what happened; None on workers that write nothing.
        learning_rate: of a step.
        video_ids: of the global batch of a step.
        """
        super().__init__()
        self._report, self._learning_rate, self._video_ids = report, learning_rate, video_ids

    def after_steps(self, before: int, step: int, logs: dict) -> None:
        bad = int(self.model.step_state.first_bad_step.numpy())
        if bad < 0:
            return
        rate = self._learning_rate(bad)
        facts = {"step": bad, "learning_rate": rate, "video_ids": self._video_ids(bad)}
        if self._report:
            self._report.write_text(json.dumps(facts, indent=2) + "\n")
        raise Stopped(
            f"The loss or the gradient of step {bad} is not finite (learning rate {rate:.3g}). "
            f"The videos of its batch stand in {str(self._report)!r}. The last checkpoint is from "
            "before. Look at these videos, take a lower learning rate or a longer warm-up, or clip "
            "gradients (global_clipnorm of the optimizer)."
        )


class ResumedMetrics(keras.callbacks.Callback):
    """Restores what the metrics had seen of an epoch that resumes."""

    def __init__(self, weights: list[list[np.ndarray]]) -> None:
        super().__init__()
        self._weights = weights

    def on_epoch_begin(self, epoch: int, logs: dict | None = None) -> None:
        for metric, weights in zip(self.model.metrics, self._weights, strict=True):
            metric.set_weights(weights)


class MetricsLog(_AfterSteps):
    """Metrics as JSON lines and for TensorBoard, by optimizer step."""

    def __init__(
        self,
        model_dir: Path,
        every: int,
        learning_rate: Callable[[int], float],
        examples: int,
        clips: int,
    ) -> None:
        """Args:
        model_dir: folder of the run.
        every: steps between lines.
        learning_rate: of a step.
        examples, clips: in a step, of all replicas.
        """
        super().__init__()
        self._learning_rate = learning_rate
        self._path = model_dir / "metrics.jsonl"
        self._writer = tf.summary.create_file_writer(str(model_dir / "tensorboard"))
        self._every, self._examples, self._clips = every, examples, clips
        self._since: tuple[int, float] | None = None

    def on_train_begin(self, logs: dict | None = None) -> None:
        super().on_train_begin(logs)
        # TensorBoard then drops what an earlier process has logged of this step and later ones.
        started = tf.compat.v1.SessionLog(status=tf.compat.v1.SessionLog.START)
        event = tf.compat.v1.Event(step=self.step + 1, wall_time=time.time(), session_log=started)
        tf.raw_ops.ImportEvent(writer=self._writer._resource, event=event.SerializeToString())

    def after_steps(self, before: int, step: int, logs: dict) -> None:
        if step // self._every == before // self._every:
            return
        values = {f"train/{name}": value for name, value in logs.items()}
        now, waited = time.monotonic(), self.model.step_state.input_seconds
        if self._since:
            steps, seconds = step - self._since[0], now - self._since[1]
            waiting = float(waited.numpy())
            values |= {
                "steps_per_second": steps / seconds,
                "examples_per_second": steps * self._examples / seconds,
                "clips_per_second": steps * self._clips / seconds,
                "seconds_a_step/waiting_for_input": waiting / steps,
                "seconds_a_step/computing": (seconds - waiting) / steps,
            }
        waited.assign(0.0)
        self._since = step, now
        values["learning_rate"] = self._learning_rate(step - 1)  # of the step just done
        self._write(step, {**values, **_peak_memory()})

    def on_epoch_end(self, epoch: int, logs: dict | None = None) -> None:
        values = {
            name.replace("val_", "test/") if name.startswith("val_") else f"epoch/{name}": value
            for name, value in (logs or {}).items()
        }
        self._since = None  # saving and testing don't count
        self._write(self.step, {"epoch": epoch + 1, **values})

    def _write(self, step: int, values: dict[str, Any]) -> None:
        numbers = {name: float(value) for name, value in values.items()}
        with self._path.open("a") as lines:
            lines.write(json.dumps({"step": step, **numbers}) + "\n")
        with self._writer.as_default(step):
            for name, number in numbers.items():
                tf.summary.scalar(name, number)
        self._writer.flush()


def _peak_memory() -> dict[str, float]:
    """Peaks so far in GiB: of this process, and of the accelerators that say so."""
    peaks = {"peak_memory_gib/host": resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 2**20}
    for device in tf.config.list_logical_devices("GPU"):
        name = device.name.removeprefix("/device:")
        peaks[f"peak_memory_gib/{name}"] = tf.config.experimental.get_memory_info(name)["peak"] / (
            2**30
        )
    return peaks
