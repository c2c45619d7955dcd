"""Augmentations for the Python API. Recipes have theirs in gin/common/augment_*.gin."""

from cvrl_tf.augment.chain import Chain, ViewChains
from cvrl_tf.augment.photometric import ColorJitter, GaussianBlur, Grayscale


def paper() -> ViewChains:
    """Return the augmentation of the paper, as in gin/common/augment_paper.gin."""
    return ViewChains([Chain([ColorJitter(), Grayscale(), GaussianBlur()])])


def none() -> ViewChains:
    """Return no augmentation: views stay as they are cropped."""
    return ViewChains([Chain()])
