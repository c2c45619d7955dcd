"""Writes label fractions for semi-supervised learning (section 4.2): 1 % and 10 % of the videos.

The paper does not publish its choice. Ours ranks the videos of each class by a hash of their id and
a seed, and takes the first ones. So the subset is the same everywhere, balanced by class, and 1 %
is inside 10 %, as any subset is inside one at least twice as large.
"""

import hashlib
import math
import os
from collections import defaultdict
from fractions import Fraction
from pathlib import Path

import tensorflow as tf
from tqdm import tqdm

from cvrl_tf.data import records, schema, shard_index


def share(total: int, fraction: float) -> int:
    """Returns the size of a subset of `total` videos, rounded to the nearest number."""
    return round(_exact(fraction) * total)


def choose(labels: dict[str, int], fraction: float, seed: int = 0) -> set[str]:
    """Chooses the ids of a subset.

    There are `share(len(labels), fraction)` of them: each class has its share rounded down, and the
    classes with the largest remainders have one more (of equal remainders, the lower class). But
    each class has at least one, even if all of them are then more.

    Args:
      labels: class by video id.
      fraction: in (0, 1], of each class.
      seed: another subset for another seed.
    """
    by_class: dict[int, list[str]] = defaultdict(list)
    for video_id, label in labels.items():
        by_class[label].append(video_id)

    def rank(video_id: str) -> bytes:
        return hashlib.sha256(os.fsencode(f"{seed}/{video_id}")).digest()

    shares = {label: _exact(fraction) * len(by_class[label]) for label in sorted(by_class)}
    counts = {label: max(1, math.floor(each)) for label, each in shares.items()}
    missing = max(0, share(len(labels), fraction) - sum(counts.values()))
    for label in sorted(shares, key=lambda label: counts[label] - shares[label])[:missing]:
        counts[label] += 1
    return {
        video_id
        for label, members in by_class.items()
        for video_id in sorted(members, key=rank)[: counts[label]]
    }


def _exact(fraction: float) -> Fraction:
    """Returns a fraction as it was meant: 0.07 * 100 is a little over 7 in binary."""
    return Fraction(fraction).limit_denominator(10**6)


def write_subset(
    data_dir: str | Path, split: str, fraction: float, name: str, seed: int = 0
) -> schema.SplitInfo:
    """Copies a subset's records into a new split of the same data set.

    Beside the shards stands `NAME_ids.txt`, the ids of the subset, one a line.

    Args:
      data_dir: folder of the records.
      split: what to take the subset of.
      fraction, seed: see `choose`.
      name: of the new split.

    Returns:
      The new split, which `dataset_info.json` then has too.

    Raises:
      ValueError: a video is unlabeled, `fraction` is not in (0, 1], or `name` is taken.
    """
    info = schema.DatasetInfo.load(data_dir)
    source = info.split(split)
    if not info.labels:
        raise ValueError(f"{str(data_dir)!r} is unlabeled; a subset is taken class by class.")
    if missing := source.num_examples - sum(source.class_counts.values()):
        raise ValueError(
            f"{missing} of {source.num_examples} videos of split {split!r} are unlabeled; a subset "
            "is taken class by class. Make the records again with --unlabeled=skip."
        )
    if not 0 < fraction <= 1:
        raise ValueError(f"fraction={fraction} is not in (0, 1].")
    if name in info.splits:
        raise ValueError(f"There is a split {name!r} already; choose another name.")

    dataset = records.in_order(records.shard_paths(data_dir, source))
    chosen = choose(_labels_by_id(dataset, source.num_examples), fraction, seed)
    num_shards = max(1, math.ceil(len(source.shards) * fraction))
    names = [f"{name}-{i:05d}-of-{num_shards:05d}" for i in range(num_shards)]
    written = schema.SplitInfo(dict.fromkeys(names, 0), 0, {}, {}, {}, source.fps)
    writers = [tf.io.TFRecordWriter(str(Path(data_dir) / f".{name}.tmp")) for name in names]
    for serialized in tqdm(dataset, total=source.num_examples, desc="copy", unit="video"):
        context = _context(serialized)
        if os.fsdecode(context["video_id"].numpy()) in chosen:
            shard = written.num_examples % num_shards
            writers[shard].write(serialized.numpy())
            _count(written, names[shard], info.labels, context)
    for shard_name, writer in zip(names, writers, strict=True):
        writer.close()
        aside, path = Path(data_dir) / f".{shard_name}.tmp", Path(data_dir) / shard_name
        shard_index.scan(aside).save(shard_index.path_of(path))
        aside.rename(path)
    (Path(data_dir) / f"{name}_ids.txt").write_text(
        "\n".join(sorted(chosen)) + "\n", errors="surrogateescape"
    )
    with schema.DatasetInfo.locked(data_dir):
        info = schema.DatasetInfo.load(data_dir)  # it may have got other splits in the meantime
        info.splits[name] = written
        info.save(data_dir)
    return written


def _labels_by_id(dataset: tf.data.Dataset, total: int) -> dict[str, int]:
    """Reads the class of each video.

    Raises:
      ValueError: two videos have the same id.
    """
    labels: dict[str, int] = {}
    for context in tqdm(dataset.map(_context), total=total, desc="read ids", unit="video"):
        labels[os.fsdecode(context["video_id"].numpy())] = int(context["label"])
    if len(labels) != total:
        raise ValueError(f"{total} records have only {len(labels)} different ids.")
    return labels


def _count(
    split: schema.SplitInfo, shard: str, labels: list[str], context: dict[str, tf.Tensor]
) -> None:
    """Adds a record to the counts of its split."""
    label = labels[int(context["label"])]
    rate = f"{float(context['frame_rate']):g}"
    split.shards[shard] += 1
    split.num_frames += int(context["num_frames"])
    split.class_counts[label] = split.class_counts.get(label, 0) + 1
    split.frame_rates[rate] = split.frame_rates.get(rate, 0) + 1


def _context(serialized: tf.Tensor) -> dict[str, tf.Tensor]:
    """Returns what a subset asks of a record."""
    record = records.parse(serialized)
    return {
        "video_id": record["video_id"],
        "label": record["label"],
        "frame_rate": record["frame_rate"],
        "num_frames": tf.size(record["frames"]),
    }
