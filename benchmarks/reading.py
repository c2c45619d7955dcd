"""Measure what it takes to read the frames of a sample, against reading whole records.

    python benchmarks/reading.py

A sample is two clips of 16 frames, stride 2, of a video of 300 frames of 340x256 at 30 KB each.
There are 64 videos, each in its own shard. Each shard has 64 names, which count as other videos.
The page cache holds the files unless the name says "cold". A process is bound to one core unless
the name says otherwise.

indexed: our `Pipeline`, up to the chosen JPEGs.
ranges: the same, as it reads from a bucket: what is near each other in one request.
whole: as we did without indexes: records through a shuffle buffer, of which the JPEGs are chosen.
garden: the Model Garden's `InputReader` and `Decoder`, and its choice of JPEGs.

Bytes are what the process asked of the system (`rchar` of /proc/self/io). What fills buffers at the
start does not count, except where it says "cold" or "resume".
"""

import dataclasses
import functools
import io
import os
import tempfile
import time
from collections.abc import Callable, Iterator
from concurrent.futures import ProcessPoolExecutor
from multiprocessing import get_context
from pathlib import Path
from typing import Any
from unittest import mock

import input_pipeline
import measure
import numpy as np
import tensorflow as tf
from official.projects.video_ssl.dataloaders import video_ssl_input
from official.projects.video_ssl.ops import video_ssl_preprocess_ops

from cvrl_tf import files
from cvrl_tf.data import clips, pipeline, reading, shard_index, views

VIDEOS = 64
LINKS = 64  # names of each shard
SAMPLES = 256
BATCH = 8
STEPS = 128
WORKERS = 4
BUFFER = 256  # records, as our default was
GARDEN_BUFFER = 64  # records, its default
LATENCY = 0.02  # seconds until a slow file system answers a request

CLIP = input_pipeline.FRAMES // 2
STRIDE = input_pipeline.STRIDE


@dataclasses.dataclass(frozen=True)
class Cost:
    """What a sample costs.

    Attributes:
      bytes: read.
      disk_bytes: of these, what the page cache did not have.
      cpu, wall: milliseconds.
      peak: memory of the process, in MB.
    """

    bytes: int
    disk_bytes: int
    cpu: float
    wall: float
    peak: int


def of_pipeline(folder: Path) -> pipeline.Pipeline:
    crop = views.RandomResizedCrop(224)
    return pipeline.Pipeline(folder, clips.DecreasingPair(CLIP, STRIDE), crop)


def whole_records(data: pipeline.Pipeline, first: int = 0) -> tf.data.Dataset:
    """Return what we read without indexes: positions from one on, a number, and whole records."""
    records = tf.data.Dataset.from_tensor_slices(list(data._paths)).interleave(
        tf.data.TFRecordDataset,
        cycle_length=16,
        num_parallel_calls=tf.data.AUTOTUNE,
        deterministic=True,
    )
    numbered = records.shuffle(BUFFER, seed=0).prefetch(1).repeat().enumerate().skip(first)
    return numbered.map(lambda position, record: (position, tf.constant(0, tf.int64), record))


def jpegs_of(data: pipeline.Pipeline, sources: tf.data.Dataset) -> tf.data.Dataset:
    """Return the chosen JPEGs of records, given by number, or whole with any number."""

    def chosen(
        position: tf.Tensor, number: tf.Tensor, record: tf.Tensor | None = None
    ) -> tf.Tensor:
        return data._examples.read(position, number, 0, record)["jpegs"]

    return sources.map(
        chosen,
        num_parallel_calls=tf.data.AUTOTUNE,
        deterministic=True,
    ).prefetch(tf.data.AUTOTUNE)


def indexed(folder: Path) -> tf.data.Dataset:
    data = of_pipeline(folder)
    return jpegs_of(data, data._training_order(global_batch=1, seed=0, first_step=0))


def whole(folder: Path) -> tf.data.Dataset:
    data = of_pipeline(folder)
    return jpegs_of(data, whole_records(data))


def garden(folder: Path) -> tf.data.Dataset:
    def sample(decoded: dict[str, tf.Tensor]) -> tf.Tensor:
        return video_ssl_preprocess_ops.sample_ssl_sequence(
            decoded[video_ssl_input.IMAGE_KEY], CLIP, random=True, stride=STRIDE
        )

    return input_pipeline.of_garden(folder, shuffle=GARDEN_BUFFER, sample=sample)


def as_bucket() -> Any:
    """Make the reader take files for those of a bucket."""
    return mock.patch.object(files, "is_remote", return_value=True)


def ranges(folder: Path) -> tf.data.Dataset:
    as_bucket().start()  # for the rest of the process
    return indexed(folder)


class SlowFile(io.FileIO):
    """A file of a slow file system."""

    def read(self, size: int | None = -1, /) -> bytes:
        time.sleep(LATENCY)
        return super().read(size)


def batches_of(data: pipeline.Pipeline, sources: tf.data.Dataset, batch: int) -> tf.data.Dataset:
    """Return batches of views of whole records."""

    def example(position: tf.Tensor, number: tf.Tensor, record: tf.Tensor) -> dict[str, tf.Tensor]:
        read = data._examples.read(position, number, 0, record)
        return data._examples.decode(position, read, tf.int64.max, seed=0)

    examples = sources.map(example, num_parallel_calls=tf.data.AUTOTUNE, deterministic=True)
    return examples.batch(batch).prefetch(tf.data.AUTOTUNE)


def write_links(folder: Path, target: Path) -> None:
    """Make a folder of many more records: links to the same files."""
    shards = sorted(path.name for path in folder.glob("train-*"))
    names = []
    (target / shard_index.FOLDER).mkdir(parents=True)
    for number in range(LINKS):
        for shard in shards:
            names.append(f"{shard}-{number:02d}")
            os.link(folder / shard, target / names[-1])
            os.link(shard_index.path_of(folder / shard), shard_index.path_of(target / names[-1]))
    input_pipeline.write_info(target, names)


def dropped_from_cache(folder: Path) -> None:
    """Ask the system to forget what it holds of the files. `disk_bytes` tell whether it did."""
    for path in folder.rglob("train-*"):
        with open(path, "rb") as file:
            os.fsync(file.fileno())
            os.posix_fadvise(file.fileno(), 0, 0, os.POSIX_FADV_DONTNEED)


def bytes_read(what: str = "rchar") -> int:
    """Return bytes that this process has read so far; "read_bytes" of them from the disk."""
    fields = dict(line.split(": ") for line in Path("/proc/self/io").read_text().splitlines())
    return int(fields[what])


def peak_memory() -> int:
    status = Path("/proc/self/status").read_text()
    return round(int(status.split("VmHWM:")[1].split()[0]) * 1024 / 1e6)


def cost_of(contender: Callable[[Path], tf.data.Dataset], folder: Path, cores: int) -> Cost:
    """Return what a sample costs once buffers are full."""
    input_pipeline.bind(cores)
    return _cost(iter(contender(folder)), SAMPLES, start=32)


def bytes_of_jpegs(folder: Path) -> int:
    """Return bytes of the JPEGs that a sample is made of."""
    sizes = [tf.reduce_sum(tf.strings.length(jpegs)) for jpegs in indexed(folder).take(SAMPLES)]
    return round(float(np.mean(sizes)))


def cold_cost_of(contender: Callable[[Path], tf.data.Dataset], folder: Path) -> Cost:
    """Return what a sample of the first epoch costs if the page cache holds none of the files."""
    data = contender(folder)
    dropped_from_cache(folder)
    return _cost(iter(data), VIDEOS, start=0)


def _cost(iterator: Iterator, samples: int, start: int) -> Cost:
    for _ in range(start):
        next(iterator)
    asked, from_disk = bytes_read(), bytes_read("read_bytes")
    cpu, wall = time.process_time(), time.perf_counter()
    for _ in range(samples):
        next(iterator)
    cpu, wall = time.process_time() - cpu, time.perf_counter() - wall
    return Cost(
        bytes=(bytes_read() - asked) // samples,
        disk_bytes=(bytes_read("read_bytes") - from_disk) // samples,
        cpu=round(1000 * cpu / samples, 2),
        wall=round(1000 * wall / samples, 2),
        peak=peak_memory(),
    )


def seconds_to_resume(folder: Path) -> dict[str, list[float]]:
    """Return seconds from a built data set to its first batch, the last one of an epoch.

    And those in which the indexes are loaded, which is part of building ours.
    """
    begin = time.perf_counter()
    data = of_pipeline(folder)
    loading = time.perf_counter() - begin
    last = data.num_examples // BATCH - 1
    skipped = batches_of(data, whole_records(data, last * BATCH), BATCH)
    contenders = {"indexed": data.train_batches(BATCH, first_step=last), "whole": skipped}
    next(iter(data.train_batches(BATCH)))  # starts TensorFlow
    seconds = measure.alternate(
        {name: functools.partial(_first, batches) for name, batches in contenders.items()},
        rounds=3,
    )
    return {**seconds, "indexes": [loading]}


def _first(batches: tf.data.Dataset) -> object:
    return next(iter(batches))


def bytes_by_worker(folder: Path) -> dict[str, list[int]]:
    """Return bytes that each worker of several reads for a step."""
    data = of_pipeline(folder)
    share = BATCH // WORKERS
    found: dict[str, list[int]] = {"indexed": [], "whole": []}
    for worker in range(WORKERS):
        context = tf.distribute.InputContext(WORKERS, worker, num_replicas_in_sync=WORKERS)
        mine = whole_records(data).filter(
            lambda position, *_, worker=worker: position // share % WORKERS == worker
        )
        contenders = {
            "indexed": data.train_batches(BATCH, context=context),
            "whole": batches_of(data, mine, share),
        }
        for name, batches in contenders.items():
            found[name].append(_cost(iter(batches), STEPS, start=16).bytes)
    return found


def seconds_by_file_system(folder: Path) -> dict[str, list[float]]:
    """Return seconds for some training batches, from fast files and from slow ones."""
    batches = of_pipeline(folder).train_batches(BATCH)

    def run() -> None:
        for _ in batches.take(STEPS // 2):
            pass

    def run_slowly() -> None:
        with as_bucket(), mock.patch.object(reading, "_open", SlowFile):
            run()

    return measure.alternate({"fast": run, "slow": run_slowly}, rounds=3)


def in_process(function: Callable, *args: Any) -> Any:
    """Call a function in a process of its own."""
    with ProcessPoolExecutor(1, mp_context=get_context("spawn")) as process:
        return process.submit(function, *args).result()


def main() -> None:
    contenders = [indexed, ranges, whole, garden]
    with tempfile.TemporaryDirectory() as name:
        folder, many = Path(name, "records"), Path(name, "many")
        folder.mkdir()
        in_process(input_pipeline.write_records, folder, VIDEOS)
        write_links(folder, many)
        costs = {
            f"{contender.__name__}{suffix}": in_process(cost_of, contender, many, cores)
            for cores, suffix in ((1, ""), (2, "_2_cores"))
            for contender in contenders
        }
        needed = in_process(bytes_of_jpegs, many)
        cold = {
            contender.__name__: in_process(cold_cost_of, contender, folder)
            for contender in contenders
        }
        resume = in_process(seconds_to_resume, many)
        workers = in_process(bytes_by_worker, many)
        speeds = in_process(seconds_by_file_system, many)
    ours = costs["indexed"]
    ratios = {"resume_vs_skip": measure.speed_up(resume, "indexed", "whole")}
    for theirs in ("whole", "garden"):
        ratios[f"bytes_vs_{theirs}"] = round(costs[theirs].bytes / ours.bytes, 2)
        ratios[f"read_cpu_vs_{theirs}"] = round(costs[theirs].cpu / ours.cpu, 2)
    measure.report(
        __file__,
        ratios,
        a_sample={name: dataclasses.asdict(cost) for name, cost in costs.items()},
        bytes_of_jpegs=needed,
        a_sample_cold={name: dataclasses.asdict(cost) for name, cost in cold.items()},
        seconds_to_resume=resume,
        bytes_by_worker=workers,
        slow_vs_fast=measure.speed_up(speeds, "slow", "fast"),
    )


if __name__ == "__main__":
    main()
