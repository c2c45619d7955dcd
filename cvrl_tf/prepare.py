"""Turns videos into records: shards of SequenceExamples and their `dataset_info.json`.

    python tools/make_tfrecords.py --input=videos/train --output=records
    python tools/make_tfrecords.py --input=videos/test --output=records --split=test
    python tools/make_tfrecords.py --input=list.txt --root=videos --output=records

The input is a folder of folders, one a class; or a folder of unlabeled videos; or a text file of
`path label` lines, where the label is what follows the last white space, or of paths alone; or,
with --format, the annotation of a data set:

    --format=kinetics --input=train.csv --root=replacements --root=train
    --format=ucf101   --input=ucfTrainTestlist/trainlist01.txt --root=UCF-101
    --format=hmdb51   --input='hmdb51_splits/*_test_split1.txt' --root=hmdb51 --split=train
    --format=ssv2     --input=something-something-v2-train.json --root=20bn-something-something-v2
    --format=csv      --input=clips.csv (columns path, and perhaps label, start, end in seconds)

The first split written to a folder settles its labels and its --short_side. Several machines share
the work through a file system or a bucket (gs://), each with the same command and its own --task,
in any order:

    --num_tasks=8 --task=$SLURM_ARRAY_TASK_ID

or through Apache Beam, whose own options follow after --:

    --beam_runner=DataflowRunner -- --project=mine --region=us-central1 --temp_location=gs://mine/tmp
"""

import functools
import sys
import time

from absl import app, flags
from etils import epath

from cvrl_tf.data import schema
from cvrl_tf.preparation import annotations, prepare, shards
from cvrl_tf.preparation.decoding import FrameOptions

_INPUT = flags.DEFINE_string("input", None, "Folder of videos, or annotation.", required=True)
_OUTPUT = flags.DEFINE_string("output", None, "Folder for the records.", required=True)
_FORMAT = flags.DEFINE_enum(
    "format", None, list(annotations.FORMATS), "By default folders for a folder, list for a file."
)
_ROOT = flags.DEFINE_multi_string(
    "root", [], "Folder of the videos, by default the input's; repeat it to search several in turn."
)
_NAME = flags.DEFINE_string(
    "name", None, "Name of the data set, as results report it; by default the output folder's."
)
_SPLIT = flags.DEFINE_string("split", "train", "Name of the split to write.")
_SHORT_SIDE = flags.DEFINE_integer(
    "short_side", 256, "Short side of the stored frames, pixels.", lower_bound=1
)
_NUM_SHARDS = flags.DEFINE_integer(
    "num_shards", None, "By default one for every 32 videos, at most 1,024.", lower_bound=1
)
_JPEG_QUALITY = flags.DEFINE_integer(
    "jpeg_quality", 95, "Of the stored frames.", lower_bound=1, upper_bound=100
)
_FPS = flags.DEFINE_float(
    "fps", None, "Frames per second to store; by default the video's own.", lower_bound=0.01
)
_MAX_SECONDS = flags.DEFINE_float(
    "max_seconds", None, "What comes later in a video is left out.", lower_bound=0.01
)
_TIMEOUT = flags.DEFINE_float(
    "timeout", 600, "Seconds for one video, after which its decoder is taken to hang."
)
_KEEP_TRUNCATED = flags.DEFINE_bool(
    "keep_truncated", False, "Write what decodes of a video that is cut short, or skip it."
)
_WORKERS = flags.DEFINE_integer(
    "workers", None, "Processes; by default one for every core.", lower_bound=1
)
_SEED = flags.DEFINE_integer("seed", 0, "Of the shuffle of the videos over the shards.")
_NUM_TASKS = flags.DEFINE_integer("num_tasks", 1, "Machines that share the work.", lower_bound=1)
_TASK = flags.DEFINE_integer("task", 0, "Which of them this is, from 0.", lower_bound=0)
_BEAM_RUNNER = flags.DEFINE_string(
    "beam_runner", None, "Apache Beam's runner that does the work; its options follow after --."
)

_SKIPPED_SHOWN = 20


def _summary(split: schema.SplitInfo, seconds: float) -> str:
    classes = f"of {len(split.class_counts)} classes" if split.class_counts else "unlabeled,"
    lines = [
        f"Wrote {split.num_examples:,} videos, {split.num_frames:,} frames, {classes} "
        f"as {len(split.shards)} shards "
        f"{_SPLIT.value}-*-of-* in {_OUTPUT.value} ({seconds:.0f} s, "
        f"{split.num_frames / seconds:,.0f} frames/s).",
        f"Skipped {len(split.skipped):,} videos{':' if split.skipped else '.'}",
    ]
    reasons = [f"  {name}: {reason}" for name, reason in split.skipped.items()]
    lines += reasons[:_SKIPPED_SHOWN]
    if len(reasons) > _SKIPPED_SHOWN:
        path = epath.Path(_OUTPUT.value) / schema.INFO_FILE
        lines.append(f"  and {len(reasons) - _SKIPPED_SHOWN:,} more, which {path} names.")
    return "\n".join(lines)


def _writer(beam_options: list[str]) -> prepare.Writer:
    if _BEAM_RUNNER.value is None:
        return functools.partial(
            shards.write_shards, workers=_WORKERS.value, timeout=_TIMEOUT.value
        )
    try:
        from cvrl_tf.preparation import beam
    except ModuleNotFoundError as error:
        sys.exit(f"Error: {error}. Install the extra: pip install -e '.[beam]'")
    return functools.partial(
        beam.write_shards,
        runner=_BEAM_RUNNER.value,
        options=beam_options,
        timeout=_TIMEOUT.value,
    )


def main(argv: list[str]) -> None:
    if argv[1:] and _BEAM_RUNNER.value is None:
        raise app.UsageError(f"Unexpected {argv[1:]}.")
    write = _writer(argv[1:])
    start = time.monotonic()
    try:
        split = prepare.prepare(
            annotations.read(_INPUT.value, _ROOT.value, _SPLIT.value, _FORMAT.value),
            _OUTPUT.value,
            split=_SPLIT.value,
            frames=FrameOptions(
                _SHORT_SIDE.value,
                _JPEG_QUALITY.value,
                _FPS.value,
                _MAX_SECONDS.value,
                _KEEP_TRUNCATED.value,
            ),
            num_shards=_NUM_SHARDS.value,
            seed=_SEED.value,
            write=write,
            part=(_TASK.value, _NUM_TASKS.value),
            name=_NAME.value,
        )
    except (OSError, ValueError, RuntimeError) as error:
        sys.exit(f"Error: {error}")
    except KeyboardInterrupt:
        whole = len(list(epath.Path(_OUTPUT.value).glob(f"{_SPLIT.value}-*-of-*")))
        print(
            f"\nInterrupted: {whole} whole shards of split {_SPLIT.value!r} are in "
            f"{_OUTPUT.value}. The same command goes on.",
            file=sys.stderr,
        )
        sys.exit(130)
    if split is None:
        print(f"Task {_TASK.value} of {_NUM_TASKS.value} is done. The last to be done finishes.")
    else:
        print(_summary(split, time.monotonic() - start))


if __name__ == "__main__":
    app.run(main)
