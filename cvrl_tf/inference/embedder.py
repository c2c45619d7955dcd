"""Videos of any codec to features, through an exported model.

Videos become records by the processes that `tools/make_tfrecords.py` has, a round of them at a time
while the model is at work on the round before, and views of the records as in evaluation: the
features are those that an evaluation on records of the same videos has.
"""

import contextlib
import hashlib
import math
import os
import queue
import shutil
import threading
from collections.abc import Generator, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import tensorflow as tf
from etils import epath

from cvrl_tf import checkpoints, files
from cvrl_tf.data import clips as clip_samplers
from cvrl_tf.data import records
from cvrl_tf.data.record_views import evaluation_views
from cvrl_tf.data.sampling import Sampling
from cvrl_tf.inference import feature_file
from cvrl_tf.inference.feature_file import ClipFeatures
from cvrl_tf.measures import neighbors
from cvrl_tf.preparation import manifest
from cvrl_tf.preparation.annotations import VIDEO_ENDINGS, Video
from cvrl_tf.preparation.decoding import FrameOptions
from cvrl_tf.preparation.manifest import Outcome
from cvrl_tf.preparation.progress import Bar
from cvrl_tf.preparation.shards import Job, manifest_of, write_shards

# Of a round; the frames of its videos take about ten times their bytes on the disk.
_VIDEOS_A_WORKER, _BYTES_A_ROUND = 32, 2**28

Results = dict[str, np.ndarray]


class Embedder:
    """An exported model, and the views that it takes of a video.

    Attributes:
      views: how they come about; see `saved_model`.
      classes: names of those that it tells; None if it tells none.
      frames: how videos are stored as the records that it takes them of.
      facts: by which a file of features says whose they are.
    """

    def __init__(
        self,
        model: str | Path,
        num_clips: int | None = None,
        num_crops: int | None = None,
        batch: int = 32,
        keep_truncated: bool = False,
    ) -> None:
        """Args:
          model: folder that `cvrl_tf.export` wrote.
          num_clips, num_crops: of a video and of a clip, if not as the export has it.
          batch: clips that the model sees at a time.
          keep_truncated: whether to take what decodes of a truncated video.

        Raises:
          FileNotFoundError, ValueError: see `facts_of`.
        """
        about = facts_of(model, num_clips, num_crops)
        self.classes = about.pop("classes")
        self.facts = about
        self.views = about["views"]
        self.frames = FrameOptions(
            self.views["short_side"],
            fps=self.views["record_fps"],
            keep_truncated=keep_truncated,
        )
        self._batch = batch
        self._loaded = tf.saved_model.load(str(model))  # keeps the variables
        self._signature = self._loaded.signatures["clips"]
        self._sampling = Sampling.of(self.views)
        self._clips = self._sampling.clips(self.views["num_clips"])
        counts = self.views["num_clips"], self.views["num_crops"]
        self._views_of = tf.function(
            lambda record: evaluation_views(record, self._sampling, *counts),
            input_signature=[tf.TensorSpec([], tf.string)],
        )

    @property
    def num_views(self) -> int:
        """Of a video, clips x crops."""
        return self.views["num_clips"] * self.views["num_crops"]

    def views_of(self, record: bytes) -> tf.Tensor:
        """Make the views of a video; see `record_views.evaluation_views`."""
        return self._views_of(record)

    def results_of(self, views: tf.Tensor, count: int) -> Results:
        """Run the model on views, uint8 [N * count, T, size, size, 3]: means of every
        `count`, by name, [N, D]; embeddings stay of length 1."""
        found: dict[str, list[np.ndarray]] = {}
        for begin in range(0, len(views), self._batch):
            for name, rows in self._signature(views[begin : begin + self._batch]).items():
                found.setdefault(name, []).append(rows.numpy())
        # Sorted, for TensorFlow gives them in any order, and the parts of a file must agree.
        return {name: averaged(name, np.concatenate(found[name]), count) for name in sorted(found)}

    def of_records(self, folder: Path, outcomes: Sequence[Outcome]) -> ClipFeatures:
        """Embed videos that were written into a folder, one shard each."""
        written = [outcome for outcome in outcomes if not outcome.reason]
        skipped = {outcome.name: outcome.reason for outcome in outcomes if outcome.reason}
        facts = {**self.facts, "skipped": skipped}
        if not written:
            return ClipFeatures.joined([], facts)
        shards = [str(folder / outcome.shard) for outcome in written]
        of_videos = records.in_order(shards).map(self._views_of, tf.data.AUTOTUNE)
        # As many videos at a time as make a batch.
        some = of_videos.batch(max(1, self._batch // self.num_views)).prefetch(1)
        some = records.ending_promptly(some)
        crops = self.views["num_crops"]
        parts = [self.results_of(tf.reshape(v, [-1, *v.shape[2:]]), crops) for v in some]
        results = {name: np.concatenate([part[name] for part in parts]) for name in parts[0]}
        times = [
            records.parse(serialized)["times"].numpy() for serialized in records.in_order(shards)
        ]
        spans = [self._spans(*each) for each in zip(written, times, strict=True)]
        starts, ends = np.concatenate(spans).T
        names = np.repeat([outcome.name for outcome in written], self._clips.num_clips)
        return ClipFeatures(names, starts, ends, results, facts)

    def _spans(self, outcome: Outcome, times: np.ndarray) -> np.ndarray:
        """Beginnings and ends of a video's clips, seconds, float [K, 2].

        Args:
          outcome: of the video.
          times: when each frame is shown, seconds, float [L].
        """
        rate, fps = outcome.frame_rate, self.views["fps"]
        placed = clip_samplers.place(
            self._clips,
            tf.constant(outcome.num_frames),
            tf.zeros([2], tf.int32),
            tf.constant(rate),
            fps,
        )
        begin = placed.frames[:, 0].numpy()
        reach = self._clips.num_frames * self._clips.stride * (rate / fps if rate and fps else 1)
        frames = np.stack([begin, np.minimum(begin + reach, outcome.num_frames)], axis=1)
        edges = np.append(times.astype(float), times[-1] + (1 / rate if rate else math.nan))
        return np.interp(frames, np.arange(len(edges)), edges)


def facts_of(
    model: str | Path, num_clips: int | None = None, num_crops: int | None = None
) -> dict[str, Any]:
    """Read what an export says of itself. It is not loaded, which would run its code.

    Args:
      model, num_clips, num_crops: as of `Embedder`.

    Returns:
      model, its path; fingerprint; views, how they come about; classes, names or None.

    Raises:
      FileNotFoundError: there is no such model.
      ValueError: what it says of itself is damaged.
    """
    path = Path(model) / checkpoints.EXPORT_FILE
    if not path.is_file():
        raise FileNotFoundError(
            f"No {checkpoints.EXPORT_FILE} in {str(model)!r}: give what cvrl_tf.export wrote."
        )
    about = files.read_json(path)
    try:
        views = about["views"]
        views["num_clips"] = num_clips or views["num_clips"]
        views["num_crops"] = num_crops or views["num_crops"]
        return {
            "model": os.path.abspath(model),
            "fingerprint": about["fingerprint"],
            "views": views,
            "classes": about["classes"],
        }
    except (KeyError, TypeError) as error:
        raise ValueError(f"{str(path)!r} is damaged, {error!r}: export the model again.") from error


def averaged(name: str, rows: np.ndarray, count: int) -> np.ndarray:
    """Average every `count` rows, [N * count, D] to [N, D]; embeddings stay of length 1."""
    means = rows.reshape(-1, count, rows.shape[1]).mean(axis=1)
    return neighbors.unit(means) if name == "embedding" else means


def listed(inputs: Sequence[str]) -> list[str]:
    """List videos: files as they are, and the files of folders that end like a video; each once.

    Raises:
      FileNotFoundError: a path is not there, or a folder has none.
      ValueError: a name is no text.
    """
    found: dict[str, None] = {}
    for name in inputs:
        path = Path(name)
        if path.is_dir():
            inside = (p for p in path.rglob("*") if p.suffix.lower() in VIDEO_ENDINGS)
            videos = sorted(str(p) for p in inside if p.is_file())
            if not videos:
                raise FileNotFoundError(f"No file in {name!r} has a video's ending.")
            found.update(dict.fromkeys(videos))
        elif path.exists():
            found[name] = None
        else:
            raise FileNotFoundError(f"No file or folder {name!r}.")
    for name in found:
        if not name.isprintable():
            raise ValueError(f"The file's name {name!r} can't be written as text: rename it.")
    return list(found)


def embed_videos(
    embedder: Embedder, videos: Sequence[str], output: str | Path, workers: int, show: bool = True
) -> dict[str, str]:
    """Embed videos into a file, in rounds that are kept, so an interrupted call resumes.

    Args:
      embedder: of the model.
      videos: paths, each once, in the order in which they are to stand in the file.
      output: file for `ClipFeatures`. Until it is there, `OUTPUT.parts` holds what is done.
      workers: processes that decode.
      show: a progress bar.

    Returns:
      Reasons by video, of those that could not be embedded.

    Raises:
      ValueError: `OUTPUT.parts` is of another model, other views or other videos; or nothing of any
        video could be embedded.
      OSError: the output is there, or another process writes it.
    """
    output = Path(output)
    lock = output.with_name(f".{output.name}.lock")
    with files.locked(lock, f"it writes {output.name}; wait for it, or choose another output"):
        if output.exists():
            raise FileExistsError(f"{str(output)!r} is there already.")
        return _embed_videos(embedder, videos, output, workers, show)


def _embed_videos(
    embedder: Embedder, videos: Sequence[str], output: Path, workers: int, show: bool
) -> dict[str, str]:
    """Embed videos under the lock of the output; see `embed_videos`."""
    parts = output.with_name(output.name + ".parts")
    parts.mkdir(parents=True, exist_ok=True)
    digest = hashlib.sha256("\n".join(videos).encode()).hexdigest()
    facts = {**embedder.facts, "videos_sha256": digest}
    done = sorted(parts.glob("*.npz"))
    skipped: dict[str, str] = {}
    seen: set[str] = set()
    for path in done:
        part = ClipFeatures.load(path)
        if changed := [name for name, value in facts.items() if part.facts[name] != value]:
            raise ValueError(
                f"{str(parts)!r} was begun with other {', '.join(changed)}: delete it, or choose "
                "another output."
            )
        skipped |= part.facts["skipped"]
        seen |= {*part.videos, *part.facts["skipped"]}
    left = [video for video in videos if video not in seen]
    known = {"total": len(videos), "initial": len(seen), "unit": " videos"}
    rounds = _rounds(left, parts, workers, embedder.frames)
    with Bar(**known, disable=not show) as bar, contextlib.closing(rounds):
        embedded = 0
        for folder, outcomes in rounds:
            part = embedder.of_records(folder, outcomes)
            part.facts["videos_sha256"] = digest
            done.append(parts / f"{len(done):06d}.npz")
            part.save(done[-1])
            shutil.rmtree(folder)
            skipped |= part.facts["skipped"]
            embedded += len(outcomes) - len(part.facts["skipped"])
            bar.update(len(outcomes))
            if show:
                rate = embedded * embedder.num_views / bar.format_dict["elapsed"]
                bar.set_postfix_str(f"{rate:.1f} views/s")
    if len(skipped) == len(videos):
        shutil.rmtree(parts)  # or the same call would find nothing left to do
        reasons = "; ".join(f"{name}: {reason}" for name, reason in list(skipped.items())[:5])
        raise ValueError(f"None of {len(videos)} videos can be embedded. {reasons}")
    feature_file.join(done, output, {**facts, "skipped": skipped})
    shutil.rmtree(parts)
    return skipped


def _rounds(
    videos: Sequence[str], parts: Path, workers: int, frames: FrameOptions
) -> Generator[tuple[Path, list[Outcome]], None, None]:
    """Folders of records, a shard a video, each made while the one before is looked at."""
    for leftover in parts.glob("round*"):
        shutil.rmtree(leftover)
    ready: queue.Queue[tuple[Path, list[Outcome]] | BaseException | None] = queue.Queue()
    wanted, stop = threading.Semaphore(1), threading.Event()

    def make() -> None:
        try:
            begin, size = 0, workers  # few at first: soon there is something to see
            while begin < len(videos) and wanted.acquire() and not stop.is_set():
                some = _round_of(videos[begin:], size)
                folder = parts / f"round{begin}"
                folder.mkdir()
                ready.put((folder, _written(some, folder, workers, frames, stop)))
                begin, size = begin + len(some), min(2 * size, _VIDEOS_A_WORKER * workers)
            ready.put(None)
        except BaseException as error:
            ready.put(error)

    thread = threading.Thread(target=make, daemon=True)
    thread.start()
    try:
        while (made := ready.get()) is not None:
            if isinstance(made, BaseException):
                raise made
            wanted.release()
            yield made
    finally:
        stop.set()
        wanted.release()
        thread.join()


def _round_of(videos: Sequence[str], size: int) -> list[str]:
    """The first videos, as many as `size` and their bytes allow; at least one."""
    some: list[str] = []
    total = 0
    for video in videos[:size]:
        total += os.path.getsize(video) if os.path.exists(video) else 0
        if some and total > _BYTES_A_ROUND:
            break
        some.append(video)
    return some


def _written(
    videos: Sequence[str], folder: Path, workers: int, frames: FrameOptions, stop: threading.Event
) -> list[Outcome]:
    """What became of videos, each written as a shard of its own."""
    names = [f"{number:06d}" for number in range(len(videos))]
    shards = {
        shard: [Video(epath.Path(video), video, None, id=video)]
        for shard, video in zip(names, videos, strict=True)
    }
    output = epath.Path(folder)
    write_shards(shards, Job(output, [], frames), workers, stop=stop)
    if stop.is_set():
        return []
    return [outcome for name in names for outcome in manifest.read(manifest_of(output, name))]
