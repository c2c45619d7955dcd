"""One replica or many: strategies by name, and what replicas tell each other."""

import tensorflow as tf

_NAMES = ("one_device", "mirrored", "multi_worker_mirrored", "tpu")


def strategy(
    name: str = "one_device", logical_cpus: int = 0, tpu: str = ""
) -> tf.distribute.Strategy:
    """A distribution strategy by name. Call it before TensorFlow has touched a device.

    Args:
      name: "one_device" (the first GPU, else the CPU), "mirrored" (all GPUs of this host),
        "multi_worker_mirrored" (all hosts that the variable TF_CONFIG lists), or "tpu".
      logical_cpus: split the CPU into so many devices, to try several replicas without a GPU.
      tpu: name or address of the TPU; empty for the one of this machine.

    Raises:
      ValueError: no strategy of that name, or logical CPUs for a strategy that can't use them.
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
    resolver = tf.distribute.cluster_resolver.TPUClusterResolver(tpu)
    tf.config.experimental_connect_to_cluster(resolver)
    tf.tpu.experimental.initialize_tpu_system(resolver)
    return tf.distribute.TPUStrategy(resolver)


def num_replicas() -> int:
    """Replicas that share the global batch; call it in a replica or under a strategy's scope."""
    return tf.distribute.get_strategy().num_replicas_in_sync


def gather(local: tf.Tensor) -> tuple[tf.Tensor, tf.Tensor | int]:
    """Rows of all replicas, for the keys of a contrastive loss. Call it in a replica.

    Differentiable: the gradient that a replica receives for its rows is the sum of what all
    replicas have to say about them.

    Args:
      local: [n, E], the same n in all replicas.

    Returns:
      [R * n, E], in the order of the replicas, and the row (int32 []) where the local ones begin.
    """
    context = tf.distribute.get_replica_context()
    if context.num_replicas_in_sync == 1:
        return local, 0
    offset = tf.cast(context.replica_id_in_sync_group, tf.int32) * tf.shape(local)[0]
    return context.all_gather(local, axis=0), offset
