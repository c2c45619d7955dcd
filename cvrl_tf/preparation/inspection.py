"""Read one record, decode its frames, and list what is wrong with it by itself."""

import dataclasses
import os
from collections.abc import Iterator, Mapping
from typing import Any

import numpy as np
import tensorflow as tf

from cvrl_tf.data import schema

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


@dataclasses.dataclass(frozen=True, slots=True)
class Record:
    """The content of a record. The fields are named as in `manifest.Outcome`.

    Attributes:
      video_id: unique in the split.
      name: path of the video, as in the annotation.
      label: name of its class; None in unlabeled data.
      num_frames: number of JPEGs.
      frame_rate: frames per second, 0 where unknown.
      height, width: of the frames, in pixels.
      num_bytes: size of the record.
      offset: of the record's frame in the shard, in bytes.
      problems: what is wrong with the record by itself.
      preview: JPEGs of six frames, evenly spaced, if a preview was asked for.
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


def inspect_record(
    serialized: tf.Tensor,
    offset: int,
    info: schema.DatasetInfo,
    sample: int | None,
    keep_preview: bool,
) -> Record:
    """Parse a record and decode its frames.

    Args:
      serialized: string [], a `tf.train.SequenceExample`.
      offset: of the record's frame in the shard, in bytes.
      info: of the data set.
      sample: number of frames to decode, evenly spaced; None for all.
      keep_preview: whether to keep JPEGs to show.

    Raises:
      tf.errors.InvalidArgumentError: the record does not parse.
    """
    context, sequence = tf.io.parse_single_sequence_example(serialized, _CONTEXT, _SEQUENCE)
    jpegs = sequence[schema.FRAMES].numpy()
    times = context.pop(schema.TIMES).values.numpy()
    fields = {key: value.numpy() for key, value in context.items()}
    index = int(fields[schema.LABEL_INDEX])
    size = height, width = int(fields[schema.HEIGHT]), int(fields[schema.WIDTH])
    problems = [
        *_problems_of_size(int(fields[schema.NUM_FRAMES]), len(jpegs), size, info.short_side),
        *_problems_of_times(times, len(jpegs), fields),
        *_problems_of_label(index, os.fsdecode(fields[schema.LABEL_TEXT]), info.labels),
        *_problems_of_frames(jpegs, size, sample or len(jpegs)),
    ]
    return Record(
        video_id=os.fsdecode(fields[schema.VIDEO_ID]),
        name=os.fsdecode(fields[schema.FILENAME]),
        label=dict(enumerate(info.labels)).get(index),
        num_frames=len(jpegs),
        frame_rate=float(fields[schema.FRAME_RATE]),
        height=height,
        width=width,
        num_bytes=len(serialized.numpy()),
        offset=offset,
        problems=problems,
        preview=[jpegs[i] for i in _evenly_spaced(len(jpegs), _PREVIEW_FRAMES) if keep_preview],
    )


def short_message(error: tf.errors.OpError) -> str:
    """Return the message of an error without the names of TensorFlow ops."""
    return error.message.split("}} ")[-1].split(" [Op:")[0].splitlines()[0]


def _problems_of_size(
    said: int, num_frames: int, size: tuple[int, int], short_side: int
) -> Iterator[str]:
    if said != num_frames or not said:
        yield f"{num_frames} frames, but {schema.NUM_FRAMES} is {said}"
    if min(size) != short_side:
        yield f"{size[0]}x{size[1]} pixels, but the short side is {short_side}"


def _problems_of_times(
    times: np.ndarray, num_frames: int, fields: Mapping[str, Any]
) -> Iterator[str]:
    """Check the version of a record and the times of its frames, int64 [L], microseconds."""
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


def _problems_of_label(index: int, text: str, labels: list[str]) -> Iterator[str]:
    known = dict(enumerate(labels))
    if index not in known and index != -1:
        yield f"label {index} is none of the {len(labels)} of {schema.INFO_FILE}"
    elif text != known.get(index, ""):
        yield f"label {index} is {known.get(index)!r}, but the text is {text!r}"


def _problems_of_frames(jpegs: np.ndarray, size: tuple[int, int], count: int) -> Iterator[str]:
    """Decode `count` of the frames, which should have (height, width) pixels."""
    for number in _evenly_spaced(len(jpegs), count):
        jpeg = jpegs[number]
        try:
            # Unlike decode_jpeg, extract_jpeg_shape refuses a PNG.
            found = tuple(tf.io.extract_jpeg_shape(jpeg)[:2].numpy())
            tf.io.decode_jpeg(jpeg)
        except tf.errors.InvalidArgumentError:
            yield f"frame {number} ({len(jpeg)} bytes) does not decode as a JPEG"
            continue
        if found != size:
            pixels = f"{found[0]}x{found[1]} pixels, not {size[0]}x{size[1]}"
            yield f"frame {number} has {pixels}"


def _evenly_spaced(length: int, count: int) -> list[int]:
    """Return indices of `count` of `length` frames, from the first to the last."""
    return np.linspace(0, length - 1, min(length, count)).round().astype(int).tolist()
