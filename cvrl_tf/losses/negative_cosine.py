"""The loss of methods without negatives: a prediction of one clip points to another clip.

Grill et al., "Bootstrap Your Own Latent", 2020, equation 2, up to a constant; Chen and He,
"Exploring Simple Siamese Representation Learning", 2021, equations 1 to 4.
"""

import tensorflow as tf


def negative_cosine(predictions: tf.Tensor, targets: tf.Tensor) -> tf.Tensor:
    """Compute for each clip the mean of -cos(p_i, z_j) over the other clips j of its video.

    No gradient goes into the targets. All alike it is -1, at random near 0.

    Args:
      predictions: float [B, V, E].
      targets: float [B, V, E].

    Returns:
      float32 [B, V].
    """
    p = tf.math.l2_normalize(tf.cast(predictions, tf.float32), axis=2)
    z = tf.math.l2_normalize(tf.cast(tf.stop_gradient(targets), tf.float32), axis=2)
    cosines = tf.matmul(p, z, transpose_b=True)
    others = tf.reduce_sum(cosines, axis=2) - tf.linalg.diag_part(cosines)
    return -others / (predictions.shape[1] - 1)
