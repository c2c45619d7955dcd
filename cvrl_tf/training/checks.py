"""What is wrong with a run before it begins: batches that can't be shared, unknown metrics."""

from collections.abc import Iterable

from cvrl_tf.training.settings import Validation


def steps_per_epoch(global_batch: int, eval_batch: int, replicas: int, examples: int) -> int:
    """Return the steps of an epoch; what does not fill a batch is left over.

    Raises:
      ValueError: the replicas can't share a batch, or there are too few examples for one.
    """
    for name, batch in (("global_batch", global_batch), ("eval_batch", eval_batch)):
        if batch % replicas or not batch:
            nearest = max(batch // replicas, 1) * replicas
            raise ValueError(
                f"{name}={batch} can't be shared evenly by {replicas} replicas; "
                f"take a multiple, such as {nearest}."
            )
    if global_batch > examples:
        raise ValueError(
            f"global_batch={global_batch} is more than the {examples} training examples; "
            "take a smaller batch or more data."
        )
    return examples // global_batch


def best_metric(name: str | None, metrics: Iterable[str], validation: Validation) -> None:
    """Raise a ValueError if an epoch has no metric of this name.

    Args:
      name: None for none.
      metrics: of the task.
      validation: of the run.
    """
    known = list(metrics)
    if validation.data is not None:
        known += [f"val_{name}" for name in known]
    known += [name for monitor in validation.monitors for name in monitor.metric_names]
    if name is not None and name not in known:
        raise ValueError(f"best_metric={name!r}: there is only {', '.join(known)}.")
