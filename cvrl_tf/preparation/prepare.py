"""Turns videos into records: shards of `tf.train.SequenceExample` and their `dataset_info.json`.

The content of a shard depends on the videos, the seed and the number of shards alone. It does not
depend on who writes it: workers on one machine, tasks of a scheduler, or Beam. A shard gets its
name only when it is whole, and whole shards are not made again. Interrupted runs resume: rerun the
same command, and it ends with the same bytes. A video that can't be used is reported, and stops
nothing.
"""

import collections
import dataclasses
import hashlib
import json
import os
import random
import re
from collections.abc import Callable, Iterable
from typing import Any

from etils import epath

from cvrl_tf import files
from cvrl_tf.data import schema, shard_index
from cvrl_tf.preparation import manifest
from cvrl_tf.preparation.annotations import IGNORED, Video
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
    name: str | None = None,
) -> schema.SplitInfo | None:
    """Writes the videos as the shards of a split and enters it in `dataset_info.json`.

    The first split of a folder settles the name, the labels and the short side for those that
    follow. Beside the shards stand `SPLIT_manifest.jsonl`, what became of every video, and
    `SPLIT_options.json`.

    Args:
      videos: with distinct names. Those with a reason in `left_out` are only named in the manifest.
      output: folder, which may hold other splits.
      split: its name, with which the shards' names begin.
      frames: how they are stored.
      num_shards: by default one for every 32 videos, at most 1,024.
      seed: of the shuffle of the videos over the shards.
      write: makes shards of the given names: `shards.write_shards`, `beam.write_shards`.
      part: (i, n) to write every n-th shard, from the i-th on, of n tasks that share the work.
      name: of the data set, as results report it; by default the name of the folder.

    Returns:
      What was written and what was skipped; None if other parts are not done yet. The last part to
      be done enters the split.

    Raises:
      ValueError: an argument doesn't fit the others, the folder or the work begun there; or no
        video could be used.
      OSError: `output` can't be written to, or another process writes the same shards.
      RuntimeError: shards aren't written for a reason that lies in no video.
    """
    folder, frames = epath.Path(output), frames or FrameOptions()
    left_out = [Outcome(v.name, v.label, "", v.left_out) for v in videos if v.left_out]
    videos = sorted((v for v in videos if not v.left_out), key=lambda video: video.name)
    if num_shards is None:
        num_shards = min(_MAX_SHARDS, -(-len(videos) // _VIDEOS_PER_SHARD))
    _check_shares(len(videos), num_shards, part)
    _check_output(folder, split)
    options = {**dataclasses.asdict(frames), "num_shards": num_shards, "seed": seed}
    options.update(_digest(videos))
    with schema.DatasetInfo.locked(folder):
        info = _begin(folder, split, videos, options, name)
    shards = _deal(videos, split, num_shards, seed)
    if split in info.splits:  # the same command has done all this
        return _entered(folder, info.splits[split], shards)
    task, num_tasks = part
    mine = list(shards)[task::num_tasks]
    lock = folder / f".{split}-{task}-of-{num_tasks}.lock"
    with files.locked(lock, "it does the same work; wait for it, or stop it"):
        try:
            if todo := {shard: shards[shard] for shard in mine if not is_done(folder, shard)}:
                write(todo, Job(folder, info.labels, frames))
        finally:
            _remove_unfinished(folder, mine)
    with schema.DatasetInfo.locked(folder):
        now = _begin(folder, split, videos, options, info.name)
        if split in now.splits:  # another task was done at the same moment, and was faster
            return _entered(folder, now.splits[split], shards)
        if now.labels != info.labels:
            raise ValueError(
                f"The labels in {os.fspath(folder / schema.INFO_FILE)!r} were {info.labels} at the "
                f"beginning and are {now.labels} now: delete the shards of {split!r}, and make the "
                "split again."
            )
        if not all(is_done(folder, shard) for shard in shards):
            return None
        return _enter(folder, split, list(shards), left_out, frames.fps)


def _begin(
    folder: epath.Path,
    split: str,
    videos: list[Video],
    options: dict[str, Any],
    name: str | None,
) -> schema.DatasetInfo:
    """Settles what the folder and the split are, or compares; under the lock of the folder.

    Raises:
      ValueError: the folder or the work begun there is another.
    """
    info = _open_info(folder, options["short_side"], videos, name)
    if split not in info.splits:  # a finished split stays as it is, whatever its version
        options = {**options, "version": schema.VERSION}
    _check_options(folder / f"{split}_options.json", options)
    return info


def _check_shares(num_videos: int, num_shards: int, part: tuple[int, int]) -> None:
    """Raises ValueError if the shards can't be shared out."""
    if not 1 <= num_shards <= num_videos:
        raise ValueError(f"{num_shards} shards for {num_videos} videos: give at most as many.")
    task, num_tasks = part
    if not 0 <= task < num_tasks <= num_shards:
        raise ValueError(
            f"Task {task} of {num_tasks} for {num_shards} shards: tasks count from 0, and there "
            "are at most as many as shards."
        )


def _deal(videos: list[Video], split: str, num_shards: int, seed: int) -> dict[str, list[Video]]:
    """Shuffles the videos and deals them out to the shards."""
    videos = _with_ids(videos)
    random.Random(seed).shuffle(videos)
    names = [f"{split}-{i:05d}-of-{num_shards:05d}" for i in range(num_shards)]
    return {name: videos[i::num_shards] for i, name in enumerate(names)}


def _remove_unfinished(folder: epath.Path, shards: list[str]) -> None:
    """Deletes what killed workers have left of these shards, and nothing that one is at."""
    for leftover in [*folder.glob(".*.tmp"), *folder.glob(f"{shard_index.FOLDER}/.*.tmp")]:
        is_ours = leftover.name.lstrip(".")[: len(shards[0])] in shards
        if is_ours and files.is_abandoned(leftover):
            leftover.unlink(missing_ok=True)


def _enter(
    output: epath.Path, split: str, shards: list[str], left_out: list[Outcome], fps: float | None
) -> schema.SplitInfo:
    """Merges the shards' manifests, and enters the split; under the lock of the folder."""
    parts = {name: manifest.read(manifest_of(output, name)) for name in shards}
    parts[""] = left_out
    written = dataclasses.replace(_summarize(parts), fps=fps)
    outcomes = sorted((o for part in parts.values() for o in part), key=lambda o: o.name)
    manifest.write(output / f"{split}_manifest.jsonl", outcomes)
    if not written.num_examples:
        for name in shards:
            manifest_of(output, name).unlink()  # or another try would not look at them
        reasons = "; ".join(f"{name}: {why}" for name, why in [*written.skipped.items()][:5])
        raise ValueError(
            f"None of {len(written.skipped)} videos can be used, nothing written. {reasons}"
        )
    info = schema.DatasetInfo.load(output)
    info.splits[split] = written
    info.save(output)
    return _entered(output, written, shards)


def _entered(
    output: epath.Path, split: schema.SplitInfo, shards: Iterable[str]
) -> schema.SplitInfo:
    """Removes what only a split needs that is not entered yet."""
    for name in shards:
        manifest_of(output, name).unlink(missing_ok=True)
    return split


def _check_output(output: epath.Path, split: str) -> None:
    """Makes the folder.

    Raises:
      ValueError: the split is no word.
      OSError: the folder can't be made or written to.
    """
    if not re.fullmatch(r"\w[\w.-]*", split):
        raise ValueError(f"The split {split!r} must be a word: it begins the shards' names.")
    output.mkdir(parents=True, exist_ok=True)
    probe = files.aside_of(output / "probe")
    probe.touch()  # an error, if there is one, names the folder
    probe.unlink()


def _digest(videos: list[Video]) -> dict[str, Any]:
    """Returns what tells one list of videos from another."""
    facts = [(v.name, v.label, v.start, v.end) for v in videos]
    return {
        "num_videos": len(videos),
        "videos_sha256": hashlib.sha256(json.dumps(facts).encode()).hexdigest(),
    }


def _check_options(path: epath.Path, options: dict[str, Any]) -> None:
    """Writes the options of a split, or compares them with those that are there.

    Raises:
      ValueError: they differ.
    """
    if not path.exists():
        files.write_text(path, json.dumps(options, indent=2) + "\n")
        return
    # Options that older versions did not have.
    unsaid = {"version": 1, "max_pixels": options["max_pixels"]}
    before = {**unsaid, **json.loads(path.read_text())}
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


def _open_info(
    output: epath.Path, short_side: int, videos: list[Video], name: str | None = None
) -> schema.DatasetInfo:
    """Reads the folder's `dataset_info.json`, or writes it if there is none.

    It is written before any work, so that a second split, even one that is made at the same time,
    finds the same labels.

    Raises:
      ValueError: the file says something else.
    """
    names = {video.label for video in videos if video.label is not None}
    numbers = all(name.isdecimal() for name in names)
    labels = sorted(names, key=lambda name: (int(name) if numbers else 0, name))
    if not (output / schema.INFO_FILE).exists():
        info = schema.DatasetInfo(labels, short_side, {}, name or schema.folder_name(output))
        info.save(output)
        return info
    info = schema.DatasetInfo.load(output)
    if name and name != info.name:
        raise ValueError(
            f"The name is {name!r}, but {os.fspath(output / schema.INFO_FILE)!r} has "
            f"{info.name!r}: leave the name out, choose another folder, or set `name` there."
        )
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
    """Gives the videos ids: their names without the endings, or with them where two are alike."""
    stems = {video.name: os.path.splitext(video.name)[0] for video in videos}
    count = collections.Counter(stems.values())
    ids = {name: stem if count[stem] == 1 else name for name, stem in stems.items()}
    return [dataclasses.replace(video, id=ids[video.name]) for video in videos]


def _summarize(parts: dict[str, list[Outcome]]) -> schema.SplitInfo:
    """Counts what was written, by shard."""
    written = {name: [o for o in part if not o.reason] for name, part in parts.items()}
    every = [outcome for part in written.values() for outcome in part]
    rates = collections.Counter(f"{outcome.frame_rate:g}" for outcome in every)
    labels = collections.Counter(o.label for o in every if o.label is not None)
    return schema.SplitInfo(
        shards={name: len(part) for name, part in sorted(written.items()) if part},
        num_frames=sum(outcome.num_frames for outcome in every),
        frame_rates=dict(sorted(rates.items(), key=lambda item: float(item[0]))),
        class_counts=dict(sorted(labels.items())),
        skipped={
            o.name: o.reason
            for part in parts.values()
            for o in part
            if o.reason and not o.reason.startswith(IGNORED)
        },
    )
