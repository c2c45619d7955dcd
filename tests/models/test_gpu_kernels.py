"""TensorFlow has a GPU kernel for every operation of a step. No GPU is needed to ask."""

from collections.abc import Callable, Iterator

import pytest
import tensorflow as tf
import tf_keras as keras
from tensorflow.python.framework import kernels

from cvrl_tf.augment.chain import Chain, ViewChains
from cvrl_tf.models.encoder import Encoder
from cvrl_tf.models.heads import ProjectionHead
from cvrl_tf.models.r2plus1d import R2Plus1D
from cvrl_tf.models.resnet3d import ResNet3D
from cvrl_tf.tasks.classify import Classifier
from cvrl_tf.tasks.pretext.contrastive import ContrastiveLearner

pytestmark = [
    pytest.mark.slow,
    pytest.mark.skipif(
        not tf.sysconfig.get_build_info()["is_cuda_build"], reason="TensorFlow without CUDA"
    ),
]

FRAMES = tf.TensorSpec((2, 2, 8, 64, 64, 3), tf.uint8)
SEEDS = tf.TensorSpec((2, 2, 2), tf.int32)
LABELS = {"label": tf.TensorSpec((2,), tf.int32), "weight": tf.TensorSpec((2,))}


@pytest.fixture(params=["float32", "mixed_bfloat16", "mixed_float16"], autouse=True)
def precision(request: pytest.FixtureRequest) -> Iterator[str]:
    keras.mixed_precision.set_global_policy(request.param)
    yield request.param
    keras.mixed_precision.set_global_policy("float32")


def has_gpu_kernel(node: object) -> bool:
    """Tell whether a kernel for GPUs, or for any device, takes the types of an operation."""

    def takes_types(kernel: object) -> bool:
        for constraint in kernel.constraint:
            value = node.attr[constraint.name]
            types = [value.type] if value.type else list(value.list.type)
            if not set(types) <= set(constraint.allowed_values.list.type):
                return False
        return True

    registered = kernels.get_registered_kernels_for_op(node.op).kernel
    return any(k.device_type in ("GPU", "DEFAULT") and takes_types(k) for k in registered)


def lacking(step: Callable, batch: dict[str, tf.TensorSpec]) -> tuple[set[str], set[str]]:
    """Return the operations of a step, and those without a kernel for GPUs."""
    graph = tf.function(step, autograph=False).get_concrete_function(batch).graph.as_graph_def()
    nodes = [*graph.node, *(node for f in graph.library.function for node in f.node_def)]
    nodes = [node for node in nodes if node.op != "Placeholder"]
    return {n.op for n in nodes}, {f"{n.op} {n.name}" for n in nodes if not has_gpu_kernel(n)}


@pytest.mark.parametrize("encoder", [ResNet3D, R2Plus1D])  # with 3-D and with 2-D convolutions
def test_a_training_step_has_gpu_kernels(encoder: type[Encoder]) -> None:
    small = encoder(depth=10, width=0.25)
    learner = ContrastiveLearner(small, ProjectionHead(32, 1, 16), ViewChains([Chain()]))
    learner.compile(keras.optimizers.SGD(0.1, momentum=0.9))
    learner.optimizer.build(learner.trainable_variables)
    found, missing = lacking(learner.train_step, {"frames": FRAMES, "seeds": SEEDS})
    assert {"FusedBatchNormV3", "FusedBatchNormGradV3", "Conv2DBackpropInput"} <= found
    assert ("Conv3DBackpropFilterV2" in found) == (encoder is ResNet3D)
    assert not missing


def test_a_test_step_has_gpu_kernels() -> None:
    model = Classifier(ResNet3D(depth=10, width=0.25), 7, freeze_encoder=True)
    model.compile(keras.optimizers.SGD(0.1))
    batch = {"frames": FRAMES, "seeds": SEEDS, **LABELS}
    found, missing = lacking(model.test_step, batch)
    assert "FusedBatchNormV3" in found and not missing
