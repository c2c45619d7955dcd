"""Reports what runs measured: `python -m cvrl_tf.report RUNS... --output=report`.

RUNS are folders of runs, files of `cvrl_tf.evaluate`, or folders that hold any of them. Writes
tables.md, tables.csv and report.html, a page that needs no other file: the paper's tables, the
measured figures beside the paper's, curves, features and views.
"""

from pathlib import Path

from absl import app, flags

from cvrl_tf import commands

_OUTPUT = flags.DEFINE_string("output", "report", "Folder to write into.")
_NOTE = flags.DEFINE_string(
    "note", "", "Text for the top of the page: what a reader must know about the data."
)


def main(argv: list[str]) -> None:
    if not argv[1:]:
        raise app.UsageError("Say which runs: python -m cvrl_tf.report runs/demo")
    from cvrl_tf.reports.report import write_report

    output = Path(_OUTPUT.value)
    with commands.explained():
        count = write_report(argv[1:], output, _NOTE.value)
    print(f"{count} measurements. Wrote tables.md, tables.csv and report.html in {output}.")


if __name__ == "__main__":
    commands.run(main)
