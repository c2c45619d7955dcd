"""Videos in, records out: shards of `tf.train.SequenceExample` and their `dataset_info.json`.

What stands in a shard is a function of the videos, the seed and the number of shards; who writes it
changes nothing: workers on one machine, tasks of a scheduler, Beam. A shard appears under its name
only when it is whole, and what is whole is not made again: a preparation that was stopped, or
killed, goes on with the same command and ends with the same bytes. A video that can't be used is
reported, and stops nothing.
"""

import collections
import dataclasses
import hashlib
import json
import os
import random
import re
from collections.abc import Callable
from typing import Any

from etils import epath

from cvrl_tf import files
from cvrl_tf.data import schema
from cvrl_tf.preparation import manifest
from cvrl_tf.preparation.annotations import Video
from cvrl_tf.preparation.decoding import FrameOptions
from cvrl_tf.preparation.manifest import Outcome
from cvrl_tf.preparation.shards import Job, is_done, manifest_of, write_shards

_VIDEOS_PER_SHARD = 32  # 10 s each at 256 pixels make 150 MB, the size TensorFlow's guide advises
_MAX_SHARDS = 1024

Writer = Callable[[dict[str, list[Video]], Job], None]


def prepare(
    videos: list[Video],
    output: str | os.PathLike[str],
    split: str = "train",
    frames: FrameOptions | None = None,
    num_shards: int | None = None,
    seed: int = 0,
    write: Writer = write_shards,
    part: tuple[int, int] = (0, 1),
) -> schema.SplitInfo | None:
    """Writes the videos as the shards of a split and enters it in `dataset_info.json`.

    The first split of a folder settles the labels and the short side for those that follow. Beside
    the shards stand `SPLIT_manifest.jsonl`, what became of every video, and `SPLIT_options.json`.

    Args:
      videos: with distinct names.
      output: folder, which may hold other splits.
      split: its name, with which the shards' names begin.
      frames: how they are stored.
      num_shards: by default one for every 32 videos, at most 1,024.
      seed: of the shuffle of the videos over the shards.
      write: makes shards of the given names: `shards.write_shards`, `beam.write_shards`.
      part: (i, n) to write every n-th shard, from the i-th on, of n tasks that share the work.

    Returns:
      What was written and what was skipped; None if other parts are not done yet. The last part to
      be done enters the split.

    Raises:
      ValueError: an argument doesn't fit the others, the folder or the work begun there; or no
        video could be used.
      OSError: `output` can't be written to.
      RuntimeError: a worker failed for a reason that lies in no video.
    """
    folder, frames = epath.Path(output), frames or FrameOptions()
    if num_shards is None:
        num_shards = min(_MAX_SHARDS, -(-len(videos) // _VIDEOS_PER_SHARD))
    if not 1 <= num_shards <= len(videos):
        raise ValueError(f"{num_shards} shards for {len(videos)} videos: give at most as many.")
    task, num_tasks = part
    if not 0 <= task < num_tasks <= num_shards:
        raise ValueError(
            f"Task {task} of {num_tasks} for {num_shards} shards: tasks count from 0, and there "
            "are at most as many as shards."
        )
    _check_output(folder, split)
    info = _open_info(folder, frames.short_side, videos)
    videos = sorted(videos, key=lambda video: video.name)
    _check_options(
        folder / f"{split}_options.json",
        {**dataclasses.asdict(frames), "num_shards": num_shards, "seed": seed, **_digest(videos)},
    )
    if split in info.splits:
        return info.splits[split]  # the same command has done all this

    videos = _with_ids(videos)
    random.Random(seed).shuffle(videos)
    shards = {
        f"{split}-{i:05d}-of-{num_shards:05d}": videos[i::num_shards] for i in range(num_shards)
    }
    mine = list(shards)[task::num_tasks]
    try:
        if todo := {name: shards[name] for name in mine if not is_done(folder, name)}:
            write(todo, Job(folder, info.labels, frames))
    finally:
        for leftover in folder.glob(".*.tmp"):
            if leftover.name.lstrip(".")[: len(mine[0])] in mine:
                leftover.unlink()
    if not all(is_done(folder, name) for name in shards):
        return None
    try:
        return _enter(folder, split, list(shards), frames.fps)
    except FileNotFoundError:  # another task was done at the same moment, and was faster
        return schema.DatasetInfo.load(folder).splits[split]


def _enter(
    output: epath.Path, split: str, shards: list[str], fps: float | None
) -> schema.SplitInfo:
    """Merges the shards' manifests, and enters the split in `dataset_info.json`."""
    parts = {name: manifest.read(manifest_of(output, name)) for name in shards}
    written = dataclasses.replace(_summarize(parts), fps=fps)
    outcomes = sorted((o for part in parts.values() for o in part), key=lambda o: o.name)
    manifest.write(output / f"{split}_manifest.jsonl", outcomes)
    if not written.num_examples:
        for name in shards:
            manifest_of(output, name).unlink()  # or another try would not look at them
        reasons = "; ".join(f"{o.name}: {o.reason}" for o in outcomes[:5])
        raise ValueError(f"None of {len(outcomes)} videos can be used, nothing written. {reasons}")
    info = schema.DatasetInfo.load(output)  # another split may have been made in the meantime
    info.splits[split] = written
    info.save(output)
    for name in shards:
        manifest_of(output, name).unlink(missing_ok=True)
    return written


def _check_output(output: epath.Path, split: str) -> None:
    if not re.fullmatch(r"\w[\w.-]*", split):
        raise ValueError(f"The split {split!r} must be a word: it begins the shards' names.")
    output.mkdir(parents=True, exist_ok=True)
    probe = files.aside_of(output / "probe")
    probe.touch()  # an error, if there is one, names the folder
    probe.unlink()


def _digest(videos: list[Video]) -> dict[str, Any]:
    """What tells one list of videos from another."""
    facts = [(v.name, v.label, v.start, v.end) for v in videos]
    return {
        "num_videos": len(videos),
        "videos_sha256": hashlib.sha256(json.dumps(facts).encode()).hexdigest(),
    }


def _check_options(path: epath.Path, options: dict[str, Any]) -> None:
    """Writes the options of a split; if they are there already, they must be the same.

    Raises:
      ValueError: they differ; says how.
    """
    if not path.exists():
        files.write_text(path, json.dumps(options, indent=2) + "\n")
        return
    before = json.loads(path.read_text())
    changed = [
        f"{name} was {before.get(name)}, is {value}"
        for name, value in options.items()
        if before.get(name) != value
    ]
    if changed:
        raise ValueError(
            f"{os.fspath(path.parent)!r} holds this split with other options: "
            f"{'; '.join(changed)}. Give the same, choose another folder or split, or delete "
            f"the shards and {path.name}."
        )


def _open_info(output: epath.Path, short_side: int, videos: list[Video]) -> schema.DatasetInfo:
    """The folder's `dataset_info.json`, saved before any work if it is new.

    So that a second split, even one that is made at the same time, finds the same labels.
    """
    names = {video.label for video in videos if video.label is not None}
    numbers = all(name.isdecimal() for name in names)
    labels = sorted(names, key=lambda name: (int(name) if numbers else 0, name))
    if not (output / schema.INFO_FILE).exists():
        info = schema.DatasetInfo(labels=labels, short_side=short_side, splits={})
        info.save(output)
        return info
    info = schema.DatasetInfo.load(output)
    if info.short_side != short_side:
        raise ValueError(
            f"short_side is {short_side} but the records in {os.fspath(output)!r} have "
            f"{info.short_side}: take that, or choose another folder."
        )
    if unknown := [label for label in labels if label not in info.labels]:
        raise ValueError(
            f"Classes {unknown} are not among those of {os.fspath(output / schema.INFO_FILE)!r}, "
            f"{info.labels}: correct the input, choose another folder, or, if no split there is "
            "wanted any more, delete it."
        )
    return info


def _with_ids(videos: list[Video]) -> list[Video]:
    """Gives them their ids: names without their endings, except where two would become the same."""
    stems = {video.name: os.path.splitext(video.name)[0] for video in videos}
    count = collections.Counter(stems.values())
    ids = {name: stem if count[stem] == 1 else name for name, stem in stems.items()}
    return [dataclasses.replace(video, id=ids[video.name]) for video in videos]


def _summarize(parts: dict[str, list[Outcome]]) -> schema.SplitInfo:
    written = {name: [o for o in part if not o.reason] for name, part in parts.items()}
    every = [outcome for part in written.values() for outcome in part]
    rates = collections.Counter(f"{outcome.frame_rate:g}" for outcome in every)
    labels = collections.Counter(o.label for o in every if o.label is not None)
    return schema.SplitInfo(
        shards={name: len(part) for name, part in sorted(written.items()) if part},
        num_frames=sum(outcome.num_frames for outcome in every),
        frame_rates=dict(sorted(rates.items(), key=lambda item: float(item[0]))),
        class_counts=dict(sorted(labels.items())),
        skipped={o.name: o.reason for part in parts.values() for o in part if o.reason},
    )
