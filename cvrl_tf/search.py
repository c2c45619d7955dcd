"""Clips like a video: `python -m cvrl_tf.search --index=features.parquet QUERY.mp4 --top=10`.

The index is what `cvrl_tf.embed` wrote. The query is embedded by the same model, and compared by
the mean of its clips' features; of each video in the index its most similar clip is shown, in the
terminal and as moving pictures on a page.
"""

import sys
import tempfile
from pathlib import Path

from absl import app, flags

from cvrl_tf import commands

_INDEX = flags.DEFINE_string("index", None, "File that cvrl_tf.embed wrote.", required=True)
_TOP = flags.DEFINE_integer("top", 10, "Videos to find.", lower_bound=1)
_MODEL = flags.DEFINE_string("model", None, "The model, if it is not where it was.")
_OUTPUT = flags.DEFINE_string("output", "search.html", "Page to write.")


def main(argv: list[str]) -> None:
    queries = argv[1:]
    commands.start(argv[:1])
    if len(queries) != 1:
        raise app.UsageError("Give one video to search by.")
    if Path(_INDEX.value).suffix == ".parquet":
        commands.needs("pyarrow", "search")
        commands.needs("faiss", "search")
    from cvrl_tf.inference import index
    from cvrl_tf.inference.embedder import Embedder, embed_videos
    from cvrl_tf.inference.feature_file import ClipFeatures
    from cvrl_tf.preparation import decoding
    from cvrl_tf.reports import gallery, html

    (query,) = queries
    decoding.quiet()
    with commands.explained():
        if not Path(query).is_file():
            raise FileNotFoundError(f"No video {query!r}.")
        found_by = index.Index(_INDEX.value)
        facts = found_by.clips.facts
        sizes = {name: facts["views"][name] for name in ("num_clips", "num_crops")}
        embedder = Embedder(_MODEL.value or facts["model"], **sizes)
        if any(embedder.facts[name] != facts[name] for name in ("fingerprint", "views")):
            raise ValueError(
                f"{embedder.facts['model']!r} is not the model that {_INDEX.value!r} is of, or "
                "takes other views: say where that is with --model, or embed the videos again."
            )
        with tempfile.TemporaryDirectory() as folder:
            output = Path(folder) / "query.npz"
            embed_videos(embedder, [query], output, workers=1, show=False)
            clips = ClipFeatures.load(output)
        feature = clips.results["feature"].mean(axis=0)
        found = found_by.nearest_videos(feature, _TOP.value)
        for each in found:
            print(f"{each.cosine:6.3f}  {each.start:8.2f} to {each.end:8.2f} s  {each.video}")
        middle = len(clips.videos) // 2
        shown = [
            (
                query,
                gallery.picture_of_clip(query, clips.starts[middle], clips.ends[middle]),
                "query",
            )
        ]
        for each in found:
            caption = f"{each.cosine:.3f}  {Path(each.video).name}, {each.start:.1f} s"
            shown.append((caption, gallery.picture_of_clip(each.video, each.start, each.end), ""))
        shown_html = html.row(*((caption, content, "webp", of) for caption, content, of in shown))
        section = html.Section(f"Videos like {query}", shown_html)
        Path(_OUTPUT.value).write_text(html.page("Search", [section]), encoding="utf-8")
    print(f"Wrote {_OUTPUT.value}.", file=sys.stderr)


if __name__ == "__main__":
    app.run(main)
