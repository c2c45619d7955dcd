"""Measure a training step against the Model Garden's R3D-50, and memory with recomputation.

    python benchmarks/train_step.py

A step is forward, InfoNCE, gradient, and SGD with momentum, on 4 clips of 16x112x112. Head and loss
are the same. The Garden's network is that of the authors' YAML, which sets `use_sync_bn: true`; it
is also measured without. Contenders take turns; those under XLA have a race of their own. GFLOP/s
count the convolutions of the encoder; compare them with those of a single large convolution. Memory
is the peak of one step with 16 clips, minus what the process needed before it, in a process of its
own.
"""

import json
import math
import resource
import statistics
import subprocess
import sys
from collections.abc import Callable

import measure
import tensorflow as tf
import tf_keras as keras

from cvrl_tf.losses.info_nce import info_nce
from cvrl_tf.models.heads import ProjectionHead
from cvrl_tf.models.resnet3d import ResNet3D

CLIP = (16, 112, 112, 3)
BATCH, BATCH_FOR_MEMORY = 4, 16
ROUNDS, ROUNDS_UNDER_XLA = 9, 4


def garden(use_sync_bn: bool = True) -> keras.Model:
    """Build the R3D-50 of the authors' YAML, which is not the Garden's default, with pooling."""
    from official.vision.modeling.backbones import resnet_3d

    backbone = resnet_3d.ResNet3D(
        model_id=50,
        temporal_strides=[1, 1, 1, 1],
        temporal_kernel_sizes=[(1,) * 3, (1,) * 4, (3,) * 6, (3,) * 3],
        use_self_gating=[False] * 4,
        input_specs=keras.layers.InputSpec(shape=[None, None, None, None, 3]),
        stem_type="v0",
        stem_conv_temporal_kernel_size=5,
        stem_conv_temporal_stride=2,
        stem_pool_temporal_stride=1,
        norm_momentum=0.9,
        norm_epsilon=1e-5,
        use_sync_bn=use_sync_bn,
    )
    pooled = tf.reduce_mean(tf.cast(backbone.output["5"], tf.float32), axis=[1, 2, 3])
    return keras.Model(backbone.inputs, pooled)


class Contender:
    """An encoder with a head and an optimizer. A call makes a step and waits for the loss."""

    def __init__(
        self,
        build: Callable[[], keras.Model],
        precision: str = "float32",
        under_xla: bool = False,
        batch: int = BATCH,
    ) -> None:
        keras.mixed_precision.set_global_policy(precision)
        self.encoder, self.head = build(), ProjectionHead()
        frames = tf.random.stateless_uniform([batch, *CLIP], [0, 0])
        self.head.build(self.encoder(frames[:1]).shape)
        variables = self.encoder.trainable_variables + self.head.trainable_variables
        optimizer = keras.optimizers.SGD(0.01, momentum=0.9)
        optimizer.build(variables)

        @tf.function(jit_compile=under_xla)
        def step() -> tf.Tensor:
            with tf.GradientTape() as tape:
                features = self.encoder(frames, training=True)
                embeddings = self.head(features, training=True)
                loss = tf.reduce_mean(info_nce(embeddings, embeddings, 0, 0.1)[0])
            optimizer.apply_gradients(zip(tape.gradient(loss, variables), variables, strict=True))
            return loss

        self.trace: Callable[[], object] = step.get_concrete_function
        self._step = step

    def __call__(self) -> float:
        return float(self._step())

    def gflop(self) -> float:
        """Count the encoder's convolutions, forward and both gradients, except those of frames."""
        encode = tf.function(lambda frames: self.encoder(frames, training=False))
        graph = encode.get_concrete_function(tf.TensorSpec([BATCH, *CLIP])).graph
        each = [
            2 * op.outputs[0].shape.num_elements() * math.prod(op.inputs[1].shape[:-1])
            for op in graph.get_operations()
            if op.type in ("Conv2D", "Conv3D")
        ]
        return (3 * sum(each) - each[0]) / 1e9


def peak_gflops(rounds: int = 5) -> dict[str, float]:
    """Return the best GFLOP/s of a 3x3 convolution of 256 channels."""
    runs = {}
    for kind in (tf.float32, tf.bfloat16):
        x, kernel = tf.ones([32, 28, 28, 256], kind), tf.ones([3, 3, 256, 256], kind)
        runs[kind.name] = lambda x=x, kernel=kernel: tf.nn.conv2d(x, kernel, 1, "SAME").numpy()
    flop = 2 * 32 * 28 * 28 * 9 * 256**2
    seconds = measure.alternate(runs, rounds)
    return {name: round(flop / min(times) / 1e9) for name, times in seconds.items()}


def raced(contenders: dict[str, Contender], rounds: int) -> dict[str, list[float]]:
    for name, step in contenders.items():
        print(f"{name}: loss {step():.4f}", file=sys.stderr)  # compiles the step too
        step()
    return measure.alternate(contenders, rounds)


def print_memory(recompute: bool) -> None:
    """Print the bytes that the process needs for a step."""
    step = Contender(lambda: ResNet3D(50, recompute=recompute), batch=BATCH_FOR_MEMORY)
    step.trace()
    before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    step()
    print(json.dumps(1024 * (resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - before)))


def memory(recompute: bool) -> int:
    command = [sys.executable, __file__, str(int(recompute))]
    done = subprocess.run(command, check=True, stdout=subprocess.PIPE, stderr=subprocess.DEVNULL)
    return json.loads(done.stdout.splitlines()[-1])


def main() -> None:
    peaks = {recompute: memory(recompute) for recompute in (False, True)}
    convolution = peak_gflops()
    plain = {
        "garden": Contender(garden),
        "garden_without_sync_bn": Contender(lambda: garden(use_sync_bn=False)),
        "garden_bf16": Contender(garden, "mixed_bfloat16"),
        "ours": Contender(lambda: ResNet3D(50)),
        "ours_bf16": Contender(lambda: ResNet3D(50), "mixed_bfloat16"),
        "ours_recomputed": Contender(lambda: ResNet3D(50, recompute=True)),
        "ours_r3d18": Contender(lambda: ResNet3D(18)),
    }
    gflop = {name: contender.gflop() for name, contender in plain.items()}
    seconds = raced(plain, ROUNDS)
    del plain
    under_xla = {
        "garden_xla": Contender(garden, under_xla=True),
        "ours_xla": Contender(lambda: ResNet3D(50), under_xla=True),
    }
    seconds |= raced(under_xla, ROUNDS_UNDER_XLA)
    gflop |= {name: contender.gflop() for name, contender in under_xla.items()}
    median = {name: statistics.median(times) for name, times in seconds.items()}
    measure.report(
        __file__,
        {
            "fp32_vs_garden": measure.speed_up(seconds, "ours", "garden"),
            "fp32_vs_garden_without_sync_bn": measure.speed_up(
                seconds, "ours", "garden_without_sync_bn"
            ),
            "bf16_vs_fp32": measure.speed_up(seconds, "ours_bf16", "ours"),
            "bf16_vs_garden_bf16": measure.speed_up(seconds, "ours_bf16", "garden_bf16"),
            "xla_vs_garden_xla": measure.speed_up(seconds, "ours_xla", "garden_xla"),
            "recomputed_vs_not": measure.speed_up(seconds, "ours_recomputed", "ours"),
        },
        seconds={name: round(value, 3) for name, value in median.items()},
        gflops={name: round(gflop[name] / value) for name, value in median.items()},
        convolution_peak_gflops=convolution,
        step_gflop={name: round(gflop[name]) for name in ("ours", "garden", "ours_r3d18")},
        peak_mebibytes={
            "kept": peaks[False] // 2**20,
            "recomputed": peaks[True] // 2**20,
            "saved_percent": round(100 * (1 - peaks[True] / peaks[False])),
        },
    )


if __name__ == "__main__":
    if len(sys.argv) > 1:
        print_memory(bool(int(sys.argv[1])))
    else:
        main()
