"""Makes an encoder of clips of one of images: the baselines ImageNet and SimCLR, inflated.

    inflate.py --source=resnet50.safetensors --output=runs/imagenet     (torchvision or timm)
    inflate.py --source=resnet50/ckpt-123 --output=runs/imagenet        (the Model Garden)
    inflate.py --source=simclr_r50/ckpt-250228 --output=runs/simclr     (SimCLR's TensorFlow 2 code)
    inflate.py --source=runs/simclr --output=runs/inflated              (gin/baselines/simclr.gin)

The output is like the folder of a run, for CHECKPOINT of the recipes. The layout of the source
tells what it is; it must be a ResNet v1.5, with the stride on the 3x3 convolutions. What it leaves
open, the kernels' extent in time and the stem, is as in the paper, or as in the run of --like.
"""

import shutil
import sys
from pathlib import Path

from absl import app, flags

from cvrl_tf import commands

_SOURCE = flags.DEFINE_string("source", None, "Weights of a ResNet of images.", required=True)
_OUTPUT = flags.DEFINE_string("output", None, "Folder to write; must not exist.", required=True)
_HOW = flags.DEFINE_enum(
    "how", "center", ["center", "mean"], "All of a kernel at the middle of time, or spread over it."
)
_LIKE = flags.DEFINE_string("like", None, "A run, whose kernels in time and stem it is to have.")

_OPEN = ("temporal_kernels", "stem_kernel", "stem_strides", "stem_pool")  # by networks of images


def main(argv: list[str]) -> None:
    commands.start(argv)
    # Not needed for --help, and they bring TensorFlow.
    import tensorflow as tf

    from cvrl_tf import checkpoints
    from cvrl_tf.models import inflation, model_garden

    source, output = Path(_SOURCE.value), Path(_OUTPUT.value)
    if output.exists():
        sys.exit(f"{str(output)!r} is there already: remove it, or choose another --output.")
    like, sampling = None, model_garden.SAMPLING
    with commands.explained():
        if _LIKE.value:
            run = checkpoints.SavedRun.open(_LIKE.value)
            sampling = run.sampling
            like = {name: run.encoder_config["config"][name] for name in _OPEN}
        if source.suffix == ".safetensors":
            from safetensors.numpy import load_file

            network = inflation.from_torch(load_file(source))
        else:
            prefix = checkpoints.resolve(source)
            if checkpoints.encoder_file(prefix).exists():
                network = inflation.from_encoder(checkpoints.load_encoder(source))
            else:
                reader = tf.train.load_checkpoint(prefix)
                names = reader.get_variable_to_shape_map()
                is_simclr = any(name.startswith("model/resnet_model/") for name in names)
                read = inflation.from_simclr if is_simclr else inflation.from_garden
                network = read({name: reader.get_tensor(name) for name in names})
        encoder = inflation.inflate(network, _HOW.value, like)
    about = source / "run.json"
    aside = output.with_name(f".{output.name}.part")
    shutil.rmtree(aside, ignore_errors=True)
    checkpoints.save_as_run(encoder, sampling, aside)
    if about.exists():  # our own run, whose epochs a report wants to know
        shutil.copy(about, aside)
    aside.rename(output)  # all of it or nothing
    print(f"Inflated all {len(encoder.variables)} tensors of R3D-{network.depth} into {output}.")


if __name__ == "__main__":
    app.run(main)
