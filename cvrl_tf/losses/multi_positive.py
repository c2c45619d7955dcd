"""InfoNCE with several positives, each of them against the negatives alone.

Gordon et al., "Watching the World Go By: Representation Learning from Unlabeled Videos" (VINCE),
2020; with one positive it is the loss of MoCo (He et al., 2020, equation 1).
"""

import tensorflow as tf

from cvrl_tf.losses.result import LossResult

_EXCLUDED = -1e9  # stands in for minus infinity


def multi_positive(
    queries: tf.Tensor,
    keys: tf.Tensor,
    queue: tf.Tensor,
    positive: tf.Tensor,
    negative: tf.Tensor,
    temperature: float,
) -> LossResult:
    """Compute for each query the mean over its positives p of

        -log( exp(q . k_p / t) / (exp(q . k_p / t) + sum over negatives n of exp(q . k_n / t)) ).

    All alike, with N negatives, it is ln(1 + N). Other positives are not in the denominator.

    Args:
      queries: float32 [n, E], of unit length.
      keys: float32 [m, E], of unit length.
      queue: float32 [K, E], of unit length: negatives of all queries.
      positive: bool [n, m], at least one a query.
      negative: bool [n, m], of the keys.
      temperature: t.

    Returns:
      Losses [n], and "contrastive_accuracy" [n]: the share of the positives that are nearer than
      every negative.
    """
    of_keys = tf.matmul(queries, keys, transpose_b=True) / temperature
    of_queue = tf.matmul(queries, queue, transpose_b=True) / temperature
    rivals = tf.concat([tf.where(negative, of_keys, _EXCLUDED), of_queue], axis=1)
    against = tf.reduce_logsumexp(rivals, axis=1, keepdims=True)
    weights = tf.cast(positive, tf.float32)
    weights /= tf.reduce_sum(weights, axis=1, keepdims=True)
    losses = tf.reduce_sum(weights * tf.nn.softplus(against - of_keys), axis=1)
    nearest = tf.reduce_max(rivals, axis=1, keepdims=True)
    accuracy = tf.reduce_sum(weights * tf.cast(of_keys > nearest, tf.float32), axis=1)
    return LossResult(losses, {"contrastive_accuracy": accuracy})
