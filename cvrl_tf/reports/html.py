"""Pages of HTML that need no other file. The markup is in templates/page.html."""

import base64
import dataclasses
import io
from collections.abc import Sequence
from pathlib import Path
from typing import ClassVar

import jinja2
from matplotlib.figure import Figure
from PIL import Image

_DPI = 110


@dataclasses.dataclass(frozen=True)
class Paragraph:
    """Text."""

    kind: ClassVar[str] = "paragraph"
    text: str


@dataclasses.dataclass(frozen=True)
class Table:
    """A table of texts.

    Attributes:
      heads: the first row.
      rows: the others.
    """

    kind: ClassVar[str] = "table"
    heads: Sequence[str]
    rows: Sequence[Sequence[str]]


@dataclasses.dataclass(frozen=True)
class Picture:
    """A picture with its caption.

    Attributes:
      caption: text below it.
      content: of its file; None if there is none to show.
      role: "query", "same" or "other", which colors its frame; empty for none.
      problem: what stands in place of a picture.
    """

    kind: ClassVar[str] = "picture"
    caption: str
    content: bytes | None
    role: str = ""
    problem: str = "not found"

    @classmethod
    def of_figure(cls, caption: str, figure: Figure) -> "Picture":
        """Draw a figure of Matplotlib."""
        file = io.BytesIO()
        figure.savefig(file, format="png", dpi=_DPI)
        return cls(caption, file.getvalue())

    @classmethod
    def of_file(cls, caption: str, path: str | Path, folder: Path, role: str = "") -> "Picture":
        """Read a file of a run.

        Args:
          caption: text below it.
          path: of the file, perhaps as another file names it.
          folder: of the run. What lies elsewhere is not shown, wherever links lead.
          role: see the class.
        """
        if not is_below(path, folder):
            return cls(caption, None, role, f"not in {folder}")
        if not Path(path).is_file():
            return cls(caption, None, role)
        content = Path(path).read_bytes()
        if _mime_type(content) is None:
            return cls(caption, None, role, f"not of {', '.join(_FORMATS)}")
        return cls(caption, content, role)

    @property
    def source(self) -> str:
        """The picture as a data URL."""
        assert self.content is not None
        return f"data:{_mime_type(self.content)};base64,{base64.b64encode(self.content).decode()}"


_FORMATS = ("PNG", "JPEG", "GIF", "WEBP")


def _mime_type(content: bytes) -> str | None:
    """What a picture is by its content, such as "image/png"; None if it is none of `_FORMATS`."""
    try:
        with Image.open(io.BytesIO(content), formats=_FORMATS) as picture:
            return picture.get_format_mimetype()
    except (OSError, ValueError, SyntaxError, Image.DecompressionBombError):
        return None


def is_below(path: str | Path, folder: Path) -> bool:
    """Tell whether a path is below a folder once all links are followed."""
    try:
        return Path(path).resolve().is_relative_to(folder.resolve())
    except (OSError, ValueError, RuntimeError):  # too long, a zero in it, a loop of links
        return False


@dataclasses.dataclass(frozen=True)
class Gallery:
    """Pictures side by side."""

    kind: ClassVar[str] = "gallery"
    pictures: Sequence[Picture]


Block = Paragraph | Table | Picture | Gallery


@dataclasses.dataclass(frozen=True)
class Section:
    """A heading and what stands below it.

    Attributes:
      heading: text.
      blocks: the content.
      collapsed: show the heading alone until it is clicked.
    """

    heading: str
    blocks: Sequence[Block]
    collapsed: bool = False


def page(title: str, sections: Sequence[Section]) -> str:
    """Render a page, in UTF-8. Nothing in it runs, whatever the texts hold."""
    environment = jinja2.Environment(
        loader=jinja2.PackageLoader("cvrl_tf.reports"),
        autoescape=True,
        trim_blocks=True,
        lstrip_blocks=True,
        undefined=jinja2.StrictUndefined,
    )
    text = environment.get_template("page.html").render(title=title, sections=sections)
    # Names of files and classes may hold bytes that are no UTF-8, which Python keeps as surrogates.
    return text.encode("utf-8", "replace").decode()
