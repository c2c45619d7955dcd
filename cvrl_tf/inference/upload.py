"""A video that somebody has sent, as a record; without TensorFlow, for processes that decode."""

import errno
import os

from cvrl_tf.data import schema
from cvrl_tf.preparation import decoding
from cvrl_tf.preparation.decoding import FrameOptions, UnusableVideo

_MOST_BYTES = 2**28  # of a record, in the server's memory
# FFmpeg opens much by what stands in it: lists of other files, addresses, pictures.
_CONTAINERS = "mov,mp4,m4a,3gp,3g2,mj2,matroska,webm,avi,mpeg,mpegvideo,mpegts,flv,ogg,asf"


class TooLong(Exception):
    """A video is longer than it may be."""


def prepare_process() -> None:
    """To be called once in a process that decodes what others send: it reads videos alone."""
    decoding.quiet()
    os.environ["OPENCV_FFMPEG_CAPTURE_OPTIONS"] = (
        f"protocol_whitelist;file|format_whitelist;{_CONTAINERS}"
    )


def record_of(path: str, options: FrameOptions) -> bytes:
    """Decodes a video into a `tf.train.SequenceExample`.

    Args:
      path: of the video.
      options: how its frames are stored; `max_seconds` is what it may last.

    Raises:
      UnusableVideo: it can't be decoded.
      TooLong: it lasts longer, or its frames take more than 256 MiB.
      OSError: there is no room for its frames.
    """
    try:
        encoded = decoding.encode_video(path, options)
    except UnusableVideo:
        raise
    except Exception as error:
        if isinstance(error, OSError) and error.errno in (errno.ENOSPC, errno.EDQUOT):
            raise  # no fault of the video's
        raise UnusableVideo(repr(error)) from None
    if encoded.goes_on or encoded.jpegs.num_bytes > _MOST_BYTES:
        raise TooLong
    return encoded.jpegs.example({schema.FRAME_RATE: encoded.frame_rate})
