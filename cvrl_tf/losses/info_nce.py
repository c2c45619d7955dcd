"""InfoNCE, equation 1 of the paper."""

import tensorflow as tf

# Stands in for minus infinity, which would make 0 * log 0 of the entropy not a number.
_EXCLUDED = -1e9


def info_nce(
    queries: tf.Tensor, keys: tf.Tensor, offset: tf.Tensor | int, temperature: float
) -> tuple[tf.Tensor, tf.Tensor, tf.Tensor]:
    """The contrastive loss of each anchor,

        L_i = -log( exp(sim(z_i, z_i') / t) / sum over the 2N-1 others of exp(sim(z_i, z_k) / t) ),

    with sim the cosine. Both views of a video are anchors; the paper's loss is the mean over all of
    them. With all embeddings alike it is ln(2N - 1).

    Args:
      queries: float [n, E], embeddings of this replica. Rows come in pairs, the two views of a
        video side by side. They need not be normalised.
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
    """Whether the other view is the nearest of all keys, float32 [n]; see `info_nce`."""
    return tf.cast(tf.argmax(logits, axis=1, output_type=labels.dtype) == labels, tf.float32)


def contrastive_entropy(logits: tf.Tensor) -> tf.Tensor:
    """Entropy of the softmax over the keys, float32 [n], nats; ln(2N - 1) is no preference."""
    log_p = tf.nn.log_softmax(logits)
    return -tf.reduce_sum(tf.exp(log_p) * log_p, axis=1)
