"""Exports an encoder: `python -m cvrl_tf.export --checkpoint=... --output=...`.

`cvrl_tf.inference.saved_model` describes the signatures of the SavedModel.
"""

from absl import flags

from cvrl_tf import commands

_CHECKPOINT = flags.DEFINE_string(
    "checkpoint",
    None,
    "A run's folder (its latest checkpoint) or a checkpoint's prefix.",
    required=True,
)
_OUTPUT = flags.DEFINE_string("output", None, "Folder to write. It must not exist.", required=True)
_SIZE = flags.DEFINE_integer(
    "size",
    None,
    "Side of the frames that the encoder sees; by default as in training.",
    lower_bound=1,
)

_NUM_FRAMES = flags.DEFINE_integer(
    "num_frames", None, "Frames of a clip of a record; by default as in training.", lower_bound=1
)
_NUM_CLIPS = flags.DEFINE_integer(
    "num_clips", 10, "Number of clips of a record, evenly spaced over it.", lower_bound=1
)
_NUM_CROPS = flags.DEFINE_enum("num_crops", "3", ["1", "3"], "Number of crops of each clip.")
commands.define_module_flag()


def main(argv: list[str]) -> None:
    commands.start(argv)
    from cvrl_tf.inference import saved_model

    with commands.explained():
        commands.import_modules()
        saved_model.export_encoder(
            _CHECKPOINT.value,
            _OUTPUT.value,
            _NUM_CLIPS.value,
            int(_NUM_CROPS.value),
            _SIZE.value,
            _NUM_FRAMES.value,
        )
    print(f"Wrote {_OUTPUT.value}.")


if __name__ == "__main__":
    commands.run(main)
