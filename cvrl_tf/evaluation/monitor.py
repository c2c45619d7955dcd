"""Monitors that measure the features during training."""

import tf_keras as keras

from cvrl_tf.data.pipeline import Pipeline
from cvrl_tf.evaluation.features import extract
from cvrl_tf.measures.neighbors import Knn


class KnnMonitor(keras.callbacks.Callback):
    """Add `knn_top1`, the accuracy of `neighbors.Knn`, to the metrics of every n-th epoch.

    Bind it with `settings.Validation.monitors = [@monitor.KnnMonitor()]`.
    """

    metric_names = ("knn_top1",)

    def __init__(
        self,
        train_data: Pipeline,
        test_data: Pipeline,
        num_classes: int,
        batch: int,
        every: int = 1,
        knn: Knn | None = None,
    ) -> None:
        """Args:
        train_data, test_data: two splits; the features of a video's views are averaged.
        num_classes: from `data.pipeline.num_classes`.
        batch: number of clips that the encoder sees at a time.
        every: number of epochs from one measurement to the next.
        knn: classifier; `neighbors.Knn()` if None.

        Raises:
          ValueError: a video has no class.
        """
        super().__init__()
        for data in (train_data, test_data):
            data.check_labels()
        self._data = train_data, test_data
        self._num_classes, self._batch, self._every = num_classes, batch, every
        self._knn = knn or Knn()

    def on_epoch_end(self, epoch: int, logs: dict | None = None) -> None:
        if (epoch + 1) % self._every or logs is None:
            return
        train, test = (
            extract(self.model.encoder, data, self._batch).of_videos for data in self._data
        )
        found = self._knn(train, test, self._num_classes)
        logs["knn_top1"] = found["top1"].value
