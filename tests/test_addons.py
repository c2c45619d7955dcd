"""TensorFlow Addons' optimizers, named in gin; collected where Addons is installed."""

from pathlib import Path

import gin
import numpy as np
import pytest
import tensorflow_addons as tfa
from conftest import ROOT

from cvrl_tf.training.run import Run

pytestmark = pytest.mark.addons

RECIPE = """
from __gin__ import dynamic_registration

from tensorflow_addons import optimizers
from cvrl_tf.training import run
from cvrl_tf.training import settings
from cvrl_tf.data import clips
from cvrl_tf.data import views
from cvrl_tf.models import resnet3d
from cvrl_tf.optim import schedules

include 'gin/demo/pretrain.gin'

settings.Optimization.optimizer = @optimizers.{name}
run.Run.global_batch = 4
run.Run.epochs = 1
schedules.warmup_cosine.warmup_epochs = 0
settings.Execution.log_every = 1
resnet3d.ResNet3D.width = 0.125
clips.UniformClips.num_frames = 4
views.RandomResizedCrop.size = 16
"""


@pytest.mark.parametrize(
    ("name", "extra"),
    [("LAMB", ""), ("SGDW", "optimizers.SGDW.weight_decay = 1e-4"), ("RectifiedAdam", "")],
)
def test_an_addons_optimizer_trains_and_resumes(
    name: str, extra: str, noise_records: Path, tmp_path: Path
) -> None:
    def new_run() -> Run:
        gin.clear_config()
        gin.add_config_file_search_path(str(ROOT))
        gin.parse_config([RECIPE.format(name=name), extra, f"DATA_DIR='{noise_records}'"])
        return gin.get_configurable(Run)(model_dir=tmp_path)

    first = new_run()
    assert isinstance(first.model.optimizer, getattr(tfa.optimizers, name))
    before = first.model.encoder.get_weights()
    first.fit()
    assert first.step == 4
    after = first.model.encoder.get_weights()
    assert any(np.any(a != b) for a, b in zip(before, after, strict=True))
    again = new_run()
    assert again.step == 4
    slots = zip(again.model.optimizer.variables(), first.model.optimizer.variables(), strict=True)
    for restored, expected in slots:
        np.testing.assert_array_equal(restored, expected)
