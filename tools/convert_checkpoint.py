"""Convert the authors' published encoders (Model Garden) into ours, and back.

    convert_checkpoint.py --checkpoint=r3d_1x_k600_800ep_backbone-1 --output=runs/theirs
    convert_checkpoint.py --to_garden --checkpoint=runs/mine --output=mine_backbone-1

The first command writes a folder like that of a run, for CHECKPOINT of the recipes, for export and
for evaluation. The second writes a checkpoint for the Garden's `tf.train.Checkpoint(backbone=...)`.
Both fail if a tensor has no counterpart.
"""

import sys
from pathlib import Path

from absl import flags

from cvrl_tf import commands

_CHECKPOINT = flags.DEFINE_string("checkpoint", None, "Checkpoint to convert.", required=True)
_OUTPUT = flags.DEFINE_string(
    "output", None, "Folder to write, or prefix with --to_garden.", required=True
)
_TO_GARDEN = flags.DEFINE_bool("to_garden", False, "Convert from our layout to the authors'.")
_DEPTH = flags.DEFINE_integer("depth", 50, "Depth of the authors' network.")
_WIDTH = flags.DEFINE_float("width", 1.0, "Width of the authors' network.")


def main(argv: list[str]) -> None:
    commands.start(argv)
    # Here, because they import TensorFlow, which --help does not need.
    from cvrl_tf import checkpoints
    from cvrl_tf.models import model_garden

    output = Path(_OUTPUT.value)
    if any(output.parent.glob(f"{output.name}.*")) or output.exists():
        sys.exit(f"{str(output)!r} is there already: remove it, or choose another --output.")
    with commands.explained():
        if _TO_GARDEN.value:
            encoder = checkpoints.load_encoder(_CHECKPOINT.value)
            model_garden.save(encoder, output)
            unused: list[str] = []
            written = str(output)
        else:
            encoder, unused = model_garden.load(_CHECKPOINT.value, _DEPTH.value, _WIDTH.value)
            written = checkpoints.save_as_run(encoder, model_garden.SAMPLING, output)
    print(f"Converted all {len(encoder.variables)} tensors of the encoder into {written}.")
    if unused:
        print(f"Left out, not part of the encoder: {', '.join(unused)}.")


if __name__ == "__main__":
    commands.run(main)
