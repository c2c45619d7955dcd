"""Recipes of the rows of tables. A recipe's head says which rows it makes:

    # Rows:     1/CVRL, 2/CVRL, 3/CVRL

A recipe that pretrains makes an encoder, which the protocol of the table then evaluates. A recipe
whose CELL is the row measures the row itself.
"""

import dataclasses
import functools
import re

from cvrl_tf import files


@dataclasses.dataclass(frozen=True)
class Recipe:
    """A gin file.

    Attributes:
      path: such as "gin/pretrain/k400.gin", for --gin_file.
      text: its content.
    """

    path: str
    text: str

    @property
    def rows(self) -> tuple[str, ...]:
        """The rows it makes, such as "1/CVRL"."""
        found = re.search(r"^# Rows:(.*)$", self.text, re.MULTILINE)
        return tuple(each.strip() for each in found[1].split(",")) if found else ()

    @property
    def of_images(self) -> bool:
        """Whether it trains a network of single frames, to be inflated."""
        return bool(re.search(r"^NUM_FRAMES = 1$", self.text, re.MULTILINE))

    def measures(self, row: str) -> bool:
        """Tell whether a run of this recipe measures the row itself."""
        return bool(re.search(rf"^CELL = '{re.escape(row)}'", self.text, re.MULTILINE))


@functools.cache
def by_row() -> dict[str, Recipe]:
    """Find the recipe of each row that has one.

    Raises:
      ValueError: two recipes make the same row.
    """
    root = files.project()
    found: dict[str, Recipe] = {}
    for path in sorted((root / "gin").rglob("*.gin")):
        recipe = Recipe(path.relative_to(root).as_posix(), path.read_text())
        for row in recipe.rows:
            if row in found:
                raise ValueError(f"{found[row].path} and {recipe.path} both make row {row!r}.")
            found[row] = recipe
    return found


def for_data(protocol: str, data: str, default: str) -> str:
    """Return the recipe gin/PROTOCOL/DATA.gin or, if there is none, that of another data set.

    Args:
      protocol: folder, such as "finetune".
      data: name of the data set.
      default: the data set whose recipe serves others.
    """
    path = f"gin/{protocol}/{data}.gin"
    return path if (files.project() / path).is_file() else f"gin/{protocol}/{default}.gin"


def shares(data: str, default: str) -> dict[str, str]:
    """Return the recipes of training with a share of the labels, by percent, such as "10".

    Args:
      data: name of the data set; gin/semi/DATA_10pct.gin is a recipe of it.
      default: the data set whose recipes serve others.
    """
    folder = files.project() / "gin" / "semi"
    for name in (data, default):
        found = {
            path.stem.removeprefix(f"{name}_").removesuffix("pct"): f"gin/semi/{path.name}"
            for path in folder.glob(f"{name}_*pct.gin")
        }
        if found:
            return dict(sorted(found.items(), key=lambda item: float(item[0])))
    raise ValueError(f"No recipe {folder}/{default}_*pct.gin.")
