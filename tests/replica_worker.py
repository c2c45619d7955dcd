"""Run by test_distribution.py in processes of its own, since devices are set up once a process.

usage: replica_worker.py OUTPUT STRATEGY LOGICAL_CPUS

Computes the loss and the gradient of one global batch and makes two SGD steps; process 0 writes
what came out to OUTPUT.
"""

import json
import os
import sys

import numpy as np
import tensorflow as tf
import tf_keras as keras

from cvrl_tf import distribution
from cvrl_tf.augment.chain import Chain, ViewChains
from cvrl_tf.models.heads import ProjectionHead
from cvrl_tf.models.resnet3d import ResNet3D
from cvrl_tf.tasks.pretrain import ContrastiveLearner

GLOBAL_BATCH = 8


def batches(context: tf.distribute.InputContext) -> tf.data.Dataset:
    """Noise videos of the same global batches, this worker's part."""
    rng = np.random.default_rng(0)
    frames = rng.integers(0, 256, (2 * GLOBAL_BATCH, 2, 4, 16, 16, 3), np.uint8)
    data = tf.data.Dataset.from_tensor_slices(
        {"frames": frames, "seeds": np.zeros((2 * GLOBAL_BATCH, 2, 2), np.int32)}
    )
    share = GLOBAL_BATCH // context.num_input_pipelines
    mine = data.batch(share).shard(context.num_input_pipelines, context.input_pipeline_id)
    return mine.unbatch().batch(context.get_per_replica_batch_size(GLOBAL_BATCH)).repeat()


def main(output: str, name: str, logical_cpus: int) -> None:
    strategy = distribution.strategy(name, logical_cpus=logical_cpus)
    keras.utils.set_random_seed(0)
    with strategy.scope():
        model = ContrastiveLearner(
            ResNet3D(depth=10, width=0.125, stem_pool=False),
            ProjectionHead(hidden_dim=32, num_hidden=1, output_dim=16),
            ViewChains([Chain()]),
            weight_decay=1e-3,
            block=3 if name == "mirrored" else None,  # which must not matter
        )
        model.compile(keras.optimizers.SGD(0.01))
        model.optimizer.build(model.trainable_variables)
    data = strategy.distribute_datasets_from_function(batches)

    @tf.function
    def loss_and_gradient(batch: dict) -> tuple[tf.Tensor, list[tf.Tensor]]:
        def replica(batch: dict) -> tuple[tf.Tensor, list[tf.Tensor]]:
            with tf.GradientTape() as tape:
                objective, _ = model.compute_losses(batch, training=True)
            gradients = tape.gradient(objective, model.trainable_variables)
            context = tf.distribute.get_replica_context()
            return context.all_reduce("sum", [objective, *gradients])

        reduced = strategy.run(replica, args=(batch,))
        return [strategy.experimental_local_results(value)[0] for value in reduced]

    loss, *gradients = loss_and_gradient(next(iter(data)))
    history = model.fit(data, steps_per_epoch=2, epochs=1, verbose=0).history
    # Read by all: batch normalisation's statistics are a mean over the workers.
    weights = model.encoder.get_weights() + model.head.get_weights()
    if json.loads(os.environ.get("TF_CONFIG", '{"task": {"index": 0}}'))["task"]["index"] == 0:
        np.savez(
            output,
            replicas=strategy.num_replicas_in_sync,
            loss=loss,
            gradient=np.concatenate([np.ravel(g) for g in gradients]),
            logged_loss=history["loss"],
            weights=np.concatenate([np.ravel(w) for w in weights]),
        )


if __name__ == "__main__":
    main(sys.argv[1], sys.argv[2], int(sys.argv[3]))
