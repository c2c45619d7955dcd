"""Search by a video: embed it as the index was, and find the clips most similar to it."""

import dataclasses
import tempfile
from pathlib import Path

from cvrl_tf.inference.embedder import Embedder, facts_of
from cvrl_tf.inference.embedding import embed_videos
from cvrl_tf.inference.feature_file import ClipFeatures
from cvrl_tf.inference.index import Found, Index


@dataclasses.dataclass(frozen=True)
class Query:
    """A video to search by.

    Attributes:
      video: path.
      start, end: seconds of its middle clip; not a number where they are unknown.
    """

    video: str
    start: float
    end: float


def find_similar(
    query: str, index: str | Path, count: int, model: str | Path | None
) -> tuple[Query, list[Found]]:
    """Find the videos most similar to a video.

    Clips are compared with the mean of the features of the query's clips.

    Args:
      query: path of a video.
      index: file that `cvrl_tf.embed` wrote.
      count: number of videos to find.
      model: export to embed the query with. None is an error that tells which one the index is of:
        to load a model is to run its code, and an index may be a stranger's.

    Returns:
      The query, and of each video its most similar clip, the most similar videos first.

    Raises:
      FileNotFoundError: there is no such video, index or model.
      ValueError: no model, or it or its views are not those of the index.
    """
    if not Path(query).is_file():
        raise FileNotFoundError(f"No video {query!r}.")
    features = Index(index)
    embedder = _embedder_of(features, model)
    with tempfile.TemporaryDirectory() as folder:
        output = Path(folder) / "query.npz"
        embed_videos(embedder, [query], output, workers=1, show=False)
        clips = ClipFeatures.load(output)
    middle = len(clips.videos) // 2
    found = features.nearest_videos(clips.results["feature"].mean(axis=0), count)
    return Query(query, float(clips.starts[middle]), float(clips.ends[middle])), found


def _embedder_of(index: Index, model: str | Path | None) -> Embedder:
    facts = index.clips.facts
    if model is None:
        raise ValueError(
            f"Say by which model to embed the query: {str(index.path)!r} is of {facts['model']!r}. "
            f"A model runs code, so none is loaded that you don't name: --model={facts['model']}"
        )
    sizes = {name: facts["views"].get(name) for name in ("num_clips", "num_crops")}
    about = facts_of(model, **sizes)
    if any(about[name] != facts[name] for name in ("fingerprint", "views")):
        raise ValueError(
            f"{about['model']!r} is not the model that {str(index.path)!r} is of, or takes other "
            f"views; that was {facts['model']!r}. Give it by --model, or embed the videos again."
        )
    return Embedder(model, **sizes)
