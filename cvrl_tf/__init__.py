"""CVRL: spatiotemporal contrastive video representation learning, in TensorFlow 2 / Keras."""

import importlib
import os
from typing import Any

# Keras here is tf_keras (Keras 2). Where TensorFlow's own `tf.keras` is touched, by a dependency or
# a user, it must be the same one, or there are two class hierarchies.
os.environ.setdefault("TF_USE_LEGACY_KERAS", "1")

# What users write `cvrl_tf.` before, and where it is. Imported when it is asked for, because most
# of it brings TensorFlow, without which the commands say their --help.
_PUBLIC = {
    "ResNet3D": "models.resnet3d",
    "ProjectionHead": "models.heads",
    "ContrastiveLearner": "tasks.pretext.contrastive",
    "InfoNCE": "losses.info_nce",
    "Classifier": "tasks.classify",
    "load_encoder": "checkpoints",
    "Pipeline": "data.pipeline",
    "UniformClips": "data.clips",
    "DecreasingPair": "data.clips",
    "EvenClips": "data.clips",
    "RandomResizedCrop": "data.views",
    "EvenCrops": "data.views",
    "linear_probe": "evaluation.probe",
}
__all__ = list(_PUBLIC)


def __getattr__(name: str) -> Any:
    if name not in _PUBLIC:
        raise AttributeError(f"module 'cvrl_tf' has no attribute {name!r}")
    return getattr(importlib.import_module(f"cvrl_tf.{_PUBLIC[name]}"), name)


def __dir__() -> list[str]:
    return [*globals(), *_PUBLIC]
