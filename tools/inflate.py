"""Inflate an encoder of images into one of clips, for the baselines ImageNet and SimCLR.

    inflate.py --source=resnet50.safetensors --output=runs/imagenet     (torchvision or timm)
    inflate.py --source=resnet50/ckpt-123 --output=runs/imagenet        (the Model Garden)
    inflate.py --source=simclr_r50/ckpt-250228 --output=runs/simclr     (SimCLR's TensorFlow 2 code)
    inflate.py --source=runs/simclr --output=runs/inflated              (gin/baselines/simclr.gin)

The output is a folder like that of a run, for CHECKPOINT of the recipes. The format of the source
is detected. The source must be a ResNet v1.5, which has the stride on the 3x3 convolutions. The
extent of the kernels in time and the stem are those of the paper, or of the run given by --like.
"""

import json
import shutil
import sys
from pathlib import Path
from typing import TYPE_CHECKING

from absl import flags

from cvrl_tf import commands, files

if TYPE_CHECKING:  # they bring TensorFlow, which --help does not need
    from cvrl_tf.models.inflation import ImageNetwork

_SOURCE = flags.DEFINE_string("source", None, "Weights of a ResNet for images.", required=True)
_OUTPUT = flags.DEFINE_string("output", None, "Folder to write. It must not exist.", required=True)
_HOW = flags.DEFINE_enum(
    "how",
    "center",
    ["center", "mean"],
    "Put kernels at the middle of time, or spread them over it.",
)
_LIKE = flags.DEFINE_string("like", None, "Run whose temporal kernels and stem to use.")

# Arguments of ResNet3D that a network of images does not determine.
_OPEN = ("temporal_kernels", "stem_kernel", "stem_strides", "stem_pool")


def _read(source: Path) -> "ImageNetwork":
    """Read a network of images in any of the formats.

    Raises:
      FileNotFoundError: there is no checkpoint.
      ValueError: it is damaged, or of another network.
    """
    import tensorflow as tf

    from cvrl_tf import checkpoints
    from cvrl_tf.models import inflation

    if source.suffix == ".safetensors":
        from safetensors import SafetensorError
        from safetensors.numpy import load_file

        try:
            tensors = load_file(source)
        except SafetensorError as error:
            raise ValueError(f"{str(source)!r} is damaged: {error}. Download it again.") from error
        return inflation.from_torch(tensors)
    prefix = checkpoints.resolve(source)
    if checkpoints.encoder_file(prefix).exists():
        return inflation.from_encoder(checkpoints.load_encoder(source))
    reader = tf.train.load_checkpoint(prefix)
    names = reader.get_variable_to_shape_map()
    is_simclr = any(name.startswith("model/resnet_model/") for name in names)
    read = inflation.from_simclr if is_simclr else inflation.from_garden
    return read({name: reader.get_tensor(name) for name in names})


def main(argv: list[str]) -> None:
    commands.start(argv)
    from cvrl_tf import checkpoint_files, checkpoints
    from cvrl_tf.models import inflation, model_garden, resnet3d

    source, output = Path(_SOURCE.value), Path(_OUTPUT.value)
    if output.exists():
        sys.exit(f"{str(output)!r} is there already: remove it, or choose another --output.")
    like, sampling = None, model_garden.SAMPLING
    with commands.explained():
        if _LIKE.value:
            run = checkpoints.SavedRun.open(_LIKE.value)
            resnet3d.check(run.new_encoder())
            sampling = run.sampling
            like = {name: run.encoder_config["config"][name] for name in _OPEN}
        network = _read(source)
        encoder = inflation.inflate(network, _HOW.value, like)
    aside = output.with_name(f".{output.name}.part")
    shutil.rmtree(aside, ignore_errors=True)
    checkpoints.save_as_run(encoder, sampling, aside)
    about = source / "run.json"
    if about.exists():  # a run of ours; reports read its number of epochs
        facts = files.read_json(about)
        if steps := facts.pop("steps_per_epoch", None):  # its steps are not the output's
            facts["epochs"] = checkpoint_files.step_of(checkpoints.resolve(source)) / steps
        (aside / about.name).write_text(json.dumps(facts, indent=2) + "\n")
    aside.rename(output)  # at the end, so that an interrupted command leaves no partial output
    print(f"Inflated all {len(encoder.variables)} tensors of R3D-{network.depth} into {output}.")


if __name__ == "__main__":
    commands.run(main)
