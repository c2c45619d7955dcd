"""CVRL: spatiotemporal contrastive video representation learning, in TensorFlow 2 / Keras."""

import os

# Keras here is tf_keras (Keras 2). Where TensorFlow's own `tf.keras` is touched, by a dependency or
# a user, it must be the same one, or there are two class hierarchies.
os.environ.setdefault("TF_USE_LEGACY_KERAS", "1")
