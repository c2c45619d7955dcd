"""Accuracy of the frozen features while training goes on."""

import tf_keras as keras

from cvrl_tf.data.pipeline import Pipeline
from cvrl_tf.evaluation.features import extract
from cvrl_tf.measures.neighbors import knn


class KnnMonitor(keras.callbacks.Callback):
    """Adds `knn_top1`, by `neighbors.knn`, to the metrics of every n-th epoch.

    Bind it with `run.Run.callbacks = [@monitor.KnnMonitor()]`.
    """

    metric_names = ("knn_top1",)

    def __init__(
        self,
        train_data: Pipeline,
        test_data: Pipeline,
        num_classes: int,
        batch: int,
        every: int = 1,
        k: int = 20,
        temperature: float = 0.07,
    ) -> None:
        """Args:
        train_data, test_data: views of two splits; the features of a video's views are averaged.
        num_classes: from `data.pipeline.num_classes`.
        batch: clips in a step.
        every: epochs between two of them.
        k, temperature: of `neighbors.knn`.
        """
        super().__init__()
        self._data = train_data, test_data
        self._num_classes, self._batch, self._every = num_classes, batch, every
        self._k, self._temperature = k, temperature

    def on_epoch_end(self, epoch: int, logs: dict | None = None) -> None:
        if (epoch + 1) % self._every or logs is None:
            return
        train, test = (
            extract(self.model.encoder, data, self._batch).of_videos for data in self._data
        )
        found = knn(train, test, self._num_classes, self._k, self._temperature)
        logs["knn_top1"] = found["top1"].value
