"""The steps that make the paper's tables on given data.

`recipes` finds the recipe of each row, so a row costs no more than its recipe.
"""

import dataclasses
import re
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path

from cvrl_tf import files
from cvrl_tf.data.schema import DatasetInfo
from cvrl_tf.reports import recipes
from cvrl_tf.reports.recipes import Recipe
from cvrl_tf.reports.steps import Step
from cvrl_tf.reports.tables import TABLES

_REFERENCE = "CVRL"  # the row whose network others are inflated to
_SCRATCH = "Supervised"  # the row of fine-tuning without a checkpoint
_IMAGENET = "ImageNet"  # the row whose weights the user gives
_SEEDED = {"cvrl_tf.train": "settings.Execution", "cvrl_tf.evaluate": "frozen.FrozenEvaluation"}


@dataclasses.dataclass(frozen=True)
class Request:
    """What to make tables of. Paths are absolute.

    Attributes:
      data_dir: records to pretrain on.
      output: folder for the runs.
      transfer_dirs: records to fine-tune on, for table 2.
      imagenet: weights of a network of images; None for no such row.
      only: rows to make, such as "CVRL"; all if empty.
      seeds: runs of each row, with the seeds 0, 1, ...
      protocol: of linear evaluation: "cached", or "paper" for a training run.
      overlay: folder of gin files that go behind the recipes; None for none.
      gin_params: parameters of every run.
    """

    data_dir: Path
    output: Path
    transfer_dirs: Sequence[Path] = ()
    imagenet: Path | None = None
    only: Sequence[str] = ()
    seeds: int = 1
    protocol: str = "cached"
    overlay: Path | None = None
    gin_params: Sequence[str] = ()


class Plan:
    """The steps of some tables, each once, in an order in which they can run."""

    def __init__(self, request: Request, infos: Mapping[Path, DatasetInfo]) -> None:
        """Begin an empty plan.

        Args:
          request: what to make tables of.
          infos: of all records, by their folder.

        Raises:
          ValueError: there is no such row.
        """
        known = {row.partition("/")[2] for row in recipes.by_row()} | {_SCRATCH, _IMAGENET}
        if unknown := set(request.only) - known:
            raise ValueError(
                f"No recipe makes a row {', '.join(sorted(unknown))}; there are "
                f"{', '.join(sorted(known))}."
            )
        self._request, self._infos = request, infos
        self._steps: dict[str, Step] = {}
        self._makers: dict[str, str] = {}  # which step makes a folder

    @property
    def steps(self) -> list[Step]:
        """All steps so far."""
        return list(self._steps.values())

    def add_table(self, number: str) -> None:
        """Add the steps of a table.

        Raises:
          ValueError: the table needs something that the request lacks.
        """
        make = {
            "1": self._linear_evaluation,
            "2": self._transfer,
            "3": self._semi_supervised,
            "4": self._ablation,
        }[number]
        for seed in range(self._request.seeds):
            make(seed)

    def _linear_evaluation(self, seed: int) -> None:
        own = []
        for row in self._rows("1"):
            recipe = recipes.by_row().get(f"1/{row}")
            if recipe and recipe.measures(f"1/{row}"):
                own.append((row, recipe))
            else:
                self._probe(f"1-{_slug(row)}", f"1/{row}", self._encoder("1", row, seed), seed)
        for row, recipe in own:
            self._train(_slug(row), recipe.path, seed)

    def _transfer(self, seed: int) -> None:
        if not self._request.transfer_dirs:
            raise ValueError(
                "Table 2 needs --transfer_dir: records of UCF-101, for example. Or leave it out."
            )
        for folder in self._request.transfer_dirs:
            recipe = recipes.for_data("finetune", self._data(folder), "ucf101")
            for row in [*self._rows("2"), *filter(self._is_wanted, [_SCRATCH])]:
                self._train(
                    f"finetune/{folder.name}-{_slug(row)}",
                    recipe,
                    seed,
                    DATA_DIR=str(folder),
                    CHECKPOINT=None if row == _SCRATCH else self._encoder("2", row, seed),
                    CELL=f"2/{row}",
                )

    def _semi_supervised(self, seed: int) -> None:
        data = self._request.data_dir
        rows = self._rows("3")
        checkpoints: dict[str, str | None] = {row: self._encoder("3", row, seed) for row in rows}
        if self._is_wanted(_SCRATCH):
            checkpoints[_SCRATCH] = None
        for percent, recipe in recipes.shares(self._data(data), "k400").items():
            split = f"train_{percent}pct"
            if split not in self._infos[data].splits:
                flags = f"--data_dir={data}", f"--percent={percent}"
                self._tool(f"subset/{percent}pct", "make_subset", *flags, makes=split)
            for row, checkpoint in checkpoints.items():
                name = f"semi/{percent}pct-{_slug(row)}"
                self._train(name, recipe, seed, split, CHECKPOINT=checkpoint, CELL=f"3/{row}")

    def _ablation(self, seed: int) -> None:
        for row in self._rows("4"):
            recipe = recipes.by_row()[f"4/{row}"]
            run = self._train(f"ablation/{_slug(row)}", recipe.path, seed)
            self._probe(f"4-{_slug(row)}", f"4/{row}", run, seed)

    def _data(self, folder: Path) -> str:
        """Return the name of the data set of a folder, without the suffix of its split."""
        return re.sub(r"_split\d+$", "", self._infos[folder].name)

    def _rows(self, table: str) -> list[str]:
        """List the rows that can be made: the reference first, then in the paper's order."""
        made = [row.partition("/")[2] for row in recipes.by_row() if row.startswith(f"{table}/")]
        if self._request.imagenet:
            made.append(_IMAGENET)
        made = [row for row in made if self._is_wanted(row)]
        paper = [row for row in TABLES[table].paper if row in made]
        others = [row for row in made if row not in paper and row != _IMAGENET]
        return sorted([*paper, *others], key=lambda row: row != _REFERENCE)

    def _is_wanted(self, row: str) -> bool:
        return not self._request.only or row in self._request.only

    def _encoder(self, table: str, row: str, seed: int) -> str:
        """Add the pretraining of a row; return the folder of its encoder."""
        if row == _IMAGENET:
            return self._inflated(row, str(self._request.imagenet), seed=0)  # always the same
        recipe = recipes.by_row()[f"{table}/{row}"]
        if not recipe.of_images:
            return self._train(f"pretrain/{_slug(row)}", recipe.path, seed)
        self._reference(seed)  # before it, which is inflated to be like the reference
        source = self._train(f"pretrain/{_slug(row)}", recipe.path, seed)
        return self._inflated(row, source, seed)

    def _reference(self, seed: int) -> str:
        recipe: Recipe = recipes.by_row()[f"1/{_REFERENCE}"]
        return self._train(f"pretrain/{_slug(_REFERENCE)}", recipe.path, seed)

    def _inflated(self, row: str, source: str, seed: int) -> str:
        name = _seeded(f"pretrain/{_slug(row)}_inflated", seed)
        folder = str(self._request.output / name)
        like = self._reference(seed)
        flags = f"--source={source}", f"--like={like}", f"--output={folder}"
        self._tool(name, "inflate", *flags, uses=(source, like), makes=folder)
        return folder

    def _probe(self, name: str, cell: str, checkpoint: str, seed: int) -> None:
        """Add the linear evaluation of an encoder and of random ones."""
        if self._request.protocol == "paper":
            recipe = recipes.for_data("probe", self._data(self._request.data_dir), "k400")
            self._train(f"probe/{name}", recipe, seed, CHECKPOINT=checkpoint, CELL=cell)
            table = cell.partition("/")[0]
            random, row = f"probe/{table}-random", f"{table}/Random weights"
            self._train(random, recipe, seed, CHECKPOINT=None, CELL=row)
            return
        name = _seeded(name, seed)
        output = f"--output={self._request.output / 'probe' / f'{name}.json'}"
        macros = {"CHECKPOINT": checkpoint, "CELL": cell}
        gin = self._gin("cvrl_tf.evaluate", "gin/probe/cached.gin", seed, macros)
        self._add(f"probe/{name}", "-m", "cvrl_tf.evaluate", *gin, output, uses=[checkpoint])

    def _train(
        self, name: str, recipe: str, seed: int, split: str = "", **macros: str | None
    ) -> str:
        """Add a training run on a split that a step makes, or on one that is there.

        Returns:
          Its folder.
        """
        name = _seeded(name, seed)
        folder = str(self._request.output / name)
        gin = self._gin("cvrl_tf.train", recipe, seed, macros)
        uses = split, macros.get("CHECKPOINT")
        command = "-m", "cvrl_tf.train", *gin, f"--model_dir={folder}"
        self._add(name, *command, uses=uses, makes=folder)
        return folder

    def _tool(
        self, name: str, tool: str, *flags: str, makes: str, uses: Iterable[str] = ()
    ) -> None:
        command = str(files.project() / "tools" / f"{tool}.py"), *flags
        self._add(name, *command, uses=uses, makes=makes)

    def _gin(
        self, command: str, recipe: str, seed: int, macros: Mapping[str, str | None]
    ) -> list[str]:
        given = [recipe, *self._overlay(recipe)]
        bound = {"DATA_DIR": str(self._request.data_dir), **macros}
        params = [f"{name}={value!r}" for name, value in bound.items()]
        params.append(f"{_SEEDED[command]}.seed={seed}")
        # Of the parameters of training, an evaluation knows the macros alone.
        known = r"\w+\s*=" if command == "cvrl_tf.evaluate" else ""
        params += [each for each in self._request.gin_params if re.match(known, each)]
        return [f"--gin_file={each}" for each in given] + [f"--gin_param={each}" for each in params]

    def _overlay(self, recipe: str) -> list[str]:
        """Find the gin file that goes behind a recipe: its namesake, or else its folder's."""
        if self._request.overlay is None:
            return []
        inside = self._request.overlay / Path(recipe).relative_to("gin")
        found = [each for each in (inside, inside.parent.with_suffix(".gin")) if each.is_file()]
        return [str(each) for each in found[:1]]

    def _add(
        self, name: str, *command: str, uses: Iterable[str | None], makes: str | None = None
    ) -> None:
        """Add a step, unless it is there.

        Args:
          name, command: of the step.
          uses: what it reads: folders, or splits.
          makes: what it writes and others may use.
        """
        needs = frozenset(self._makers[used] for used in uses if used in self._makers)
        if self._steps.setdefault(name, Step(name, command, needs)).command != command:
            raise ValueError(f"Two steps would be called {name}: give folders of different names.")
        if makes:
            self._makers[makes] = name


def _seeded(name: str, seed: int) -> str:
    """Name the folder of a run with a seed: that of the first seed has the name alone."""
    return f"{name}-{seed}" if seed else name


def _slug(row: str) -> str:
    """Turn a row's name into one for folders: "TA+SA" into "ta_sa"."""
    return re.sub(r"\W+", "_", row.lower())
