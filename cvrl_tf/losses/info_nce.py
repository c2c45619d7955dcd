"""InfoNCE, equation 1 of the paper."""

import dataclasses
from collections.abc import Callable
from typing import Any

import tensorflow as tf

from cvrl_tf.losses.result import LossResult

# Stands in for minus infinity, which would make 0 * log 0 of the entropy not a number.
_EXCLUDED = -1e9


@dataclasses.dataclass(frozen=True)
class InfoNCE:
    """The contrastive loss of the paper; see `info_nce`.

    Attributes:
      temperature: t; the paper has 0.1.
      block: compute at most `block` x `block` similarities at a time, for batches whose
        similarities don't fit into memory; see `blocked_info_nce`. None computes all at once,
        which is faster.
    """

    temperature: float
    block: int | None = None

    def __call__(self, queries: tf.Tensor, keys: tf.Tensor, offset: tf.Tensor | int) -> LossResult:
        """Compute the loss of each query.

        Args:
          queries, keys, offset: as of `info_nce`.

        Returns:
          Losses, and the metrics "contrastive_accuracy" and "contrastive_entropy".
        """
        if self.block:
            losses, accuracy, entropy = blocked_info_nce(
                queries, keys, offset, self.temperature, self.block
            )
        else:
            losses, logits, labels = info_nce(queries, keys, offset, self.temperature)
            accuracy = contrastive_accuracy(logits, labels)
            entropy = contrastive_entropy(logits)
        return LossResult(
            losses, {"contrastive_accuracy": accuracy, "contrastive_entropy": entropy}
        )


def info_nce(
    queries: tf.Tensor, keys: tf.Tensor, offset: tf.Tensor | int, temperature: float
) -> tuple[tf.Tensor, tf.Tensor, tf.Tensor]:
    """Compute the contrastive loss of each anchor,

        L_i = -log( exp(sim(z_i, z_i') / t) / sum over the 2N-1 others of exp(sim(z_i, z_k) / t) ),

    with sim the cosine. Both views of a video are anchors; the paper's loss is the mean over all of
    them. With all embeddings alike it is ln(2N - 1).

    Args:
      queries: float [n, E], embeddings of this replica. Rows come in pairs, the two views of a
        video side by side. They need not be normalized.
      keys: float [2N, E], embeddings of all replicas, in the same order.
      offset: int32 [], row of `keys` at which this replica's queries begin; even.
      temperature: t; the paper has 0.1.

    Returns:
      loss: float32 [n].
      logits: float32 [n, 2N], sim / t, with the anchor itself at -1e9.
      labels: int32 [n], which key is the other view.
    """
    queries = tf.math.l2_normalize(tf.cast(queries, tf.float32), axis=1)
    keys = tf.math.l2_normalize(tf.cast(keys, tf.float32), axis=1)
    logits = tf.matmul(queries, keys, transpose_b=True) / temperature

    anchors = offset + tf.range(tf.shape(queries)[0])
    itself = tf.one_hot(anchors, tf.shape(keys)[0], on_value=True, off_value=False)
    logits = tf.where(itself, _EXCLUDED, logits)
    labels = tf.bitwise.bitwise_xor(anchors, 1)  # 0 <-> 1, 2 <-> 3, ...
    loss = tf.nn.sparse_softmax_cross_entropy_with_logits(labels, logits)
    return loss, logits, labels


def contrastive_accuracy(logits: tf.Tensor, labels: tf.Tensor) -> tf.Tensor:
    """Tell whether the other view is the nearest key, float32 [n]; see `info_nce`."""
    return tf.cast(tf.argmax(logits, axis=1, output_type=labels.dtype) == labels, tf.float32)


def contrastive_entropy(logits: tf.Tensor) -> tf.Tensor:
    """Compute the entropy of the softmax over the keys, float32 [n], nats; at most ln(2N - 1)."""
    log_p = tf.nn.log_softmax(logits)
    return -tf.reduce_sum(tf.exp(log_p) * log_p, axis=1)


def blocked_info_nce(
    queries: tf.Tensor,
    keys: tf.Tensor,
    offset: tf.Tensor | int,
    temperature: float,
    block: int,
) -> tuple[tf.Tensor, tf.Tensor, tf.Tensor]:
    """Compute `info_nce` for large batches, `block` x `block` similarities at a time.

    The sum over the keys runs from block to block with the largest exponent so far (Milakov and
    Gimelshein, "Online normalizer calculation for softmax", 2018), and the gradient computes the
    similarities again.

    Args: as `info_nce`, and
      block: queries, and keys, of a block.

    Returns:
      loss: float32 [n].
      accuracy: float32 [n], see `contrastive_accuracy`.
      entropy: float32 [n], see `contrastive_entropy`.
    """
    queries = tf.math.l2_normalize(tf.cast(queries, tf.float32), axis=1)
    keys = tf.math.l2_normalize(tf.cast(keys, tf.float32), axis=1)
    anchors = offset + tf.range(tf.shape(queries)[0])
    labels = tf.bitwise.bitwise_xor(anchors, 1)
    everything, nearest, entropy = _log_sum_exp(queries, keys, anchors, temperature, block)
    other_view = tf.reduce_sum(queries * tf.gather(keys, labels), axis=1) / temperature
    return everything - other_view, tf.cast(nearest == labels, tf.float32), entropy


def _log_sum_exp(
    queries: tf.Tensor, keys: tf.Tensor, anchors: tf.Tensor, temperature: float, block: int
) -> tuple[tf.Tensor, tf.Tensor, tf.Tensor]:
    """Over all keys but the anchor itself: log-sum-exp of the logits, nearest key, entropy.

    Only the first is differentiable.
    """
    blocks = _Blocks(anchors, tf.shape(keys)[0], temperature, block)

    @tf.custom_gradient
    def forward(queries: tf.Tensor, keys: tf.Tensor) -> tuple:
        q, k = blocks.of_queries(queries), blocks.of_keys(keys)
        outputs = blocks.log_sum_exp(q, k)

        def gradient(upstream: tf.Tensor, *_: tf.Tensor) -> tuple[tf.Tensor, tf.Tensor]:
            return blocks.gradients(q, k, outputs[0], upstream)

        return outputs, gradient

    return forward(queries, keys)


class _Blocks:
    """Similarities of queries and keys, `block` x `block` at a time."""

    def __init__(
        self, anchors: tf.Tensor, num_keys: tf.Tensor, temperature: float, block: int
    ) -> None:
        self._num_queries, self._num_keys = tf.shape(anchors)[0], num_keys
        self._temperature, self._block = temperature, block
        self._query_blocks = -(-self._num_queries // block)
        self._key_blocks = -(-num_keys // block)
        self._own = self.of_queries(anchors)
        self._numbers = tf.reshape(tf.range(self._key_blocks * block), [self._key_blocks, block])

    def of_queries(self, rows: tf.Tensor) -> tf.Tensor:
        """Split rows [n, ...] into blocks [count, block, ...], padded with zeros."""
        return self._padded(rows, self._query_blocks)

    def of_keys(self, rows: tf.Tensor) -> tf.Tensor:
        """Split rows [2N, ...] into blocks [count, block, ...], padded with zeros."""
        return self._padded(rows, self._key_blocks)

    def log_sum_exp(self, q: tf.Tensor, k: tf.Tensor) -> tuple[tf.Tensor, tf.Tensor, tf.Tensor]:
        """Compute what `_log_sum_exp` returns, of blocks of queries and keys."""
        block = self._block

        def of_queries(i: tf.Tensor) -> tuple:
            def step(j: tf.Tensor, top: Any, nearest: Any, total: Any, weighted: Any) -> tuple:
                x = self._logits(q, k, i, j)
                new_top = tf.maximum(top, tf.reduce_max(x, axis=1))
                here = j * block + tf.argmax(x, axis=1, output_type=tf.int32)
                nearest = tf.where(new_top > top, here, nearest)
                scale, p = tf.exp(top - new_top), tf.exp(x - new_top[:, tf.newaxis])
                total = total * scale + tf.reduce_sum(p, axis=1)
                weighted = weighted * scale + tf.reduce_sum(p * x, axis=1)
                return new_top, nearest, total, weighted

            zeros = tf.zeros([block])
            start = (zeros + 2 * _EXCLUDED, tf.zeros([block], tf.int32), zeros, zeros)
            top, nearest, total, weighted = _add_up(step, self._key_blocks, start)
            everything = top + tf.math.log(total)
            return everything, nearest, everything - weighted / total

        row = tf.TensorSpec([block])
        signature = (row, tf.TensorSpec([block], tf.int32), row)
        outputs = _for_all(of_queries, self._query_blocks, signature)
        everything, nearest, entropy = (rows[: self._num_queries] for rows in outputs)
        return everything, nearest, entropy

    def gradients(
        self, q: tf.Tensor, k: tf.Tensor, everything: tf.Tensor, upstream: tf.Tensor
    ) -> tuple[tf.Tensor, tf.Tensor]:
        """Differentiate the log-sum-exp, weighted by `upstream` [n], by queries and keys."""
        lse, weight = self.of_queries(everything), self.of_queries(upstream)

        def slopes(i: tf.Tensor, j: tf.Tensor) -> tf.Tensor:
            """Of the sum of the weighted outputs by the similarities, [block, block]."""
            p = tf.exp(self._logits(q, k, i, j) - lse[i][:, tf.newaxis])
            return p * weight[i][:, tf.newaxis] / self._temperature

        def of_query(i: tf.Tensor) -> tf.Tensor:
            def step(j: tf.Tensor, total: tf.Tensor) -> tuple:
                return (total + tf.matmul(slopes(i, j), k[j]),)

            return _add_up(step, self._key_blocks, (tf.zeros_like(q[0]),))[0]

        def of_key(j: tf.Tensor) -> tf.Tensor:
            def step(i: tf.Tensor, total: tf.Tensor) -> tuple:
                return (total + tf.matmul(slopes(i, j), q[i], transpose_a=True),)

            return _add_up(step, self._query_blocks, (tf.zeros_like(k[0]),))[0]

        rows = tf.TensorSpec([self._block, q.shape[-1]])
        by_query = _for_all(of_query, self._query_blocks, rows)[: self._num_queries]
        return by_query, _for_all(of_key, self._key_blocks, rows)[: self._num_keys]

    def _padded(self, rows: tf.Tensor, count: tf.Tensor) -> tf.Tensor:
        missing = count * self._block - tf.shape(rows)[0]
        rows = tf.pad(rows, [[0, missing], *[[0, 0]] * (rows.shape.rank - 1)])
        return tf.reshape(rows, tf.concat([[count, self._block], tf.shape(rows)[1:]], axis=0))

    def _logits(self, q: tf.Tensor, k: tf.Tensor, i: tf.Tensor, j: tf.Tensor) -> tf.Tensor:
        """Of blocks i and j, [block, block]."""
        itself = self._own[i][:, tf.newaxis] == self._numbers[j]
        excluded = itself | (self._numbers[j] >= self._num_keys)
        similarity = tf.matmul(q[i], k[j], transpose_b=True) / self._temperature
        return tf.where(excluded, _EXCLUDED, similarity)


def _add_up(step: Callable, count: tf.Tensor, start: tuple) -> tuple:
    """What is left of `start` after `step` for every block."""
    return tf.while_loop(
        lambda j, *_: j < count,
        lambda j, *state: (j + 1, *step(j, *state)),
        (0, *start),
        parallel_iterations=1,
    )[1:]


def _for_all(of_block: Callable, count: tf.Tensor, signature: Any) -> Any:
    """What `of_block` gives for each block, row by row; one after the other, to save memory."""
    found = tf.map_fn(
        of_block, tf.range(count), fn_output_signature=signature, parallel_iterations=1
    )
    return tf.nest.map_structure(
        lambda rows: tf.reshape(rows, tf.concat([[-1], tf.shape(rows)[2:]], axis=0)), found
    )
