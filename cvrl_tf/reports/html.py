"""Pages of HTML that need no other file. The markup is in templates/page.html."""

import base64
import dataclasses
import io
from collections.abc import Sequence
from pathlib import Path
from typing import ClassVar

import jinja2
from matplotlib.figure import Figure

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
      content: of its file; None if it was not found.
      format: such as "png".
      role: "query", "same" or "other", which colors its frame; empty for none.
    """

    kind: ClassVar[str] = "picture"
    caption: str
    content: bytes | None
    format: str
    role: str = ""

    @classmethod
    def of_figure(cls, caption: str, figure: Figure) -> "Picture":
        """Draw a figure of Matplotlib."""
        file = io.BytesIO()
        figure.savefig(file, format="png", dpi=_DPI)
        return cls(caption, file.getvalue(), "png")

    @classmethod
    def of_file(cls, caption: str, path: str | Path, role: str = "") -> "Picture":
        """Read a file whose suffix says its format."""
        path = Path(path)
        content = path.read_bytes() if path.exists() else None
        return cls(caption, content, path.suffix[1:], role)

    @property
    def source(self) -> str:
        """The picture as a data URL."""
        assert self.content is not None
        return f"data:image/{self.format};base64,{base64.b64encode(self.content).decode()}"


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
    """Render a page."""
    environment = jinja2.Environment(
        loader=jinja2.PackageLoader("cvrl_tf.reports"),
        autoescape=True,
        trim_blocks=True,
        lstrip_blocks=True,
        undefined=jinja2.StrictUndefined,
    )
    return environment.get_template("page.html").render(title=title, sections=sections)
