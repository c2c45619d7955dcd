"""Times of frames from the time stamps of a container, which may be missing or wrong."""

_LONGEST = 108_000.0  # seconds, 30 hours; FFmpeg's `dts_error_threshold`
_LONGEST_OF_BROADCAST = 10.0  # FFmpeg's `dts_delta_threshold`


class Clock:
    """Turns time stamps into times that only go forward.

    A stamp that is missing, goes back, or jumps is replaced: the frame then begins where the one
    before it ends. The stamps behind it are moved along, unless they fit as they are.

    Attributes:
      mended: Number of frames whose stamp was replaced.
      is_known: Whether the times can be true; not if a stamp was replaced and no duration is known.
    """

    def __init__(self, origin: float, duration: float, may_restart: bool) -> None:
        """Starts before the first frame.

        Args:
          origin: The stamp that is time 0, seconds.
          duration: Of a frame that doesn't say its own, seconds; 0 if unknown.
          may_restart: Whether the container may join recordings, each with a clock of its own, as
            MPEG transport streams do. A pause of 10 seconds then is a jump.
        """
        self.mended = 0
        self.is_known = True
        self._origin = origin
        self._duration = duration
        self._longest = max(_LONGEST_OF_BROADCAST, 2 * duration) if may_restart else _LONGEST
        self._shift = 0.0  # seconds that are added to the stamps behind a mended one
        self._last: float | None = None
        self._due = 0.0  # when the last frame ends

    def time(self, stamp: float | None, duration: float, is_usual: bool = False) -> float:
        """Returns when a frame is shown, in seconds; greater than of the frame before.

        Args:
          stamp: Seconds; None if the frame has none.
          duration: Of the frame, seconds; 0 if it doesn't say.
          is_usual: Whether a sound video may well have no stamp here.
        """
        seconds = self._fitting(stamp)
        if seconds is None:
            seconds = self._due
            self.mended += not is_usual
            self.is_known &= self._last is None or self._due > self._last
            if stamp is not None:
                self._shift = seconds - (stamp - self._origin)
        self._last = seconds
        self._due = seconds + (duration or self._duration)
        return seconds

    def _fitting(self, stamp: float | None) -> float | None:
        """Returns the time that a stamp means; None if it can't be true."""
        if stamp is None:
            return None
        seconds = stamp - self._origin
        if self._last is None:
            return seconds if abs(seconds) < _LONGEST else None
        for moved in (seconds, seconds + self._shift):
            if 0 < moved - self._last <= self._longest:
                return moved
        return None
