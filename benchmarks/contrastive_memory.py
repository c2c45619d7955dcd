"""Measure memory and time of InfoNCE and its gradient by batch size, plain against blocked.

    python benchmarks/contrastive_memory.py

All N embeddings of 128 numbers are queries and keys, which is the worst case for a replica. Each
size runs in a process of its own, whose memory is counted from when it holds the inputs. Plain
InfoNCE is left out where its similarities alone would need more than half of the memory. The script
draws contrastive_memory.png.
"""

import json
import os
import resource
import subprocess
import sys
import time
from pathlib import Path

import matplotlib
import measure

EMBEDDING, TEMPERATURE, BLOCK = 128, 0.1, 2048
SIZES = [2**exponent for exponent in range(10, 17)]
PICTURE = Path(__file__).with_suffix(".png")


def peak() -> int:
    """Return the peak memory of this process, in bytes."""
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024


def run(size: int, is_blocked: bool) -> None:
    """Print the bytes needed besides the inputs, and the seconds, as JSON."""
    import tensorflow as tf

    from cvrl_tf.losses.info_nce import blocked_info_nce, info_nce

    @tf.function
    def gradient(z: tf.Tensor) -> tuple[tf.Tensor, tf.Tensor]:
        with tf.GradientTape() as tape:
            tape.watch(z)
            if is_blocked:
                loss = blocked_info_nce(z, z, 0, TEMPERATURE, BLOCK)[0]
            else:
                loss = info_nce(z, z, 0, TEMPERATURE)[0]
            mean = tf.reduce_mean(loss)
        return mean, tape.gradient(mean, z)

    gradient(
        tf.random.stateless_normal([64, EMBEDDING], [0, 0])
    )  # allocates what TensorFlow itself needs
    z = tf.random.stateless_normal([size, EMBEDDING], [0, 1])
    before, begin = peak(), time.perf_counter()
    mean = float(gradient(z)[0])
    seconds = time.perf_counter() - begin
    print(json.dumps({"bytes": peak() - before, "seconds": seconds, "loss": mean}))


def measured(size: int, is_blocked: bool) -> dict[str, float]:
    """Call `run` in a process of its own and return its figures."""
    command = [sys.executable, __file__, str(size), str(int(is_blocked))]
    done = subprocess.run(command, check=True, stdout=subprocess.PIPE, stderr=subprocess.DEVNULL)
    found = json.loads(done.stdout.splitlines()[-1])
    kind = "blocked" if is_blocked else "plain"
    print(f"  {size} {kind}: {found['bytes'] / 2**20:.0f} MiB, {found['seconds']:.1f} s")
    return found


def draw(found: dict[str, dict[int, dict[str, float]]]) -> None:
    matplotlib.use("Agg")
    from matplotlib import pyplot

    figure, (memory, seconds) = pyplot.subplots(1, 2, figsize=(10, 4), layout="constrained")
    for kind, by_size in found.items():
        sizes = list(by_size)
        memory.plot(sizes, [each["bytes"] / 2**20 for each in by_size.values()], "o-", label=kind)
        seconds.plot(sizes, [each["seconds"] for each in by_size.values()], "o-", label=kind)
    memory.set_ylabel("peak above the inputs, MiB")
    seconds.set_ylabel("loss and gradient, seconds")
    for axes in (memory, seconds):
        axes.set(xscale="log", yscale="log", xlabel="embeddings in the global batch")
        axes.set_xticks(SIZES, [f"{size:,}" for size in SIZES], rotation=45)
        axes.minorticks_off()
        axes.grid(alpha=0.3)
        axes.legend()
    figure.suptitle(f"InfoNCE, {EMBEDDING} numbers an embedding, blocks of {BLOCK:,}")
    figure.savefig(PICTURE, dpi=120)


def main() -> None:
    memory = os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES")
    found = {
        "plain": {n: measured(n, False) for n in SIZES if 4 * n**2 * 5 < memory / 2},
        "blocked": {n: measured(n, True) for n in SIZES},
    }
    draw(found)
    largest = max(found["plain"])
    plain, blocked = found["plain"][largest], found["blocked"][largest]
    measure.report(
        __file__,
        {"time_plain_to_blocked": round(plain["seconds"] / blocked["seconds"], 3)},
        memory_plain_to_blocked=round(plain["bytes"] / max(blocked["bytes"], 1), 1),
        compared_at=largest,
        mebibytes={
            k: {n: round(v["bytes"] / 2**20) for n, v in f.items()} for k, f in found.items()
        },
        seconds={k: {n: round(v["seconds"], 2) for n, v in f.items()} for k, f in found.items()},
    )


if __name__ == "__main__":
    if len(sys.argv) > 1:
        run(int(sys.argv[1]), bool(int(sys.argv[2])))
    else:
        main()
