"""Measure the cost of replicas: gather, loss and all-reduce by processes and embedding size.

    python benchmarks/scaling.py

The script starts 1, 2 and 4 processes on loopback under `MultiWorkerMirroredStrategy`, with one
replica each. It measures the gather of 64 embeddings of each replica with InfoNCE and the gradient,
with our gather and with TensorFlow's `all_gather`, and the sum of the gradients of R3D-50 over the
replicas. The processes share the cores of this machine, so more processes are slower in any case.

It then computes a model (not a measurement) of a step of up to 1,024 replicas, and draws
scaling.png.
"""

import json
import os
import socket
import statistics
import subprocess
import sys
import time
from pathlib import Path
from typing import NamedTuple

import matplotlib
import measure

PROCESSES, EMBEDDINGS, ROWS, ROUNDS = (1, 2, 4), (128, 512, 2048), 64, 7
REPLICAS = [2**exponent for exponent in range(11)]
PICTURE = Path(__file__).with_suffix(".png")


class Network(NamedTuple):
    """A network of the model: bandwidth of a replica, bytes/s, and latency of a message, s."""

    bandwidth: float
    latency: float


NETWORKS = {
    "10 Gb/s a replica": Network(1.25e9, 20e-6),
    "100 Gb/s a replica": Network(12.5e9, 5e-6),
}
# A replica has 8 videos: 16 clips of 16x224x224 at 277 GFLOP each (train_step.json, with four times
# the pixels). Its accelerator sustains 50 TFLOP/s. The gradients of R3D-50 are float32.
STEP_FLOP, FLOP_PER_SECOND, GRADIENT_BYTES, CLIPS = 16 * 277e9, 50e12, 4 * 36e6, 16


def on_paper(replicas: int, network: Network, embedding: int = 128) -> dict[str, float]:
    """Compute seconds of a step by part, without overlap; rings send 2 (R-1) / R of the data."""
    hops = 2 * (replicas - 1)

    def all_reduce(size: float) -> float:
        return hops / replicas * size / network.bandwidth + hops * network.latency

    keys = replicas * CLIPS
    return {
        "compute": STEP_FLOP / FLOP_PER_SECOND,
        # A sum of rows that are zero in all replicas but one, and a sum of their gradients.
        "gather": 2 * all_reduce(4 * keys * embedding),
        # Products of queries and keys: one forward, two for gradients.
        "loss": 3 * 2 * CLIPS * keys * embedding / FLOP_PER_SECOND,
        "all-reduce": all_reduce(GRADIENT_BYTES),
    }


def run(rounds: int) -> None:
    """Be one process of the cluster. The first one prints seconds by contender, as JSON."""
    import tensorflow as tf

    from cvrl_tf import distribution
    from cvrl_tf.losses.info_nce import info_nce
    from cvrl_tf.models.resnet3d import ResNet3D

    strategy = distribution.strategy("multi_worker_mirrored")
    encoder = ResNet3D(depth=50)
    encoder.build((None, None, None, None, 3))
    shapes = [variable.shape for variable in encoder.trainable_variables]
    with strategy.scope():
        zeros = [tf.Variable(tf.zeros(shape), trainable=False) for shape in shapes]

    def contrast(embedding: int, is_ours: bool) -> tf.types.experimental.GenericFunction:
        def replica() -> tf.Tensor:
            context = tf.distribute.get_replica_context()
            number = tf.cast(context.replica_id_in_sync_group, tf.int32)
            rows = tf.random.stateless_normal([ROWS, embedding], tf.stack([number, 0]))
            with tf.GradientTape() as tape:
                tape.watch(rows)
                if is_ours:
                    keys, offset = distribution.gather(rows)
                else:
                    keys, offset = context.all_gather(rows, axis=0), number * ROWS
                loss = tf.reduce_mean(info_nce(rows, keys, offset, 0.1)[0])
            return tf.reduce_sum(tape.gradient(loss, rows))

        return tf.function(lambda: strategy.run(replica))

    @tf.function
    def all_reduce() -> tf.Tensor:
        def replica() -> tf.Tensor:
            context = tf.distribute.get_replica_context()
            gradients = [tf.identity(each) for each in zeros]
            return tf.add_n([tf.reduce_max(g) for g in context.all_reduce("sum", gradients)])

        return strategy.run(replica)

    contenders = {"all_reduce": all_reduce}
    for embedding in EMBEDDINGS:
        contenders |= {
            f"ours_{embedding}": contrast(embedding, True),
            f"all_gather_{embedding}": contrast(embedding, False),
        }
    found: dict[str, list[float]] = {name: [] for name in contenders}
    for turn in range(rounds + 1):
        for name, step in contenders.items():
            begin = time.perf_counter()
            tf.nest.map_structure(lambda x: x.numpy(), strategy.experimental_local_results(step()))
            if turn:  # the first turn traces
                found[name].append(time.perf_counter() - begin)
    if strategy.cluster_resolver.task_id == 0:
        print(json.dumps(found))


def measured(processes: int) -> dict[str, list[float]]:
    """Start a cluster and return seconds by contender."""
    sockets = [socket.create_server(("127.0.0.1", 0)) for _ in range(processes)]
    cluster = {"worker": [f"127.0.0.1:{each.getsockname()[1]}" for each in sockets]}
    for each in sockets:
        each.close()
    workers = []
    for index in range(processes):
        config = {"cluster": cluster, "task": {"type": "worker", "index": index}}
        workers.append(
            subprocess.Popen(
                [sys.executable, __file__, str(ROUNDS)],
                env={**os.environ, "TF_CONFIG": json.dumps(config)},
                stdout=subprocess.PIPE,
                stderr=subprocess.DEVNULL,
                text=True,
            )
        )
    found = [worker.communicate()[0] for worker in workers]
    if any(worker.returncode for worker in workers):
        raise SystemExit(f"A worker of {processes} failed.")
    result: dict[str, list[float]] = json.loads(found[0].splitlines()[-1])
    print(f"  {processes} processes, milliseconds:", file=sys.stderr)
    for name, seconds in result.items():
        print(f"    {name}: {1000 * statistics.median(seconds):.1f}", file=sys.stderr)
    return result


def draw(found: dict[int, dict[str, list[float]]]) -> None:
    matplotlib.use("Agg")
    from matplotlib import pyplot

    figure, (left, *others) = pyplot.subplots(1, 3, figsize=(15, 4.2), layout="constrained")
    for embedding in EMBEDDINGS:
        times = [1000 * statistics.median(found[p][f"ours_{embedding}"]) for p in PROCESSES]
        left.plot(PROCESSES, times, "o-", label=f"gather + loss, {embedding} numbers")
    times = [1000 * statistics.median(found[p]["all_reduce"]) for p in PROCESSES]
    left.plot(PROCESSES, times, "ks--", label="all-reduce, R3D-50")
    left.set(
        title=f"measured: loopback, {os.cpu_count()} cores",
        xlabel="processes",
        ylabel="milliseconds",
        yscale="log",
        xticks=PROCESSES,
    )
    left.legend(fontsize=8)
    for axes, (name, network) in zip(others, NETWORKS.items(), strict=True):
        parts = [on_paper(replicas, network) for replicas in REPLICAS]
        axes.stackplot(
            range(len(REPLICAS)),
            [[1000 * part[key] for part in parts] for key in parts[0]],
            labels=list(parts[0]),
        )
        axes.set_xticks(range(len(REPLICAS)), [f"{n:,}" for n in REPLICAS], rotation=45)
        axes.set(title=f"on paper: {name}", xlabel="replicas", ylabel="milliseconds a step")
        axes.legend(fontsize=8, loc="upper left")
    figure.savefig(PICTURE, dpi=110)


def main() -> None:
    found = {processes: measured(processes) for processes in PROCESSES}
    draw(found)
    measure.report(
        __file__,
        {
            f"gather_vs_all_gather_{p}_processes_{e}": measure.speed_up(
                found[p], f"ours_{e}", f"all_gather_{e}"
            )
            for p in PROCESSES[1:]
            for e in EMBEDDINGS
        },
        milliseconds={
            p: {name: round(1000 * statistics.median(s), 2) for name, s in times.items()}
            for p, times in found.items()
        },
        on_paper_efficiency={
            name: {
                replicas: round(parts["compute"] / sum(parts.values()), 3)
                for replicas in REPLICAS
                for parts in [on_paper(replicas, network)]
            }
            for name, network in NETWORKS.items()
        },
    )


if __name__ == "__main__":
    if len(sys.argv) > 1:
        run(int(sys.argv[1]))
    else:
        main()
