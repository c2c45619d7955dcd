"""Measure records to training views, against the Model Garden's ops.

    python benchmarks/input_pipeline.py

A sample is two views of 16 frames, stride 2, of a video of 300 frames of 340x256 at 26 KB each. For
the probe it is one clip of 32 frames, which is cropped and flipped only. All contenders read the
same files, which the page cache holds. The process is bound to one core, or two, so that all of its
threads share them. A ratio is for 224x224 and one core unless its name says otherwise.

garden: its `InputReader`, `Decoder` and `Parser`, to float32, with the authors' photometric ops.
host: our `Pipeline.train_batches`, to uint8 and seeds, which is the input of the accelerator.
whole: our `Pipeline.train_batches` and the same photometric ops on the host.
limit: the same frames, read as we do and decoded whole, and nothing else.
torchvision, torchcodec: see torch_input.py. They run separately, so there is no ratio.
"""

import json
import os
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
from official.core import input_reader
from official.projects.video_ssl.configs import video_ssl as garden_configs
from official.projects.video_ssl.dataloaders import video_ssl_input as garden

from cvrl_tf.augment.chain import Augmentation, Chain, ViewChains
from cvrl_tf.augment.photometric import ColorJitter, GaussianBlur, Grayscale, Solarize
from cvrl_tf.data import clips, pipeline, records, schema, shard_index, views

HEIGHT, WIDTH = 256, 340
VIDEOS = 4
STRIDE = 2
FRAMES = 32  # in a sample
WARM_UP = 32  # samples before a round
SAMPLES = 64  # in a round
ROUNDS = 5

# Returns an iterator over samples.
Contender = Callable[[], Iterator]


def write_records(folder: Path, videos: int) -> None:
    """Write pans over textures, a shard each. Textures are enlarged by 4/3: JPEGs have 26 KB."""
    scene = (HEIGHT + preparation.LENGTH // 2, WIDTH + preparation.LENGTH)
    shards = [f"train-{seed:05d}-of-{videos:05d}" for seed in range(videos)]
    for seed, shard in enumerate(shards):
        height, width = (s * 3 // 4 for s in scene)
        coarse = preparation.texture(height, width, np.random.default_rng(seed))
        pixels = tf.saturate_cast(tf.image.resize(coarse, scene, "bicubic"), tf.uint8)
        example = tf.train.SequenceExample()
        context = example.context.feature
        context[schema.LABEL_INDEX].int64_list.value.append(0)
        context[schema.VIDEO_ID].bytes_list.value.append(shard.encode())
        frames = example.feature_lists.feature_list[schema.FRAMES].feature
        for t in range(preparation.LENGTH):
            frame = pixels[t // 2 : t // 2 + HEIGHT, t : t + WIDTH]
            jpeg = tf.io.encode_jpeg(frame, quality=95).numpy()
            frames.add().bytes_list.value.append(jpeg)
        with tf.io.TFRecordWriter(str(folder / shard)) as writer:
            writer.write(example.SerializeToString())
        shard_index.scan(folder / shard).save(shard_index.path_of(folder / shard))
    write_info(folder, shards)


def write_info(folder: Path, shards: list[str]) -> None:
    """Write the `dataset_info.json` of shards of one video each."""
    counts = dict.fromkeys(shards, 1)
    split = schema.SplitInfo(counts, len(shards) * preparation.LENGTH, {}, {}, {})
    schema.DatasetInfo([], HEIGHT, {"train": split}).save(folder)


def of_garden(
    folder: Path,
    size: int = 224,
    is_ssl: bool = True,
    shuffle: int = 1,
    sample: Callable[[dict[str, tf.Tensor]], tf.Tensor] | None = None,
) -> tf.data.Dataset:
    """Return batches of one sample.

    Args:
      folder: of the records.
      size: side of a view, pixels.
      is_ssl: two views, or else one.
      shuffle: records in the buffer.
      sample: what to do with a decoded record instead of the Garden's parser.
    """
    config = garden_configs.DataConfig(
        input_path=str(folder / "train-*"),
        is_ssl=is_ssl,
        feature_shape=(FRAMES // 2 if is_ssl else FRAMES, size, size, 3),
        temporal_stride=STRIDE,
        num_classes=1,
        global_batch_size=1,
        shuffle_buffer_size=shuffle,
    )
    return input_reader.InputReader(
        config,
        decoder_fn=garden.Decoder(garden.IMAGE_KEY, garden.LABEL_KEY).decode,
        parser_fn=sample or garden.Parser(config).parse_fn(is_training=True),
    ).read()


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
    folder: Path, sampler: clips.ClipSampler, size: int, augment: ViewChains | None = None
) -> tf.data.Dataset:
    crop = views.RandomResizedCrop(size)
    return pipeline.Pipeline(folder, sampler, crop, augment=augment).train_batches(1)


def of_limit(folder: Path, sampler: clips.ClipSampler) -> tf.data.Dataset:
    data = pipeline.Pipeline(folder, sampler, views.RandomResizedCrop(224))

    def sample(position: tf.Tensor, number: tf.Tensor) -> tf.Tensor:
        jpegs = data._examples.read(position, number, seed=0)["jpegs"]
        return tf.map_fn(tf.io.decode_jpeg, tf.reshape(jpegs, [-1]), fn_output_signature=tf.uint8)

    order = data._training_order(global_batch=1, seed=0, first_step=0)
    return order.map(sample, num_parallel_calls=tf.data.AUTOTUNE).prefetch(tf.data.AUTOTUNE)


def of_torch(folder: Path) -> dict[str, float | str]:
    """Return milliseconds for the first video, or what is not installed."""
    shard = str(next(folder.glob("train-*")))
    frames = records.parse(next(iter(records.in_order([shard]))))["frames"]
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


def cases(folder: Path, cores: int) -> dict[str, dict[str, Contender]]:
    """Return contenders by case and name. Those of a case take turns."""
    pair = clips.DecreasingPair(FRAMES // 2, STRIDE)

    def pretraining(size: int) -> dict[str, Contender]:
        return {
            "garden": of_garden(folder, size).__iter__,
            "host": of_ours(folder, pair, size).__iter__,
            "whole": of_ours(folder, pair, size, photometric()).__iter__,
        }

    at_224 = {**pretraining(224), "limit": of_limit(folder, pair).__iter__}
    if cores > 1:
        return {f"{cores}_threads": at_224}
    probe = {
        "garden": of_garden(folder, is_ssl=False).__iter__,
        "host": of_ours(folder, clips.UniformClips(FRAMES, STRIDE, 1), 224).__iter__,
    }
    return {"224": at_224, "112": pretraining(112), "probe": probe}


def alternate(contenders: dict[str, Contender]) -> dict[str, list[float]]:
    """Run the contenders in turn and return seconds for a sample by round.

    Each round makes new iterators, because the buffers of an old one fill up while others run. The
    first samples build graphs and fill buffers, and do not count.
    """
    seconds: dict[str, list[float]] = {name: [] for name in contenders}
    for _ in range(ROUNDS):
        for name, contender in contenders.items():
            iterator = contender()
            for _ in range(WARM_UP):
                next(iterator)
            begin = time.perf_counter()
            for _ in range(SAMPLES):
                next(iterator)
            seconds[name].append((time.perf_counter() - begin) / SAMPLES)
            del iterator  # stops the preparation of further samples
            print(f"  {name}: {1000 * seconds[name][-1]:.1f} ms", file=sys.stderr)
    return seconds


def seconds_of(folder: Path, cores: int) -> dict[str, dict[str, list[float]]]:
    """Return seconds for a sample in each round, by case and contender.

    Call this in a process of its own, before TensorFlow has threads there.
    """
    bind(cores)
    found = {}
    for case, contenders in cases(folder, cores).items():
        print(f"{case}:", file=sys.stderr)
        found[case] = alternate(contenders)
    return found


def bind(cores: int) -> None:
    """Bind this process to some cores. TensorFlow's pools and tf.data's tuning go by them."""
    os.sched_setaffinity(0, sorted(os.sched_getaffinity(0))[:cores])


def main() -> None:
    found: dict[str, dict[str, list[float]]] = {}
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        write_records(folder, VIDEOS)
        for cores in (1, 2):
            with ProcessPoolExecutor(1, mp_context=get_context("spawn")) as process:
                found |= process.submit(seconds_of, folder, cores).result()
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
