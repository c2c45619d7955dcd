"""Whether records can be trusted: their checksums, their frames, and what is said of them.

Every byte of every shard is read, every record held against the schema, `dataset_info.json` and the
manifest, and its JPEGs are decoded. What is wrong is collected, and stops nothing.
"""

import collections
import dataclasses
import os
import random
import re
from collections.abc import Iterator, Mapping
from concurrent.futures import Future, ThreadPoolExecutor
from typing import Any

import numpy as np
import tensorflow as tf
from etils import epath
from tqdm import tqdm

from cvrl_tf.data import schema
from cvrl_tf.preparation import manifest, tfrecord_writer

_CONTEXT = {
    schema.RECORD_VERSION: tf.io.FixedLenFeature([], tf.int64, 1),
    schema.TIMES: tf.io.VarLenFeature(tf.int64),
    schema.FILENAME: tf.io.FixedLenFeature([], tf.string),
    schema.VIDEO_ID: tf.io.FixedLenFeature([], tf.string),
    schema.START: tf.io.FixedLenFeature([], tf.int64),
    schema.END: tf.io.FixedLenFeature([], tf.int64),
    schema.FRAME_RATE: tf.io.FixedLenFeature([], tf.float32),
    schema.NUM_FRAMES: tf.io.FixedLenFeature([], tf.int64),
    schema.HEIGHT: tf.io.FixedLenFeature([], tf.int64),
    schema.WIDTH: tf.io.FixedLenFeature([], tf.int64),
    schema.LABEL_INDEX: tf.io.FixedLenFeature([], tf.int64, -1),
    schema.LABEL_TEXT: tf.io.FixedLenFeature([], tf.string, ""),
}
_SEQUENCE = {schema.FRAMES: tf.io.FixedLenSequenceFeature([], tf.string)}
_PREVIEW_FRAMES = 6

Place = tuple[str, int]  # shard, and number of the record in it, from 0


@dataclasses.dataclass(frozen=True, slots=True)
class Record:
    """What a record holds; the names are those of `manifest.Outcome`.

    Attributes:
      video_id: unique in the split.
      name: path of the video, as the annotation has it.
      label: name of its class; None in unlabeled data.
      num_frames: JPEGs.
      frame_rate: frames per second, 0 where unknown.
      height, width: of the frames, pixels.
      num_bytes: size of the record.
      offset: of the record's frame in the shard, bytes.
      problems: what is wrong with it, whatever the others hold.
      preview: JPEGs of six frames, evenly spaced, if they are to be shown.
    """

    video_id: str
    name: str
    label: str | None
    num_frames: int
    frame_rate: float
    height: int
    width: int
    num_bytes: int
    offset: int
    problems: list[str]
    preview: list[bytes]


@dataclasses.dataclass
class Report:
    """What was found in a split.

    Attributes:
      split: its name.
      records: those that could be read, in order.
      problems: a line each.
      strays: shards of another run beside ours.
      notes: what could not be checked, and why that is no fault.
    """

    split: str
    records: list[Record] = dataclasses.field(default_factory=list)
    problems: list[str] = dataclasses.field(default_factory=list)
    strays: list[str] = dataclasses.field(default_factory=list)
    notes: list[str] = dataclasses.field(default_factory=list)


def check(
    data_dir: str | os.PathLike[str],
    split: str | None = None,
    sample: int | None = None,
    num_previews: int = 0,
) -> list[Report]:
    """Checks one split, or all of them.

    Args:
      data_dir: folder of the records.
      split: its name; by default all that `dataset_info.json` names.
      sample: frames to decode of each record, evenly spaced; by default all.
      num_previews: records, drawn from all shards, that keep frames to be shown; the same ones
        every time.

    Raises:
      FileNotFoundError: no records there.
      ValueError: no such split, or `dataset_info.json` can't be read.
    """
    folder = epath.Path(data_dir)
    info = schema.DatasetInfo.load(folder)
    if not info.splits:
        raise ValueError(
            f"{os.fspath(folder / schema.INFO_FILE)!r} names no split: the preparation is not "
            "done. Give the same tools/make_tfrecords.py command again, which goes on."
        )
    splits = {name: info.split(name) for name in ([split] if split else info.splits)}
    places = [
        (shard, number)
        for each in splits.values()
        for shard, size in each.shards.items()
        for number in range(size)
    ]
    shown = set(random.Random(0).sample(places, min(num_previews, len(places))))
    return [_SplitCheck(folder, info, name, sample, shown).run() for name in splits]


class _SplitCheck:
    """The state of a check: what has been seen so far, and the report."""

    def __init__(
        self,
        folder: epath.Path,
        info: schema.DatasetInfo,
        split: str,
        sample: int | None,
        shown: set[Place],
    ) -> None:
        """Args: as `check`, and the records that keep frames to be shown."""
        self._folder = folder
        self._info = info
        self._split = info.splits[split]
        self._sample = sample
        self._shown = shown
        self._report = Report(split)
        self._manifest = f"{split}_manifest.jsonl"
        self._written = self._read_manifest()
        self._ids: dict[str, Place] = {}
        self._names: dict[str, Place] = {}
        self._unread: set[str] = set()  # shards of which not all records could be read
        self._shifted: set[str] = set()  # shards in which a record is not where it was written
        self._num_frames = 0

    def run(self) -> Report:
        self._find_strays()
        workers = len(os.sched_getaffinity(0))
        total = self._split.num_examples
        with (
            ThreadPoolExecutor(workers) as pool,
            tqdm(total=total, desc=self._report.split, unit=" videos") as bar,
        ):
            for shard, size in self._split.shards.items():
                self._check_shard(shard, size, pool, 2 * workers, bar)
        self._find_missing()
        self._compare_totals()
        return self._report

    def _problem(self, place: str | Place, what: str, video_id: str | None = None) -> None:
        where = place if isinstance(place, str) else f"{place[0]}, record {place[1]}"
        video = "" if video_id is None else f", video {video_id!r}"
        self._report.problems.append(f"{where}{video}: {what}")

    def _read_manifest(self) -> dict[str, manifest.Outcome] | None:
        """The videos that were written, by name."""
        path = self._folder / self._manifest
        if not path.exists():
            self._report.notes.append(
                f"There is no {self._manifest}, as of subsets, to compare the records with."
            )
            return None
        try:
            return {o.name: o for o in manifest.read(path) if not o.reason}
        except ValueError as error:
            self._problem(self._manifest, str(error))
            return None

    def _find_strays(self) -> None:
        shard = re.compile(rf"{re.escape(self._report.split)}-\d+-of-\d+")
        names = {path.name for path in self._folder.iterdir() if shard.fullmatch(path.name)}
        self._report.strays = sorted(names - self._split.shards.keys())
        for name in self._report.strays:
            self._problem(name, f"{schema.INFO_FILE} does not name it: a shard of another run")

    def _check_shard(
        self, shard: str, size: int, pool: ThreadPoolExecutor, ahead: int, bar: tqdm
    ) -> None:
        """Reads a shard; at most `ahead` records wait for their frames to be decoded."""
        path = self._folder / shard
        if not path.exists():
            self._unread.add(shard)
            self._problem(shard, f"missing, with its {size} records")
            return
        damage, number, offset = "", 0, 0
        waiting: collections.deque[tuple[Place, Future[Record]]] = collections.deque()
        try:
            for serialized in tf.data.TFRecordDataset(os.fspath(path)):
                place = shard, number
                future = pool.submit(
                    _inspect, serialized, offset, self._info, self._sample, place in self._shown
                )
                waiting.append((place, future))
                number += 1
                offset += tfrecord_writer.FRAME_BYTES + int(tf.strings.length(serialized))
                if len(waiting) > ahead:
                    self._take(*waiting.popleft(), bar)
        except tf.errors.OpError as error:
            damage = _reason(error)
        for place, future in waiting:
            self._take(place, future, bar)
        if damage:
            self._unread.add(shard)
            lost = f"it and what follows of {size} records can't be read"
            self._problem((shard, number), f"{damage}; {lost}")
        elif number != size:
            self._problem(shard, f"{number} records, but {schema.INFO_FILE} says {size}")

    def _take(self, place: Place, future: Future[Record], bar: tqdm) -> None:
        """Enters an inspected record, and compares it with the manifest and those before it."""
        try:
            record = future.result()
        except tf.errors.InvalidArgumentError as error:
            self._unread.add(place[0])
            self._problem(place, f"does not parse: {_reason(error)}")
            return
        self._report.records.append(record)
        self._num_frames += record.num_frames
        rate = self._num_frames / max(bar.format_dict["elapsed"], 1e-3)
        bar.set_postfix_str(f"{rate:,.0f} frames/s", refresh=False)
        bar.update()
        for what in [*record.problems, *self._unexpected(place, record)]:
            self._problem(place, what, record.video_id)

    def _unexpected(self, place: Place, record: Record) -> Iterator[str]:
        """What is wrong with a record where it is."""
        same_id = self._ids.setdefault(record.video_id, place)
        same_name = self._names.setdefault(record.name, place)
        if same_id != place:
            yield f"the video id is that of {same_id[0]}, record {same_id[1]}, too"
        elif same_name != place:
            yield f"{schema.FILENAME} is that of {same_name[0]}, record {same_name[1]}, too"
        if self._written is None:
            return
        outcome = self._written.get(record.name)
        if outcome is None:
            self._shifted.add(place[0])
            yield f"{record.name!r} is none of the videos that {self._manifest} says were written"
            return
        for field in ("label", "num_frames", "height", "width", "num_bytes"):
            found, said = getattr(record, field), getattr(outcome, field)
            if found != said:
                yield f"{field} is {found!r}, but {self._manifest} says {said!r}"
        if outcome.shard != place[0]:
            yield f"{self._manifest} has it in {outcome.shard}"
        elif outcome.offset not in (None, record.offset) and place[0] not in self._shifted:
            yield f"offset is {record.offset}, but {self._manifest} says {outcome.offset}"
        found_at = place[0], record.offset, record.num_bytes
        if found_at != (outcome.shard, outcome.offset, outcome.num_bytes):
            self._shifted.add(place[0])

    def _find_missing(self) -> None:
        missing = collections.defaultdict(list)
        for outcome in (self._written or {}).values():
            if outcome.name not in self._names and outcome.shard not in self._unread:
                missing[outcome.shard].append(outcome.name)
        for shard, names in missing.items():
            what = f"{len(names)} videos that {self._manifest} has in it are in no shard"
            self._problem(shard, f"{what}, the first is {names[0]!r}")

    def _compare_totals(self) -> None:
        if self._unread:
            self._report.notes.append(
                f"The totals of {schema.INFO_FILE} are not compared: not all records could be read."
            )
            return
        records = self._report.records
        labels = collections.Counter(r.label for r in records if r.label is not None)
        rates: collections.Counter[str] = collections.Counter()
        for rate, count in collections.Counter(record.frame_rate for record in records).items():
            rates[_rounded(rate, self._split.frame_rates)] += count
        for field, said, found in (
            ("num_frames", {"": self._split.num_frames}, {"": self._num_frames}),
            ("class_counts", self._split.class_counts, labels),
            ("frame_rates", self._split.frame_rates, rates),
        ):
            for what in _differences(said, found):
                self._problem(f"{schema.INFO_FILE}, {self._report.split}, {field}", what)


def _inspect(
    serialized: tf.Tensor,
    offset: int,
    info: schema.DatasetInfo,
    sample: int | None,
    is_shown: bool,
) -> Record:
    """Parses a record and decodes its frames.

    Args:
      serialized: string [], a `tf.train.SequenceExample`.
      offset: of the record's frame in the shard, bytes.
      info: of the data set.
      sample: frames to decode, evenly spaced; None for all.
      is_shown: whether to keep a preview.

    Raises:
      tf.errors.InvalidArgumentError: it does not parse.
    """
    context, sequence = tf.io.parse_single_sequence_example(serialized, _CONTEXT, _SEQUENCE)
    jpegs = sequence[schema.FRAMES].numpy()
    times = context.pop(schema.TIMES).values.numpy()
    fields = {key: value.numpy() for key, value in context.items()}
    size = height, width = int(fields[schema.HEIGHT]), int(fields[schema.WIDTH])
    problems = []
    if (said := int(fields[schema.NUM_FRAMES])) != len(jpegs) or not said:
        problems.append(f"{len(jpegs)} frames, but {schema.NUM_FRAMES} is {said}")
    if min(size) != info.short_side:
        problems.append(f"{height}x{width} pixels, but the short side is {info.short_side}")
    problems.extend(_wrong_with_times(times, len(jpegs), fields))
    index, text = int(fields[schema.LABEL_INDEX]), os.fsdecode(fields[schema.LABEL_TEXT])
    labels = dict(enumerate(info.labels))
    if index not in labels and index != -1:
        problems.append(f"label {index} is none of the {len(labels)} of {schema.INFO_FILE}")
    elif text != labels.get(index, ""):
        problems.append(f"label {index} is {labels.get(index)!r}, but the text is {text!r}")
    for number in _evenly_spaced(len(jpegs), sample or len(jpegs)):
        if what := _wrong_with(jpegs[number], size):
            problems.append(f"frame {number} {what}")
    return Record(
        video_id=os.fsdecode(fields[schema.VIDEO_ID]),
        name=os.fsdecode(fields[schema.FILENAME]),
        label=labels.get(index),
        num_frames=len(jpegs),
        frame_rate=float(fields[schema.FRAME_RATE]),
        height=height,
        width=width,
        num_bytes=len(serialized.numpy()),
        offset=offset,
        problems=problems,
        preview=[jpegs[i] for i in _evenly_spaced(len(jpegs), _PREVIEW_FRAMES) if is_shown],
    )


def _wrong_with_times(
    times: np.ndarray, num_frames: int, fields: Mapping[str, Any]
) -> Iterator[str]:
    """Says what is wrong with the version of a record and the times of its frames.

    Args:
      times: int64 [L], microseconds.
      num_frames: JPEGs of the record.
      fields: the context of the record.
    """
    version = int(fields[schema.RECORD_VERSION])
    if not 1 <= version <= schema.VERSION:
        yield f"{schema.RECORD_VERSION} is {version}, but 1 to {schema.VERSION} are known"
    if len(times) == num_frames:
        for number in np.flatnonzero(np.diff(times) < 0)[:1]:
            yield (
                f"{schema.TIMES} decreases from {times[number]} to {times[number + 1]} "
                f"at frame {number + 1}"
            )
    elif len(times) or (version > 1 and fields[schema.FRAME_RATE] > 0):
        yield f"{num_frames} frames, but {schema.TIMES} has {len(times)} values"


def _evenly_spaced(length: int, count: int) -> list[int]:
    """Indices of so many of `length` frames, from the first to the last."""
    return np.linspace(0, length - 1, min(length, count)).round().astype(int).tolist()


def _wrong_with(jpeg: bytes, size: tuple[int, int]) -> str:
    """What is wrong with a frame that should be of (height, width) pixels; empty if nothing."""
    try:
        found = tuple(tf.io.extract_jpeg_shape(jpeg)[:2].numpy())  # unlike decode_jpeg, of no PNG
        tf.io.decode_jpeg(jpeg)
    except tf.errors.InvalidArgumentError:
        return f"({len(jpeg)} bytes) does not decode as a JPEG"
    return "" if found == size else f"has {found[0]}x{found[1]} pixels, not {size[0]}x{size[1]}"


def _reason(error: tf.errors.OpError) -> str:
    """The message, less the names of the ops."""
    return error.message.split("}} ")[-1].split(" [Op:")[0].splitlines()[0]


def _rounded(rate: float, keys: Mapping[str, int]) -> str:
    """A frame rate as `dataset_info.json` has it.

    Which rounds what the video says; the record has it in float32, and may round the other way.
    """
    nearest = min(keys, key=lambda key: abs(float(key) - rate), default="")
    return nearest if nearest and np.isclose(float(nearest), rate, rtol=1e-5) else f"{rate:g}"


def _differences(said: Mapping[str, int], found: Mapping[str, int]) -> Iterator[str]:
    """A line for every key that doesn't have the same count in both."""
    for key in sorted({*said, *found}):
        if said.get(key, 0) != found.get(key, 0):
            name = f"{key!r}: " if key else ""
            yield f"{name}{said.get(key, 0):,}, but the records have {found.get(key, 0):,}"
