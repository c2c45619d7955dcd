"""Measure records to training views, against the Model Garden's ops.

    python benchmarks/input_pipeline.py

A sample is two views of 16 frames, stride 2, of a video of 300 frames of 340x256 at 25 KB each. For
the probe it is one clip of 32 frames, which is cropped and flipped only. All contenders start from
the same serialized records in memory. A ratio is for 224x224 and one thread unless its name says
otherwise.

garden: `Decoder` and `_process_image`, to float32, with the authors' photometric ops.
host: our `Pipeline`, to uint8 and seeds, which is the input of the accelerator.
whole: our `Pipeline` and the same photometric ops on the host.
limit: decoding of the same number of whole frames.
torchvision, torchcodec: see torch_input.py. They run separately, so there is no ratio.
"""

import json
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterator
from concurrent.futures import ProcessPoolExecutor
from multiprocessing import get_context
from pathlib import Path

import measure
import numpy as np
import preparation
import tensorflow as tf
from official.projects.video_ssl.dataloaders import video_ssl_input as garden

from cvrl_tf.augment.chain import Augmentation, Chain, ViewChains
from cvrl_tf.augment.photometric import ColorJitter, GaussianBlur, Grayscale, Solarize
from cvrl_tf.data import clips, pipeline, records, schema, views

HEIGHT, WIDTH = 256, 340
VIDEOS = 4
STRIDE = 2
FRAMES = 32  # in a sample
SAMPLES = 20  # in a round
ROUNDS = 5

# Returns an iterator over samples.
Contender = Callable[[], Iterator]


def write_records(folder: Path) -> None:
    """Write pans over textures. Textures are enlarged by 4/3 so that JPEGs have 25 KB."""
    shard = "train-00000-of-00001"
    scene = (HEIGHT + preparation.LENGTH // 2, WIDTH + preparation.LENGTH)
    with tf.io.TFRecordWriter(str(folder / shard)) as writer:
        for seed in range(VIDEOS):
            height, width = (s * 3 // 4 for s in scene)
            coarse = preparation.texture(height, width, np.random.default_rng(seed))
            pixels = tf.saturate_cast(tf.image.resize(coarse, scene, "bicubic"), tf.uint8)
            example = tf.train.SequenceExample()
            example.context.feature[schema.LABEL_INDEX].int64_list.value.append(0)
            frames = example.feature_lists.feature_list[schema.FRAMES].feature
            for t in range(preparation.LENGTH):
                frame = pixels[t // 2 : t // 2 + HEIGHT, t : t + WIDTH]
                jpeg = tf.io.encode_jpeg(frame, quality=95).numpy()
                frames.add().bytes_list.value.append(jpeg)
            writer.write(example.SerializeToString())
    split = schema.SplitInfo({shard: VIDEOS}, VIDEOS * preparation.LENGTH, {}, {}, {})
    schema.DatasetInfo([], HEIGHT, {"train": split}).save(folder)


def serialized(folder: Path) -> tf.data.Dataset:
    return records.in_order([str(folder / "train-00000-of-00001")]).cache().repeat()


def of_garden(folder: Path, threads: int, size: int, is_ssl: bool) -> tf.data.Dataset:
    decoder = garden.Decoder(garden.IMAGE_KEY, garden.LABEL_KEY)

    def sample(record: tf.Tensor) -> tf.Tensor:
        return garden._process_image(
            decoder.decode(record)[garden.IMAGE_KEY],
            is_ssl=is_ssl,
            num_frames=FRAMES // 2 if is_ssl else FRAMES,
            stride=STRIDE,
            crop_size=size,
        )

    return serialized(folder).map(sample, num_parallel_calls=threads).batch(1).prefetch(1)


def photometric() -> ViewChains:
    """Return the augmentation of gin/common/augment_asymmetric.gin, which is the Garden's."""
    color: list[Augmentation] = [ColorJitter(), Grayscale()]
    return ViewChains(
        [
            Chain([*color, GaussianBlur(probability=1.0)]),
            Chain([*color, GaussianBlur(probability=0.1), Solarize()]),
        ]
    )


def of_ours(
    folder: Path,
    threads: int,
    sampler: clips.ClipSampler,
    size: int,
    augment: ViewChains | None = None,
) -> tf.data.Dataset:
    crop = views.RandomResizedCrop(size)
    data = pipeline.Pipeline(folder, sampler, crop, augment=augment)

    def sample(position: tf.Tensor, record: tf.Tensor) -> dict[str, tf.Tensor]:
        return data._example(position, ("", record), limit=tf.int64.max, seed=0)

    numbered = serialized(folder).enumerate()
    return numbered.map(sample, num_parallel_calls=threads).batch(1).prefetch(1)


def of_limit(folder: Path, threads: int) -> tf.data.Dataset:
    frames = records.parse(next(iter(serialized(folder))))["frames"][:FRAMES]

    def sample(jpegs: tf.Tensor) -> tf.Tensor:
        return tf.map_fn(tf.io.decode_jpeg, jpegs, fn_output_signature=tf.uint8)

    once = tf.data.Dataset.from_tensors(frames)
    return once.repeat().map(sample, num_parallel_calls=threads).prefetch(1)


def on_threads(data: tf.data.Dataset, threads: int) -> Contender:
    options = tf.data.Options()
    options.threading.private_threadpool_size = threads
    options.threading.max_intra_op_parallelism = 1
    return data.with_options(options).__iter__


def of_torch(folder: Path) -> dict[str, float | str]:
    """Return milliseconds for the first video, or what is not installed."""
    frames = records.parse(next(iter(serialized(folder))))["frames"]
    for t, jpeg in enumerate(frames.numpy()):
        (folder / f"{t:03d}.jpg").write_bytes(jpeg)
    command = [preparation.FFMPEG, "-loglevel", "error", "-i", str(folder / "%03d.jpg")]
    command += ["-pix_fmt", "yuv420p", "-c:v", "libx264", str(folder / "video.mp4")]
    subprocess.run(command, check=True)
    script = Path(__file__).with_name("torch_input.py")
    done = subprocess.run(
        [sys.executable, str(script), str(folder)], check=True, stdout=subprocess.PIPE
    )
    return json.loads(done.stdout)


def cases(folder: Path, threads: int) -> dict[str, dict[str, Contender]]:
    """Return contenders by case and name. Those of a case take turns."""

    def pretraining(size: int) -> dict[str, Contender]:
        pair = clips.DecreasingPair(FRAMES // 2, STRIDE)
        return {
            "garden": on_threads(of_garden(folder, threads, size, is_ssl=True), threads),
            "host": on_threads(of_ours(folder, threads, pair, size), threads),
            "whole": on_threads(of_ours(folder, threads, pair, size, photometric()), threads),
        }

    at_224 = {**pretraining(224), "limit": on_threads(of_limit(folder, threads), threads)}
    if threads > 1:
        return {f"{threads}_threads": at_224}
    one = clips.UniformClips(FRAMES, STRIDE, 1)
    probe = {
        "garden": on_threads(of_garden(folder, threads, 224, is_ssl=False), threads),
        "host": on_threads(of_ours(folder, threads, one, 224), threads),
    }
    return {"224": at_224, "112": pretraining(112), "probe": probe}


def alternate(contenders: dict[str, Contender]) -> dict[str, list[float]]:
    """Run the contenders in turn and return seconds for a sample by round.

    Each round makes new iterators, because the buffers of an old one fill up while others run. The
    first two samples build graphs and do not count.
    """
    seconds: dict[str, list[float]] = {name: [] for name in contenders}
    for _ in range(ROUNDS):
        for name, contender in contenders.items():
            iterator = contender()
            for _ in range(2):
                next(iterator)
            begin = time.perf_counter()
            for _ in range(SAMPLES):
                next(iterator)
            seconds[name].append((time.perf_counter() - begin) / SAMPLES)
            del iterator  # stops the preparation of further samples
            print(f"  {name}: {1000 * seconds[name][-1]:.1f} ms", file=sys.stderr)
    return seconds


def seconds_of(folder: Path, threads: int) -> dict[str, dict[str, list[float]]]:
    """Return seconds for a sample in each round, by case and contender.

    Call this in a process of its own: the thread pools of TensorFlow can't be changed later.
    """
    tf.config.threading.set_inter_op_parallelism_threads(threads)
    tf.config.threading.set_intra_op_parallelism_threads(threads)
    found = {}
    for case, contenders in cases(folder, threads).items():
        print(f"{case}:", file=sys.stderr)
        found[case] = alternate(contenders)
    return found


def main() -> None:
    found: dict[str, dict[str, list[float]]] = {}
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        write_records(folder)
        for threads in (1, 2):
            with ProcessPoolExecutor(1, mp_context=get_context("spawn")) as process:
                found |= process.submit(seconds_of, folder, threads).result()
        with_torch = of_torch(folder)
    ratios = {"jpeg_limit": measure.speed_up(found["224"], "host", "limit")}
    for case, seconds in found.items():
        suffix = "" if case == "224" else f"_{case}"
        for ours in ("host", "whole"):
            if ours in seconds:
                ratios[f"{ours}_vs_garden{suffix}"] = measure.speed_up(seconds, ours, "garden")
    milliseconds: dict[str, dict[str, float | str]] = {
        case: {name: round(1000 * statistics.median(each), 1) for name, each in seconds.items()}
        for case, seconds in found.items()
    }
    milliseconds["224"] |= with_torch
    measure.report(__file__, ratios, milliseconds_a_sample=milliseconds)


if __name__ == "__main__":
    main()
