"""Video files to a file of features, in rounds.

Videos become records by the processes that `tools/make_tfrecords.py` has, a round of them at a time
while the model is at work on the round before.
"""

import contextlib
import hashlib
import os
import queue
import shutil
import threading
from collections.abc import Generator, Mapping, Sequence
from pathlib import Path

from etils import epath

from cvrl_tf import files
from cvrl_tf.inference import feature_file
from cvrl_tf.inference.embedder import Embedder
from cvrl_tf.inference.feature_file import ClipFeatures
from cvrl_tf.preparation import manifest
from cvrl_tf.preparation.annotations import Video, walk
from cvrl_tf.preparation.decoding import FrameOptions
from cvrl_tf.preparation.manifest import Outcome
from cvrl_tf.preparation.progress import Bar
from cvrl_tf.preparation.shards import Job, manifest_of, write_shards

# Of a round; the frames of its videos take about ten times their bytes on the disk.
_VIDEOS_A_WORKER, _BYTES_A_ROUND = 32, 2**28


def listed(inputs: Sequence[str]) -> tuple[list[str], dict[str, str]]:
    """List videos: files as they are, and the videos of folders, at any depth; each once.

    Returns:
      The videos, and the other files of the folders with the reasons why they are ignored.

    Raises:
      FileNotFoundError: a path is not there, or a folder has none.
    """
    found: dict[str, None] = {}
    ignored: dict[str, str] = {}
    for name in inputs:
        if os.path.isdir(name):
            inside = {os.fspath(path): reason for path, reason in walk(epath.Path(name))}
            videos = sorted(path for path, reason in inside.items() if not reason)
            if not videos:
                raise FileNotFoundError(f"No file in {name!r} has a video's ending.")
            found.update(dict.fromkeys(videos))
            ignored.update((path, reason) for path, reason in inside.items() if reason)
        elif os.path.exists(name):
            found[name] = None
        else:
            raise FileNotFoundError(f"No file or folder {name!r}.")
    return list(found), {path: ignored[path] for path in sorted(ignored.keys() - found.keys())}


def embed_videos(
    embedder: Embedder,
    videos: Sequence[str],
    output: str | Path,
    workers: int,
    show: bool = True,
    ignored: Mapping[str, str] | None = None,
) -> dict[str, str]:
    """Embed videos into a file, in rounds that are kept, so an interrupted call resumes.

    Args:
      embedder: of the model.
      videos: paths, each once, in the order in which they are to stand in the file.
      output: file for `ClipFeatures`. Until it is there, `OUTPUT.parts` holds what is done.
      workers: processes that decode.
      show: a progress bar.
      ignored: files that were taken for no videos, with the reasons; for the facts of the file.

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
        return _embed_videos(embedder, videos, output, workers, show, ignored or {})


def _embed_videos(
    embedder: Embedder,
    videos: Sequence[str],
    output: Path,
    workers: int,
    show: bool,
    ignored: Mapping[str, str],
) -> dict[str, str]:
    """Embed videos under the lock of the output; see `embed_videos`."""
    parts = output.with_name(output.name + ".parts")
    parts.mkdir(parents=True, exist_ok=True)
    digest = hashlib.sha256(os.fsencode("\n".join(videos))).hexdigest()
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
    feature_file.join(done, output, {**facts, "skipped": skipped, "ignored": {**ignored}})
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
