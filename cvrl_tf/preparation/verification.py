"""Check that records are undamaged and agree with what is written about them.

A check reads every byte of every shard. It compares every record with the schema, with
`dataset_info.json` and with the manifest, and decodes its JPEGs. Problems are collected; none of
them stops the check.
"""

import collections
import dataclasses
import os
import random
import re
from collections.abc import Iterator, Mapping
from concurrent.futures import Future, ThreadPoolExecutor

import joblib
import numpy as np
import tensorflow as tf
from etils import epath
from tqdm import tqdm

from cvrl_tf.data import schema, shard_index
from cvrl_tf.preparation import inspection, manifest, tfrecord_writer
from cvrl_tf.preparation.inspection import Record

Place = tuple[str, int]  # shard, and number of the record in it, from 0


@dataclasses.dataclass
class Report:
    """The result of checking a split.

    Attributes:
      split: its name.
      records: all that could be read, in order.
      problems: one line each.
      strays: shards of another run in the same folder.
      notes: what could not be checked although nothing is wrong.
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
    """Check one split, or all splits.

    Args:
      data_dir: folder of the records.
      split: name of the split; None for all in `dataset_info.json`.
      sample: number of frames to decode of each record, evenly spaced; None for all.
      num_previews: number of records that keep a preview. They are drawn from all shards, and are
        the same in every check.

    Raises:
      FileNotFoundError: the folder has no records.
      ValueError: there is no such split, or `dataset_info.json` can't be read.
    """
    folder = epath.Path(data_dir)
    info = _load_info(folder)
    splits = {name: info.split(name) for name in ([split] if split else info.splits)}
    places = [
        (shard, number)
        for each in splits.values()
        for shard, size in each.shards.items()
        for number in range(size)
    ]
    shown = set(random.Random(0).sample(places, min(num_previews, len(places))))
    return [_SplitCheck(folder, info, name, sample, shown).run() for name in splits]


def _load_info(folder: epath.Path) -> schema.DatasetInfo:
    path = os.fspath(folder / schema.INFO_FILE)
    info = schema.DatasetInfo.load(folder)
    if not info.splits:
        raise ValueError(
            f"{path!r} names no split: the preparation is not complete. "
            "Rerun the same tools/make_tfrecords.py command; it resumes."
        )
    return info


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
        """Args: as of `check`, and `shown`, the records that keep a preview."""
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
        self._unread: set[str] = set()  # shards with records that could not be read
        self._shifted: set[str] = set()  # shards in which a record is not where it was written
        self._num_frames = 0

    def run(self) -> Report:
        """Check the split and return the report."""
        self._find_strays()
        workers = joblib.cpu_count()
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
        """Return the videos that were written, by name; None without a readable manifest."""
        path = self._folder / self._manifest
        if not path.exists():
            self._report.notes.append(
                f"Records are not compared with {self._manifest}: there is none. Subsets have none."
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
        """Read a shard, with at most `ahead` records waiting to be decoded."""
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
                    inspection.inspect_record,
                    serialized,
                    offset,
                    self._info,
                    self._sample,
                    place in self._shown,
                )
                waiting.append((place, future))
                number += 1
                offset += tfrecord_writer.FRAME_BYTES + int(tf.strings.length(serialized))
                if len(waiting) > ahead:
                    self._take(*waiting.popleft(), bar)
        except tf.errors.OpError as error:
            damage = inspection.short_message(error)
        for place, future in waiting:
            self._take(place, future, bar)
        if damage:
            self._unread.add(shard)
            lost = f"this record and those after it, of {size}, can't be read"
            self._problem((shard, number), f"{damage}; {lost}")
            return
        if number != size:
            self._problem(shard, f"{number} records, but {schema.INFO_FILE} says {size}")
        self._check_index(shard)

    def _check_index(self, shard: str) -> None:
        """Compare the index of a whole shard with what a new one would be."""
        path = self._folder / shard
        try:
            index = shard_index.ShardIndex.load(shard_index.path_of(path))
            if index != shard_index.scan(path):
                self._problem(shard, "its index is of another shard; see tools/index_tfrecords.py")
        except FileNotFoundError:
            self._problem(shard, "has no index; see tools/index_tfrecords.py")
        except shard_index.Damaged as error:
            self._problem(shard, str(error))

    def _take(self, place: Place, future: Future[Record], bar: tqdm) -> None:
        """Add a record to the report, and its problems."""
        try:
            record = future.result()
        except tf.errors.InvalidArgumentError as error:
            self._unread.add(place[0])
            self._problem(place, f"does not parse: {inspection.short_message(error)}")
            return
        self._report.records.append(record)
        self._num_frames += record.num_frames
        rate = self._num_frames / max(bar.format_dict["elapsed"], 1e-3)
        bar.set_postfix_str(f"{rate:,.0f} frames/s", refresh=False)
        bar.update()
        for what in [*record.problems, *self._compare(place, record)]:
            self._problem(place, what, record.video_id)

    def _compare(self, place: Place, record: Record) -> Iterator[str]:
        """Compare a record with those before it and with the manifest."""
        same_id = self._ids.setdefault(record.video_id, place)
        same_name = self._names.setdefault(record.name, place)
        if same_id != place:
            yield f"{same_id[0]}, record {same_id[1]}, has the same video id"
        elif same_name != place:
            yield f"{same_name[0]}, record {same_name[1]}, has the same {schema.FILENAME}"
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
            yield f"{self._manifest} says that it is in {outcome.shard}"
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
            what = f"{len(names)} videos that {self._manifest} says are in it are in no shard"
            self._problem(shard, f"{what}; the first is {names[0]!r}")

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


def _rounded(rate: float, keys: Mapping[str, int]) -> str:
    """Return a frame rate as `dataset_info.json` has it.

    That file rounds the number of the video. The record stores the number as float32, which may
    round the other way.
    """
    nearest = min(keys, key=lambda key: abs(float(key) - rate), default="")
    return nearest if nearest and np.isclose(float(nearest), rate, rtol=1e-5) else f"{rate:g}"


def _differences(said: Mapping[str, int], found: Mapping[str, int]) -> Iterator[str]:
    """Yield a line for every key whose counts differ."""
    for key in sorted({*said, *found}):
        if said.get(key, 0) != found.get(key, 0):
            name = f"{key!r}: " if key else ""
            yield f"{name}{said.get(key, 0):,}, but the records have {found.get(key, 0):,}"
