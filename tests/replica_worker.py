"""Run by test_distribution.py in processes of its own, since devices are set up once a process.

usage: replica_worker.py OUTPUT STRATEGY LOGICAL_CPUS

Computes the loss and the gradient of one global batch, once more with frozen normalization, and
makes two SGD steps; process 0 writes what came out to OUTPUT.
"""

import json
import os
import sys
from collections.abc import Callable

import numpy as np
import tensorflow as tf
import tf_keras as keras

from cvrl_tf import distribution
from cvrl_tf.augment.chain import Chain, ViewChains
from cvrl_tf.losses.info_nce import InfoNCE
from cvrl_tf.models.heads import ProjectionHead
from cvrl_tf.models.resnet3d import ResNet3D
from cvrl_tf.tasks.pretext.contrastive import ContrastiveLearner

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


def learner(replicas: int, frozen: bool, name: str) -> ContrastiveLearner:
    """The model; on several replicas it is computed in ways that must not matter."""
    keras.utils.set_random_seed(0)
    alone = replicas == 1
    recompute = not alone and not frozen
    model = ContrastiveLearner(
        ResNet3D(depth=10, width=0.125, stem_pool=False, recompute=recompute),
        ProjectionHead(hidden_dim=32, num_hidden=1, output_dim=16),
        ViewChains([Chain()]),
        weight_decay=1e-3,
        loss=InfoNCE(0.1, block=3 if name == "mirrored" else None),
        micro_batch=GLOBAL_BATCH // replicas // 2 if frozen and not alone else None,
    )
    for layer in model.submodules:
        if frozen and isinstance(layer, keras.layers.BatchNormalization):
            layer.trainable = False
    model.compile(keras.optimizers.SGD(0.01), steps_per_execution=1 if alone else 2)
    model.optimizer.build(model.trainable_variables)
    return model


def main(output: str, name: str, logical_cpus: int) -> None:
    strategy = distribution.strategy(name, logical_cpus=logical_cpus)
    replicas = strategy.num_replicas_in_sync
    with strategy.scope():
        frozen = learner(replicas, frozen=True, name=name)
        model = learner(replicas, frozen=False, name=name)
    data = strategy.distribute_datasets_from_function(batches)

    def loss_and_gradient(model: ContrastiveLearner) -> tuple[np.ndarray, np.ndarray]:
        """Of the first global batch, summed over the replicas."""

        def replica(batch: dict) -> list[tf.Tensor]:
            objective, gradients, _ = model.gradients(batch)
            return tf.distribute.get_replica_context().all_reduce("sum", [objective, *gradients])

        summed = tf.function(lambda batch: strategy.run(replica, args=(batch,)))(next(iter(data)))
        loss, *gradients = (strategy.experimental_local_results(each)[0] for each in summed)
        return loss.numpy(), np.concatenate([np.ravel(each) for each in gradients])

    @tf.function
    def gathered() -> tuple[tuple, tuple]:
        """`distribution.gather` and `all_gather`: what each gives, and its gradient."""

        def replica() -> tuple[tuple, tuple]:
            context = tf.distribute.get_replica_context()
            number = context.replica_id_in_sync_group
            local = tf.random.stateless_normal([6, 5], tf.stack([number, 0]))

            def with_gradient(gather: Callable) -> tuple[tf.Tensor, tf.Tensor]:
                with tf.GradientTape() as tape:
                    tape.watch(local)
                    rows = gather(local)
                    weights = tf.random.stateless_normal(tf.shape(rows), tf.stack([number, 1]))
                    total = tf.reduce_sum(tf.sin(rows) * weights)
                return rows, tape.gradient(total, local)

            return (
                with_gradient(lambda local: distribution.gather(local)[0]),
                with_gradient(lambda local: context.all_gather(local, axis=0)),
            )

        return strategy.run(replica)

    ours, theirs = tf.nest.map_structure(strategy.experimental_local_results, gathered())
    loss, gradient = loss_and_gradient(model)
    frozen_loss, frozen_gradient = loss_and_gradient(frozen)
    history = model.fit(data, steps_per_epoch=2, epochs=1, verbose=0).history
    # Read by all: batch normalization's statistics are a mean over the workers.
    weights = model.encoder.get_weights() + model.head.get_weights()
    if json.loads(os.environ.get("TF_CONFIG", '{"task": {"index": 0}}'))["task"]["index"] == 0:
        np.savez(
            output,
            replicas=replicas,
            loss=loss,
            gradient=gradient,
            frozen_loss=frozen_loss,
            frozen_gradient=frozen_gradient,
            gathered=ours[0],
            gathered_gradient=ours[1],
            all_gathered=theirs[0],
            all_gathered_gradient=theirs[1],
            logged_loss=history["loss"],
            weights=np.concatenate([np.ravel(w) for w in weights]),
        )


if __name__ == "__main__":
    main(sys.argv[1], sys.argv[2], int(sys.argv[3]))
