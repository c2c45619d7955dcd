"""The progress bar of preparation and embedding."""

from tqdm import tqdm


class Bar(tqdm):
    """A bar that shows every update and has no thread.

    tqdm keeps its lock where writing fails, as on a closed pipe. Its monitor thread would wait for
    that lock, and the process for the thread. Update the bar in one thread alone.
    """

    monitor_interval = 0
