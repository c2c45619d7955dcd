"""One replica or many: strategies by name, and what replicas tell each other."""

import tensorflow as tf

_NAMES = ("one_device", "mirrored", "multi_worker_mirrored", "tpu")


def strategy(
    name: str = "one_device",
    logical_cpus: int = 0,
    tpu: str = "local",
    tpu_zone: str | None = None,
    tpu_project: str | None = None,
) -> tf.distribute.Strategy:
    """Make a distribution strategy by name. Call it before TensorFlow has touched a device.

    Args:
      name: "one_device" (the first GPU, else the CPU), "mirrored" (all GPUs of this host),
        "multi_worker_mirrored" (all hosts that the variable TF_CONFIG lists), or "tpu".
      logical_cpus: split the CPU into so many devices, to try several replicas without a GPU.
      tpu: "local" on a TPU VM, else name or address (grpc://...) of the TPU.
      tpu_zone: Google Cloud's zone of a TPU given by name; None for that of this machine.
      tpu_project: its project; None for that of this machine.

    Raises:
      ValueError: no strategy of that name, logical CPUs for a strategy that can't use them, or no
        such TPU.
    """
    if name not in _NAMES:
        raise ValueError(f"No strategy {name!r}; choose one of {', '.join(_NAMES)}.")
    if logical_cpus:
        if name != "mirrored":
            raise ValueError(f"logical_cpus={logical_cpus} needs 'mirrored', not {name!r}.")
        (cpu,) = tf.config.list_physical_devices("CPU")
        parts = [tf.config.LogicalDeviceConfiguration()] * logical_cpus
        tf.config.set_logical_device_configuration(cpu, parts)
        return tf.distribute.MirroredStrategy([f"CPU:{i}" for i in range(logical_cpus)])
    if name == "one_device":
        return tf.distribute.OneDeviceStrategy(
            "GPU:0" if tf.config.list_physical_devices("GPU") else "CPU:0"
        )
    if name == "mirrored":
        return tf.distribute.MirroredStrategy()
    if name == "multi_worker_mirrored":
        return tf.distribute.MultiWorkerMirroredStrategy()
    return _tpu_strategy(tpu, tpu_zone, tpu_project)


def _tpu_strategy(tpu: str, zone: str | None, project: str | None) -> tf.distribute.Strategy:
    try:
        resolver = tf.distribute.cluster_resolver.TPUClusterResolver(tpu, zone, project)
        if tpu != "local":
            tf.config.experimental_connect_to_cluster(resolver)
        tf.tpu.experimental.initialize_tpu_system(resolver)
    except Exception as error:  # TensorFlow's, or any of Google's clients that look up the name
        reason = str(error).strip().splitlines()[0]
        raise ValueError(
            f"No TPU {tpu!r} (zone {zone}, project {project}): {reason} On a TPU VM, install "
            "cvrl_tf[tpu] and leave distribution.strategy.tpu at 'local'; from elsewhere, give its "
            "name with tpu_zone and tpu_project, or its address as grpc://HOST:8470."
        ) from error
    return tf.distribute.TPUStrategy(resolver)


def is_chief(strategy: tf.distribute.Strategy) -> bool:
    """Tell whether this process is the worker that writes the files of a run."""
    resolver = strategy.cluster_resolver
    return resolver is None or resolver.task_type in (None, "", "chief") or not resolver.task_id


def num_workers(strategy: tf.distribute.Strategy) -> int:
    """Count the processes that train together."""
    resolver = strategy.cluster_resolver
    return len(resolver.cluster_spec().as_dict().get("worker", [0])) if resolver else 1


def num_replicas() -> int:
    """Count the replicas that share the global batch. Call it in a replica or a scope."""
    return tf.distribute.get_strategy().num_replicas_in_sync


def gather(local: tf.Tensor) -> tuple[tf.Tensor, tf.Tensor | int]:
    """Gather rows of all replicas, such as keys of a contrastive loss. Call it in a replica.

    Differentiable: the gradient that a replica receives for its rows is the sum of what all
    replicas have to say about them.

    Args:
      local: [n, E], the same n in all replicas.

    Returns:
      [R * n, E], in the order of the replicas, and the row (int32 []) where the local ones begin.
    """
    context = tf.distribute.get_replica_context()
    replicas = context.num_replicas_in_sync
    if replicas == 1:
        return local, 0
    # A sum of rows that are zero but in one replica: what XLA offers on all its devices, with
    # shapes known beforehand, and the all-reduce's own gradient is the sum that we want.
    mask = tf.one_hot(context.replica_id_in_sync_group, replicas, dtype=local.dtype)
    everywhere = context.all_reduce("sum", mask[:, tf.newaxis, tf.newaxis] * local)
    offset = tf.cast(context.replica_id_in_sync_group, tf.int32) * tf.shape(local)[0]
    return tf.reshape(everywhere, [-1, local.shape[1]]), offset
