"""Callbacks that a recipe adds to a run: which of Keras's can serve, and the end that they ask for.

Their state is not in checkpoints: a run that resumes begins to count anew.
"""

from collections.abc import Collection, Sequence
from typing import Any

import numpy as np
import tf_keras as keras

_RATE = "the learning rate of a run is that of settings.Optimization.learning_rate"
_REFUSED = {
    keras.callbacks.ReduceLROnPlateau: _RATE,
    keras.callbacks.LearningRateScheduler: _RATE,
    keras.callbacks.BackupAndRestore: "a run resumes from its own checkpoints",
}
_ACCURACIES = ("top1", "top5", "accuracy")

Monitors = Sequence[keras.callbacks.Callback]


def check(monitors: Monitors, metrics: Collection[str]) -> None:
    """Check that callbacks can serve in a run.

    Args:
      monitors: of the run.
      metrics: names of what an epoch measures.

    Raises:
      ValueError: one does what the run itself does, waits for a metric that there is not, or takes
        a lower accuracy for a better one.
    """
    for monitor in monitors:
        name = type(monitor).__name__
        for kind, reason in _REFUSED.items():
            if isinstance(monitor, kind):
                raise ValueError(f"settings.Validation.monitors can't have {name}: {reason}.")
        if getattr(monitor, "restore_best_weights", False):
            raise ValueError(
                f"{name}.restore_best_weights=True would change weights that are saved already: "
                "let settings.Checkpointing.best_metric keep the best epoch."
            )
        if not _compares(monitor):
            continue
        if monitor.monitor not in metrics:
            raise ValueError(
                f"{name}.monitor={monitor.monitor!r}: there is only {', '.join(metrics)}."
            )
        if monitor.monitor.endswith(_ACCURACIES) and monitor.monitor_op == np.less:
            raise ValueError(
                f"{name} takes a lower {monitor.monitor} for a better one: set {name}.mode='max'."
            )


def _compares(monitor: keras.callbacks.Callback) -> bool:
    """Tell whether a callback acts by a metric."""
    return isinstance(monitor, keras.callbacks.EarlyStopping) or (
        isinstance(monitor, keras.callbacks.ModelCheckpoint) and monitor.save_best_only
    )


def of_worker(monitors: Monitors, is_chief: bool) -> list[keras.callbacks.Callback]:
    """Leave out what only one of several workers may write."""
    return [m for m in monitors if is_chief or not isinstance(m, keras.callbacks.CSVLogger)]


def continue_logs(monitors: Monitors) -> None:
    """Let callbacks add to their files, where they would begin anew in every `fit`."""
    for monitor in monitors:
        if isinstance(monitor, keras.callbacks.CSVLogger):
            monitor.append = True


def early_end(monitors: Monitors, step: int, epoch: int, epochs: int) -> dict[str, Any]:
    """Say how monitors ended a run, for `run.json`.

    Args:
      monitors: of the run.
      step, epoch: where it stands: number of steps and of epochs that are done.
      epochs: that it was to have.
    """
    stopped = [m for m in monitors if getattr(m, "stopped_epoch", 0)]
    names = [type(monitor).__name__ for monitor in stopped or monitors]
    reasons = [
        f": {m.monitor} has not been better since epoch {m.best_epoch + 1} ({float(m.best):.4g})"
        for m in stopped
    ]
    text = (
        f"{' or '.join(names)} ended the run early, at step {step}, after {epoch} of {epochs} "
        f"epochs{''.join(reasons)}. To go on, remove {' and '.join(names)} from "
        f"settings.Validation.monitors, or add --extend_to={epochs + 1} or more."
    )
    return {"by": names, "step": step, "text": text}


def ended(facts: dict[str, Any], monitors: Monitors, step: int) -> str | None:
    """Say why a run does not go on; None if it does.

    Args:
      facts: of `run.json`.
      monitors: of the run now.
      step: where it stands.
    """
    end = facts.get("ended_early")
    if not end or end["step"] != step:
        return None
    return end["text"] if {type(m).__name__ for m in monitors} & set(end["by"]) else None
