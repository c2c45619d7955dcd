"""What is wrong with a run before it begins: it can't work, or nothing would be learned."""

from collections.abc import Callable, Collection

from cvrl_tf.data.pipeline import Pipeline
from cvrl_tf.tasks.task import Task
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


def learnable(task: Task, global_batch: int, train_data: Pipeline) -> None:
    """Raise a ValueError if there is nothing that the task could learn of the data."""
    name = type(task).__name__
    if global_batch < task.min_batch:
        raise ValueError(
            f"global_batch={global_batch}: {name} compares the videos of a batch with one another, "
            f"and learns nothing of fewer than {task.min_batch}. Take a larger batch; there are "
            f"{train_data.num_examples} training examples."
        )
    if task.kind == "classify" and len(train_data.labels) < 2:
        raise ValueError(
            f"{name} has nothing to learn: the data has only the classes {train_data.labels}. Make "
            "records of two or more."
        )


def learning_rate(rate: Callable[[int], float], steps: int) -> None:
    """Raise a ValueError if the learning rate is never above 0.

    Args:
      rate: of a step.
      steps: of the run; about a hundred of them are tried.
    """
    tried = range(0, steps, max(steps // 100, 1))
    if not any(rate(step) > 0 for step in tried):
        raise ValueError(
            f"The learning rate is {rate(tried[-1]):g}, and in no step above 0: nothing would be "
            "learned. Set that of the schedule, such as schedules.warmup_cosine.learning_rate."
        )


def metric_names(task: Task, validation: Validation) -> list[str]:
    """Return the names of what is measured in an epoch."""
    names = [metric.name for metric in task.metrics]
    if validation.data is not None:
        names += [f"val_{name}" for name in names]
    return names + [n for m in validation.monitors for n in getattr(m, "metric_names", ())]


def best_metric(name: str | None, known: Collection[str]) -> None:
    """Raise a ValueError if there is no metric of this name; None means none."""
    if name is not None and name not in known:
        raise ValueError(f"best_metric={name!r}: there is only {', '.join(known)}.")
