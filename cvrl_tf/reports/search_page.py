"""The page of a search: the query and the clips found, as moving pictures."""

from collections.abc import Sequence
from pathlib import Path

from cvrl_tf.inference.index import Found
from cvrl_tf.inference.search import Query
from cvrl_tf.reports import html
from cvrl_tf.reports.gallery import picture_of_clip


def search_page(query: Query, found: Sequence[Found]) -> str:
    """Render the page."""
    clip = picture_of_clip(query.video, query.start, query.end)
    pictures = [html.Picture(query.video, clip, "query")]
    for each in found:
        caption = f"{each.cosine:.3f}  {Path(each.video).name}, {each.start:.1f} s"
        clip = picture_of_clip(each.video, each.start, each.end)
        pictures.append(html.Picture(caption, clip))
    return html.page(
        "Search", [html.Section(f"Videos like {query.video}", [html.Gallery(pictures)])]
    )
