"""Decodes an uploaded video into a record; without TensorFlow, for worker processes."""

import errno

from cvrl_tf.data import schema
from cvrl_tf.preparation import decoding, resources, tfrecord_writer
from cvrl_tf.preparation.decoding import FrameOptions, UnusableVideo

_MAX_BYTES = 2**28  # of a record, which is held in the server's memory


class TooLong(Exception):
    """A video is longer than the server accepts."""


def prepare_process() -> None:
    """Prepares a process for uploads."""
    decoding.quiet()
    resources.limit_memory()


def record_of(path: str, options: FrameOptions) -> bytes:
    """Decodes a video into a serialized `tf.train.SequenceExample`.

    Args:
      path: Path of the video.
      options: How its frames are stored; `max_seconds` is the longest accepted video.

    Raises:
      UnusableVideo: The video can't be decoded.
      TooLong: The video is too long, or its frames take more than 256 MiB, or it more memory than
        a process may have.
      OSError: There is no room for its frames.
    """
    try:
        encoded = decoding.encode_video(path, options)
        if encoded.goes_on or encoded.jpegs.num_bytes > _MAX_BYTES:
            raise TooLong
        context: tfrecord_writer.Context = {schema.FRAME_RATE: encoded.frame_rate}
        if encoded.times:
            context = {**context, schema.TIMES: encoded.times}
        return encoded.jpegs.example(context)
    except (UnusableVideo, TooLong):
        raise
    except Exception as error:
        if isinstance(error, OSError) and error.errno in (errno.ENOSPC, errno.EDQUOT):
            raise  # not the video's fault
        if resources.is_out_of_memory(error):
            raise TooLong from None
        raise UnusableVideo(repr(error)) from None
