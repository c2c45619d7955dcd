"""Assignments of samples to prototypes that use all of them alike, by Sinkhorn and Knopp's steps.

Cuturi, "Sinkhorn Distances: Lightspeed Computation of Optimal Transport", 2013; as codes of
samples in SwAV (Caron et al., "Unsupervised Learning of Visual Features by Contrasting Cluster
Assignments", 2020).
"""

import dataclasses

import tensorflow as tf


@dataclasses.dataclass(frozen=True)
class Sinkhorn:
    """Scales exp(scores / epsilon) so that a sample has mass 1, and all prototypes about the same.

    It works on logarithms, so that no score overflows.

    Attributes:
      epsilon: the smaller, the nearer to one prototype a sample.
      iterations: each scales the prototypes, then the samples.
    """

    epsilon: float
    iterations: int

    def __call__(self, scores: tf.Tensor) -> tf.Tensor:
        """Assign samples, without gradient.

        Args:
          scores: float32 [B, ..., K], of each sample with each prototype; the axes between are
            separate assignments.

        Returns:
          float32 [B, ..., K]; the sum over K is 1, that over B near B / K.
        """
        log_q = tf.stop_gradient(scores) / self.epsilon
        for _ in range(self.iterations):
            log_q -= tf.reduce_logsumexp(log_q, axis=0, keepdims=True)
            log_q -= tf.reduce_logsumexp(log_q, axis=-1, keepdims=True)
        return tf.exp(log_q)
