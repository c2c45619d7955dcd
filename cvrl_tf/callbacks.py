"""What happens beside the steps of a run: checkpoints, preemption, metrics."""

import json
import signal
import sys
import time
from pathlib import Path
from typing import Any

import tensorflow as tf
import tf_keras as keras

PREEMPTED = 75  # exit code after SIGTERM; the system's EX_TEMPFAIL: the same command goes on


class Checkpoints(keras.callbacks.Callback):
    """Saves every so many steps and after each epoch."""

    def __init__(self, manager: tf.train.CheckpointManager, every: int) -> None:
        super().__init__()
        self._manager, self._every = manager, every
        self._supports_tf_logs = True  # no need to fetch the metrics in every step

    def on_train_batch_end(self, batch: int, logs: dict | None = None) -> None:
        step = int(self.model.optimizer.iterations.numpy())
        if step % self._every == 0:
            self._manager.save(step)

    def on_epoch_end(self, epoch: int, logs: dict | None = None) -> None:
        self._manager.save(int(self.model.optimizer.iterations.numpy()))


class Preemption(keras.callbacks.Callback):
    """After SIGTERM, saves at the end of the step and exits with a code of its own."""

    def __init__(self, manager: tf.train.CheckpointManager) -> None:
        super().__init__()
        self._manager = manager
        self._asked = False
        self._supports_tf_logs = True

    def on_train_begin(self, logs: dict | None = None) -> None:
        self._before = signal.signal(signal.SIGTERM, self._ask)

    def on_train_end(self, logs: dict | None = None) -> None:
        signal.signal(signal.SIGTERM, self._before)

    def _ask(self, *_: object) -> None:
        self._asked = True

    def on_train_batch_end(self, batch: int, logs: dict | None = None) -> None:
        if self._asked:
            self.on_train_end()
            step = int(self.model.optimizer.iterations.numpy())
            saved = self._manager.save(step)
            print(f"\nTerminated at step {step}; saved {saved}. The same command goes on.")
            sys.exit(PREEMPTED)


class MetricsLog(keras.callbacks.Callback):
    """Metrics as JSON lines and for TensorBoard, by optimiser step."""

    def __init__(self, model_dir: Path, every: int, learning_rate: Any) -> None:
        super().__init__()
        self._learning_rate = learning_rate
        self._path = model_dir / "metrics.jsonl"
        self._writer = tf.summary.create_file_writer(str(model_dir / "tensorboard"))
        self._every = every
        self._supports_tf_logs = True
        self._since: tuple[int, float] | None = None

    def on_train_batch_end(self, batch: int, logs: dict | None = None) -> None:
        step = int(self.model.optimizer.iterations.numpy())
        if step % self._every == 0:
            now = time.monotonic()
            values = {f"train/{name}": value for name, value in (logs or {}).items()}
            if self._since:
                values["steps_per_second"] = (step - self._since[0]) / (now - self._since[1])
            self._since = step, now
            self._write(step, values)

    def on_epoch_end(self, epoch: int, logs: dict | None = None) -> None:
        values = {
            name.replace("val_", "test/") if name.startswith("val_") else f"epoch/{name}": value
            for name, value in (logs or {}).items()
        }
        self._since = None  # saving and testing don't count
        self._write(int(self.model.optimizer.iterations.numpy()), {"epoch": epoch + 1, **values})

    def _write(self, step: int, values: dict[str, Any]) -> None:
        rate = self._learning_rate  # of the step just done
        values["learning_rate"] = rate(step - 1) if callable(rate) else rate
        numbers = {name: float(value) for name, value in values.items()}
        with self._path.open("a") as lines:
            lines.write(json.dumps({"step": step, **numbers}) + "\n")
        with self._writer.as_default(step):
            for name, number in numbers.items():
                tf.summary.scalar(name, number)
        self._writer.flush()
