"""Augmentations by name, for those who write Python; recipes have them in gin/common/augment_*."""

from cvrl_tf.augment.chain import Chain, ViewChains
from cvrl_tf.augment.photometric import ColorJitter, GaussianBlur, Grayscale


def paper() -> ViewChains:
    """The same for both views, as in gin/common/augment_paper.gin."""
    return ViewChains([Chain([ColorJitter(), Grayscale(), GaussianBlur()])])


def none() -> ViewChains:
    """Views as they are cropped."""
    return ViewChains([Chain()])
