"""The clips nearest to a query, among those of a file that `embedding` wrote."""

import dataclasses
import os
from pathlib import Path
from typing import Any

import numpy as np
from etils import epath

from cvrl_tf import files
from cvrl_tf.inference import feature_file
from cvrl_tf.inference.feature_file import ClipFeatures
from cvrl_tf.measures import neighbors

# Above so many clips their features stay on the disk, at half precision, as an index of Faiss.
EXACT = 50_000


class Index:
    """Features by which to search."""

    def __init__(self, path: str | Path) -> None:
        """Args:
          path: .parquet or .npz file. Beside a .parquet file of more than `EXACT` clips, an index
            is made once, `PATH.faiss`.

        Raises:
          FileNotFoundError, ValueError: see `ClipFeatures.load`.
        """
        self.path = Path(path)
        self._faiss = None
        if self.path.suffix == ".parquet" and _num_rows(self.path) > EXACT:
            self.clips = ClipFeatures.load(path, with_results=False)
            self._faiss = _faiss_index(self.path)
        else:
            self.clips = ClipFeatures.load(path)
            feature = self.clips.results.get("feature")
            if feature is None or feature.ndim != 2:
                raise ValueError(
                    f"{str(path)!r} has no column of features: embed the videos again."
                )

        facts = self.clips.facts
        known = {"model", "fingerprint"} <= facts.keys() and isinstance(facts.get("views"), dict)
        if not known:
            raise ValueError(
                f"{str(path)!r} is not what cvrl_tf.embed writes: it does not say of which model "
                "and views it is."
            )

    def nearest(self, query: np.ndarray, count: int) -> tuple[np.ndarray, np.ndarray]:
        """Find the clips most similar to features.

        Args:
          query: float32 [Q, D].
          count: K of them, at most as many as there are.

        Returns:
          rows int [Q, K], the most similar first, and cosines float32 [Q, K].
        """
        count = min(count, len(self.clips.videos))
        if self._faiss is None:
            return neighbors.nearest(query, self.clips.results["feature"], count)
        cosines, rows = self._faiss.search(neighbors.unit(query), count)
        return rows, cosines

    def nearest_videos(self, query: np.ndarray, count: int) -> list["Found"]:
        """Find the most similar clip of each video, the most similar videos first.

        Args:
          query: float32 [D].
          count: of videos.
        """
        asked = count
        while True:
            (rows,), (cosines,) = self.nearest(query[np.newaxis], asked)
            _, first = np.unique(self.clips.videos[rows], return_index=True)
            if len(first) >= count or asked >= len(self.clips.videos):
                break
            asked *= 4
        return [
            Found(
                str(self.clips.videos[row]),
                float(self.clips.starts[row]),
                float(self.clips.ends[row]),
                float(cosine),
            )
            for row, cosine in ((rows[i], cosines[i]) for i in sorted(first)[:count])
        ]


@dataclasses.dataclass(frozen=True)
class Found:
    """A clip, and how similar it is.

    Attributes:
      video: path as it was given.
      start, end: seconds; not a number where they are unknown.
      cosine: of its feature with the query's.
    """

    video: str
    start: float
    end: float
    cosine: float


def _num_rows(path: Path) -> int:
    from pyarrow import parquet

    return parquet.ParquetFile(path).metadata.num_rows if path.is_file() else 0


def _faiss_index(path: Path) -> Any:
    """The index beside a file, made if it is not there or not of this file.

    It has the file's time of change, by which it is known.
    """
    import faiss
    from pyarrow import parquet

    place, stat = epath.Path(f"{path}.faiss"), path.stat()
    if not place.exists() or os.stat(place).st_mtime_ns != stat.st_mtime_ns:
        print(f"Making the index {place}.", flush=True)
        index: Any = None
        for batch in parquet.ParquetFile(path).iter_batches(columns=["feature"]):
            rows = neighbors.unit(feature_file.to_numpy(batch["feature"]))
            if index is None:
                # Every feature is looked at, in half precision: no neighbor is lost, whatever the
                # features are like, and there is nothing to tune.
                index = faiss.IndexScalarQuantizer(
                    rows.shape[1],
                    faiss.ScalarQuantizer.QT_fp16,
                    faiss.METRIC_INNER_PRODUCT,
                )
            index.add(rows)
        aside = files.aside_of(place)
        try:
            faiss.write_index(index, str(aside))
            os.utime(aside, ns=(stat.st_atime_ns, stat.st_mtime_ns))
            files.publish(aside, place)
        except RuntimeError:  # the folder can't be written to, or is full
            return index
        finally:
            aside.unlink(missing_ok=True)
    return faiss.read_index(str(place), faiss.IO_FLAG_MMAP)
