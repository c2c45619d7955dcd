"""Which piece belongs where: space-time cubic puzzles (Kim et al., AAAI 2019, arXiv 1811.09795).

"Self-Supervised Video Representation Learning with Space-Time Cubic Puzzles". The authors' training
code is not published.
"""

import functools
import math
from collections.abc import Callable

import tensorflow as tf
import tf_keras as keras

from cvrl_tf.augment.chain import ViewChains
from cvrl_tf.losses.result import LossResult
from cvrl_tf.models.encoder import Encoder
from cvrl_tf.tasks.pretext.base import Outputs, PretextTask
from cvrl_tf.tasks.pretext.orders import order_labels, permutations, shuffled
from cvrl_tf.tasks.task import Batch, draws, dropout

PIECES = 4
PUZZLES = ("spatial", "temporal")
# Which draw is meant; those of the second puzzle follow.
_ORDER, _DROPOUT = (0, 1), (2, 3)
_CELLS, _UPSIDE_DOWN, _JITTER = 4, 5, 6


@keras.saving.register_keras_serializable("cvrl_tf")
class PuzzleHead(keras.Model):
    """Features of four pieces as they lie [B, 4, D] to logits, float32 [B, 4! + 1].

    Those of the orders, and one of being upside down. One hidden layer sees all pieces.

    Attributes:
      hidden_dim: units of the hidden layer.
      dropout: rate, before the linear layer.
    """

    def __init__(self, hidden_dim: int, dropout: float) -> None:
        """Args:
        hidden_dim, dropout: see the class.
        """
        super().__init__()
        self.hidden_dim, self.dropout = hidden_dim, dropout
        self.hidden = keras.layers.Dense(hidden_dim, activation="relu")
        self.output_layer = keras.layers.Dense(math.factorial(PIECES) + 1, dtype="float32")

    def call(
        self, features: tf.Tensor, drop: Callable[[tf.Tensor], tf.Tensor] | None = None
    ) -> tf.Tensor:
        """Compute logits.

        Args:
          features: [B, 4, D].
          drop: drops out of what the linear layer sees, float32 [B, hidden_dim]; None in a test.
        """
        joined = tf.reshape(features, [-1, PIECES * features.shape[-1]])
        x = tf.cast(self.hidden(joined), tf.float32)
        return self.output_layer(drop(x) if drop else x)

    def get_config(self) -> dict[str, float]:
        return {"hidden_dim": self.hidden_dim, "dropout": self.dropout}


class PuzzlePrediction(PretextTask):
    """The four quadrants of a clip, and four clips of a quadrant, are shuffled; heads say how.

    The clips come from `clips.SegmentClips`, one of each quarter of the video. A piece is cut from
    its cell at a random place, so that pieces don't touch.
    """

    metric_names = ("spatial_accuracy", "temporal_accuracy", "upright_accuracy")

    def __init__(
        self,
        encoder: Encoder,
        head: Callable[[], PuzzleHead],
        piece_size: int,
        upright: float = 0.5,
        augment: ViewChains | None = None,
        weight_decay: float = 0.0,
        micro_batch: int | None = None,
    ) -> None:
        """Args:
        head: makes the head of a puzzle.
        piece_size: side of a piece, pixels; a quadrant is half a view.
        upright: weight of telling whether the puzzle is upside down; the order has 1.
        encoder, augment, weight_decay, micro_batch: see `PretextTask`.
        """
        heads = {f"{name}_head": head() for name in PUZZLES}
        for each in heads.values():
            each.build((None, PIECES, encoder.feature_dim))
        super().__init__(encoder, heads, augment, weight_decay, micro_batch)
        self._piece_size, self._upright = piece_size, upright

    def embed(self, views: tf.Tensor, batch: Batch, training: bool) -> Outputs:
        """Encode the pieces of both puzzles, shuffle their features, and compute logits.

        It is the same as to shuffle the pieces.

        Returns:
          "spatial_head", "temporal_head": float32 [B, 4! + 1].

        Raises:
          ValueError: there are not four clips of a video, or a piece is larger than a quadrant.
        """
        pieces = self.pieces(views, batch)
        frames = tf.reshape(pieces, [-1, *pieces.shape[2:]])
        features = self.encoder(frames, training=training)
        in_order = tf.reshape(features, [-1, 2, PIECES, self.encoder.feature_dim])
        outputs = {}
        for number, name in enumerate(PUZZLES):
            head = getattr(self, f"{name}_head")
            labels = order_labels(batch, PIECES, _ORDER[number])
            presented = shuffled(in_order[:, number], labels)
            drop = functools.partial(
                dropout, rate=head.dropout, batch=batch, purpose=_DROPOUT[number]
            )
            outputs[f"{name}_head"] = head(presented, drop if training else None)
        return outputs

    def shown(self, batch: Batch) -> tuple[tf.Tensor, list[str]]:
        """Return the shuffled pieces of both puzzles, and where each belongs; see `Task.shown`."""
        pieces = self.pieces(self.views(batch), batch)
        labels = [order_labels(batch, PIECES, order) for order in _ORDER]
        halves = zip(tf.split(pieces, 2, axis=1), labels, strict=True)
        presented = tf.concat([shuffled(half, rows) for half, rows in halves], axis=1)
        turned = [", upside down" if down else "" for down in upside_down(batch)]
        captions = [
            f"{part} {place + 1}{turned[video]}"
            for video in range(len(turned))
            for part, rows in zip(("quadrant", "time"), labels, strict=True)
            for place in permutations(PIECES)[rows[video]]
        ]
        return presented, captions

    def pieces(self, views: tf.Tensor, batch: Batch) -> tf.Tensor:
        """Cut the pieces of both puzzles, in order.

        Args:
          views: float32 [B, 4, T, S, S, 3].
          batch: of `data.pipeline`.

        Returns:
          float32 [B, 8, T, P, P, 3]: the quadrants of a clip, row by row, and the clips of a
          quadrant.
        """
        clips, frames, side = views.shape[1:4]
        half = side // 2
        if clips != PIECES or self._piece_size > half:
            raise ValueError(
                f"{clips} clips of {side} pixels make no puzzle of four clips with pieces of "
                f"{self._piece_size} pixels: bind clips.SegmentClips.num_clips to 4 and "
                f"puzzle.PuzzlePrediction.piece_size to {half} or less."
            )
        is_down = upside_down(batch)[:, None, None, None, None, None]
        views = tf.where(is_down, tf.reverse(views, [3, 4]), views)
        cells = tf.reshape(
            views[:, :, :, : 2 * half, : 2 * half], [-1, clips, frames, 2, half, 2, half, 3]
        )
        # By clip and quadrant: [B, 4, 4, T, half, half, 3].
        cells = tf.transpose(cells, [0, 1, 3, 5, 2, 4, 6, 7])
        cells = tf.reshape(cells, [-1, clips, PIECES, frames, half, half, 3])
        clip, quadrant = tf.unstack(chosen_cells(batch), axis=1)
        spatial = tf.gather(cells, clip, axis=1, batch_dims=1)
        temporal = tf.gather(cells, quadrant, axis=2, batch_dims=1)
        both = tf.reshape(tf.concat([spatial, temporal], axis=1), [-1, frames, half, half, 3])
        places = tf.reshape(jitter(batch, half - self._piece_size + 1), [-1, 2])
        rows, columns = tf.unstack(places[:, :, None] + tf.range(self._piece_size), axis=1)
        cut = tf.gather(both, rows, axis=2, batch_dims=1)
        cut = tf.gather(cut, columns, axis=3, batch_dims=1)
        return tf.reshape(cut, [-1, 2 * PIECES, frames, self._piece_size, self._piece_size, 3])

    def losses(self, outputs: Outputs, batch: Batch) -> LossResult:
        """Compute the cross-entropies of a video's puzzles; 2 (ln 24 + ln 2 / 2) at chance."""
        is_down = upside_down(batch)
        losses, metrics, upright = [], {}, []
        for number, name in enumerate(PUZZLES):
            logits, down = outputs[f"{name}_head"][:, :-1], outputs[f"{name}_head"][:, -1]
            labels = order_labels(batch, PIECES, _ORDER[number])
            losses.append(tf.nn.sparse_softmax_cross_entropy_with_logits(labels, logits))
            target = tf.cast(is_down, tf.float32)
            losses.append(self._upright * tf.nn.sigmoid_cross_entropy_with_logits(target, down))
            correct = tf.argmax(logits, axis=1, output_type=tf.int32) == labels
            metrics[f"{name}_accuracy"] = tf.cast(correct, tf.float32)
            upright.append(tf.cast((down > 0) == is_down, tf.float32))
        metrics["upright_accuracy"] = tf.add_n(upright) / len(PUZZLES)
        return LossResult(tf.add_n(losses), metrics)


def upside_down(batch: Batch) -> tf.Tensor:
    """Draw for each video whether its puzzles are turned by half a turn, bool [B]."""

    def sample(seed: tf.Tensor) -> tf.Tensor:
        return tf.random.stateless_uniform([], seed, 0, 2, tf.int32, alg="philox")

    return draws(batch, sample, _UPSIDE_DOWN, tf.int32) == 1


def chosen_cells(batch: Batch) -> tf.Tensor:
    """Draw the clip of the spatial puzzle and the quadrant of the temporal one, int32 [B, 2]."""

    def sample(seed: tf.Tensor) -> tf.Tensor:
        return tf.random.stateless_uniform([2], seed, 0, PIECES, tf.int32, alg="philox")

    return draws(batch, sample, _CELLS, tf.int32)


def jitter(batch: Batch, room: int) -> tf.Tensor:
    """Draw where in its cell each piece begins, int32 [B, 8, 2], below `room`."""

    def sample(seed: tf.Tensor) -> tf.Tensor:
        shape = [2 * PIECES, 2]
        return tf.random.stateless_uniform(shape, seed, 0, room, tf.int32, alg="philox")

    return draws(batch, sample, _JITTER, tf.int32)
