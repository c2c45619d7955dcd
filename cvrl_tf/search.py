"""Finds similar videos: `python -m cvrl_tf.search --model=encoder --index=features.parquet QUERY`.

The index is a file of `cvrl_tf.embed`. The query is embedded by the same model, and clips are
compared with the mean of its clips' features. Of each video in the index the most similar clip is
shown, in the terminal and as a moving picture on a page.
"""

import sys
from pathlib import Path

from absl import app, flags

from cvrl_tf import commands

_INDEX = flags.DEFINE_string("index", None, "File that cvrl_tf.embed wrote.", required=True)
_TOP = flags.DEFINE_integer("top", 10, "Number of videos to find.", lower_bound=1)
_MODEL = flags.DEFINE_string("model", None, "Folder of the model that the index is of.")
_OUTPUT = flags.DEFINE_string("output", "search.html", "Page to write.")


def main(argv: list[str]) -> None:
    queries = argv[1:]
    commands.start(argv[:1])
    if len(queries) != 1:
        raise app.UsageError("Give one video to search by.")
    if Path(_INDEX.value).suffix == ".parquet":
        commands.needs("pyarrow", "search")
        commands.needs("faiss", "search")
    # Imported here because TensorFlow is slow to import, and --help does not need it.
    from cvrl_tf.inference.search import find_similar
    from cvrl_tf.preparation import decoding
    from cvrl_tf.reports.search_page import search_page

    decoding.quiet()
    with commands.explained():
        query, found = find_similar(queries[0], _INDEX.value, _TOP.value, _MODEL.value)
        for each in found:
            # A name may hold what a terminal obeys.
            name = each.video if each.video.isprintable() else ascii(each.video)
            print(f"{each.cosine:6.3f}  {each.start:8.2f} to {each.end:8.2f} s  {name}")
        Path(_OUTPUT.value).write_text(search_page(query, found), encoding="utf-8")
    print(f"Wrote {_OUTPUT.value}.", file=sys.stderr)


if __name__ == "__main__":
    commands.run(main)
