"""Prepares videos as records: shards of SequenceExamples and their `dataset_info.json`.

    python -m cvrl_tf.prepare --input=videos/train --output=records
    python -m cvrl_tf.prepare --input=videos/test --output=records --split=test
    python -m cvrl_tf.prepare --input=list.txt --root=videos --output=records

The input is a folder with one folder a class, nested to any depth; or a folder of unlabeled videos;
or a text file of `path label` lines, where the label follows the last white space, or of paths
alone; or, with --format, the annotation of a data set:

    --format=kinetics --input=train.csv --root=replacements --root=train
    --format=ucf101   --input=ucfTrainTestlist/trainlist01.txt --root=UCF-101
    --format=hmdb51   --input='hmdb51_splits/*_test_split1.txt' --root=hmdb51 --split=train
    --format=ssv2     --input=something-something-v2-train.json --root=20bn-something-something-v2
    --format=csv      --input=clips.csv (columns path and, optionally, label, start, end in seconds)

The first split written to a folder determines its labels and its --short_side. Interrupted
preparation resumes: rerun the same command. Several machines share the work through a file system
or a bucket (gs://). Run the same command on each, with its own --task, in any order:

    --num_tasks=8 --task=$SLURM_ARRAY_TASK_ID

Or share the work through Apache Beam, whose own options follow after --:

    --beam_runner=DataflowRunner -- --project=mine --region=us-central1 --temp_location=gs://mine/tmp
"""

import functools
import sys
import time

from absl import app, flags
from etils import epath

from cvrl_tf import commands
from cvrl_tf.preparation import annotations, prepare, shards
from cvrl_tf.preparation.decoding import MAX_PIXELS, FrameOptions
from cvrl_tf.preparation.summary import summary

_INPUT = flags.DEFINE_string("input", None, "Folder of videos, or annotation.", required=True)
_OUTPUT = flags.DEFINE_string("output", None, "Folder for the records.", required=True)
_FORMAT = flags.DEFINE_enum(
    "format",
    None,
    list(annotations.FORMATS),
    "Format of the input; by default folders for a folder, list for a file.",
)
_ROOT = flags.DEFINE_multi_string(
    "root", [], "Folder of the videos, by default the input's. Several are searched in turn."
)
_LABEL_FROM = flags.DEFINE_enum(
    "label_from",
    None,
    list(annotations.LABEL_FROM),
    "Folder that names the class of a video in a folder of folders: the top one, by default, or "
    "the video's parent; or none for unlabeled data.",
)
_UNLABELED = flags.DEFINE_enum(
    "unlabeled",
    annotations.UNLABELED[0],
    list(annotations.UNLABELED),
    "What becomes of videos without a label where others have one: an error, skipped, or kept "
    "without a class.",
)
_NAME = flags.DEFINE_string(
    "name", None, "Name of the data set, for results; by default the name of the output folder."
)
_SPLIT = flags.DEFINE_string("split", "train", "Name of the split to write.")
_SHORT_SIDE = flags.DEFINE_integer(
    "short_side", 256, "Short side of the stored frames, in pixels.", lower_bound=1
)
_NUM_SHARDS = flags.DEFINE_integer(
    "num_shards",
    None,
    "Number of shards; by default one for every 32 videos, at most 1,024.",
    lower_bound=1,
)
_JPEG_QUALITY = flags.DEFINE_integer(
    "jpeg_quality", 95, "JPEG quality of the stored frames.", lower_bound=1, upper_bound=100
)
_FPS = flags.DEFINE_float(
    "fps", None, "Frames per second to store; by default the video's own.", lower_bound=0.01
)
_MAX_SECONDS = flags.DEFINE_float(
    "max_seconds", None, "Longest part of a video to store, from its start.", lower_bound=0.01
)
_TIMEOUT = flags.DEFINE_float(
    "timeout", 600, "Longest time for decoding one video, in seconds; then it is skipped."
)
_KEEP_TRUNCATED = flags.DEFINE_bool(
    "keep_truncated", False, "Store what decodes of a truncated video; by default it is skipped."
)
_MAX_PIXELS = flags.DEFINE_integer(
    "max_pixels",
    MAX_PIXELS,
    "Most pixels of a picture of a video; a video with larger ones is skipped.",
    lower_bound=1,
)
_WORKERS = flags.DEFINE_integer(
    "workers", None, "Number of processes; by default one for every core.", lower_bound=1
)
_SEED = flags.DEFINE_integer("seed", 0, "Seed of the shuffle of the videos over the shards.")
_NUM_TASKS = flags.DEFINE_integer(
    "num_tasks", 1, "Number of machines that share the work.", lower_bound=1
)
_TASK = flags.DEFINE_integer("task", 0, "Number of this machine, from 0.", lower_bound=0)
_BEAM_RUNNER = flags.DEFINE_string(
    "beam_runner", None, "Runner of Apache Beam; its options follow after --."
)


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
    frames = FrameOptions(
        _SHORT_SIDE.value,
        _JPEG_QUALITY.value,
        _FPS.value,
        _MAX_SECONDS.value,
        _KEEP_TRUNCATED.value,
        _MAX_PIXELS.value,
    )
    write = _writer(argv[1:])
    start = time.monotonic()
    try:
        videos = annotations.read(
            _INPUT.value,
            _ROOT.value,
            _SPLIT.value,
            _FORMAT.value,
            _LABEL_FROM.value,
            _UNLABELED.value,
        )
        split = prepare.prepare(
            videos,
            _OUTPUT.value,
            split=_SPLIT.value,
            frames=frames,
            num_shards=_NUM_SHARDS.value,
            seed=_SEED.value,
            write=write,
            part=(_TASK.value, _NUM_TASKS.value),
            name=_NAME.value,
        )
    except BrokenPipeError:
        raise
    except (OSError, ValueError, RuntimeError) as error:
        sys.exit(f"Error: {error}")
    except KeyboardInterrupt:
        count = len(list(epath.Path(_OUTPUT.value).glob(f"{_SPLIT.value}-*-of-*")))
        print(
            f"\nInterrupted: {count} whole shards of split {_SPLIT.value!r} are in "
            f"{_OUTPUT.value}.",
            file=sys.stderr,
        )
        raise
    if split is None:
        print(
            f"Task {_TASK.value} of {_NUM_TASKS.value} is done. The last task finishes the split."
        )
    else:
        ignored = {v.name: v.left_out for v in videos if v.left_out.startswith(annotations.IGNORED)}
        print(summary(_SPLIT.value, _OUTPUT.value, split, ignored, time.monotonic() - start))


if __name__ == "__main__":
    commands.run(main)
