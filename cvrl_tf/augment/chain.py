"""Chains of augmentations on batches of clips, with one draw for all frames of a clip.

An augmentation has two methods. `sample(seed)` draws its parameters for one clip, as a dict of
scalars. `apply(frames, params)` changes the clip [T, H, W, 3] and is a pure function. `params` has
no dimension T, so all frames are treated alike (temporal consistency, section 3.3).
"""

from collections.abc import Callable, Sequence
from typing import Protocol

import tensorflow as tf

Params = dict[str, tf.Tensor]


class Augmentation(Protocol):
    """A photometric operation."""

    def sample(self, seed: tf.Tensor) -> Params:
        """Draw the parameters for one clip from a seed, int32 [2]."""
        ...

    def apply(self, frames: tf.Tensor, params: Params) -> tf.Tensor:
        """Return the changed clip; float32 [T, H, W, 3] in [0, 1], as the given one."""
        ...


class Chain:
    """Apply augmentations in order, with independent draws."""

    def __init__(self, augmentations: Sequence[Augmentation] = (), per_frame: bool = False) -> None:
        """Args:
        augmentations: in order of application.
        per_frame: draw for every frame instead of every clip ('TA+SA' of table 4).
        """
        self._augmentations = tuple(augmentations)
        self._per_frame = per_frame

    def __call__(self, frames: tf.Tensor, seeds: tf.Tensor) -> tf.Tensor:
        """Augment clips.

        Args:
          frames: uint8 [N, T, H, W, 3].
          seeds: int32 [N, 2], one for each clip.

        Returns:
          float32 [N, T, H, W, 3] in [0, 1].
        """
        if not self._augmentations:
            return _unit_range(frames)
        shape = tf.shape(frames)
        if self._per_frame:
            times = tf.range(shape[1])
            seeds = tf.map_fn(lambda s: tf.map_fn(lambda t: _fold_in(s, t), times), seeds)
            seeds = tf.reshape(seeds, [-1, 2])
            static = frames.shape[2:]
            single = tf.reshape(frames, tf.concat([[-1, 1], shape[2:]], axis=0))
            single = tf.ensure_shape(single, [None, 1, *static])
            return tf.reshape(self._by_clip(single, seeds), shape)
        return self._by_clip(frames, seeds)

    def _by_clip(self, frames: tf.Tensor, seeds: tf.Tensor) -> tf.Tensor:
        def one(clip_and_seed: tuple[tf.Tensor, tf.Tensor]) -> tf.Tensor:
            clip, seed = clip_and_seed
            clip = _unit_range(clip)
            for number, augmentation in enumerate(self._augmentations):
                params = augmentation.sample(_fold_in(seed, number))
                clip = augmentation.apply(clip, params)
            return clip

        if frames.shape[0] == 1:  # the host augments one clip at a time; a loop would copy it
            return one((frames[0], seeds[0]))[tf.newaxis]
        return tf.map_fn(one, (frames, seeds), fn_output_signature=tf.float32)


class ViewChains:
    """Apply a chain to each view, the same one or different ones.

    Chains are compiled by XLA. On CPUs this takes a third of the time. The pixels do not depend on
    whether the training step or the input pipeline calls it.
    """

    def __init__(self, chains: Sequence[Chain]) -> None:
        """Args:
        chains: one chain for each view, or one for all views.
        """
        # Each view is compiled separately: XLA would merge operations of different views.
        self._chains = [tf.function(c, jit_compile=True, autograph=False) for c in chains]

    def __call__(self, frames: tf.Tensor, seeds: tf.Tensor) -> tf.Tensor:
        """Augment views.

        Args:
          frames: uint8 [B, V, T, H, W, 3]. float32 frames are not changed: the input pipeline has
            augmented them.
          seeds: int32 [B, V, 2].

        Returns:
          float32 [B * V, T, H, W, 3] in [0, 1]; the views of an example are neighbors.

        Raises:
          ValueError: V is not the number of chains.
        """
        if frames.dtype != tf.float32:
            chains = self._by_view(frames.shape[1])
            views = [chain(frames[:, v], seeds[:, v]) for v, chain in enumerate(chains)]
            frames = tf.stack(views, axis=1)
        return tf.reshape(frames, tf.concat([[-1], tf.shape(frames)[2:]], axis=0))

    def _by_view(self, num_views: int) -> list[Callable[[tf.Tensor, tf.Tensor], tf.Tensor]]:
        if len(self._chains) == 1:
            return self._chains * num_views
        if len(self._chains) == num_views:
            return self._chains
        raise ValueError(
            f"{len(self._chains)} augmentation chains for {num_views} views: "
            "give one chain for all views or one for each."
        )


def _fold_in(seed: tf.Tensor, number: int | tf.Tensor) -> tf.Tensor:
    # XLA's default algorithm gives other numbers for negative seeds.
    return tf.random.experimental.stateless_fold_in(seed, number, alg="philox")


def _unit_range(frames: tf.Tensor) -> tf.Tensor:
    """Convert uint8 to float32 in [0, 1]. The authors' code has no other normalization either."""
    return tf.image.convert_image_dtype(frames, tf.float32)
