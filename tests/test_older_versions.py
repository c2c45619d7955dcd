"""What version 1 wrote opens in this one: a run, its records, and what they say of themselves."""

import json
import shutil
from pathlib import Path

import gin
import numpy as np
from conftest import ROOT, sampling

from cvrl_tf import checkpoints
from cvrl_tf.inference import saved_model
from cvrl_tf.training.run import Run

V1 = ROOT / "tests" / "fixtures" / "v1"
# By the names of today; the old run's config.gin has those of then.
PARAMETERS = [
    f"DATA_DIR='{V1 / 'records'}'",
    "resnet3d.ResNet3D.width=0.015625",
    "NUM_FRAMES=2",
    "SIZE=16",
    "heads.ProjectionHead.hidden_dim=8",
    "heads.ProjectionHead.output_dim=4",
    "run.Run.global_batch=2",
    "schedules.warmup_cosine.warmup_epochs=0",
]


def test_features_of_an_older_run_are_the_same(tmp_path: Path) -> None:
    saved = checkpoints.SavedRun.open(V1 / "run")
    assert saved.sampling == sampling(2, 16, short_side=16)
    clips = np.random.default_rng(0).random([2, 2, 16, 16, 3]).astype(np.float32)
    expected = np.load(V1 / "features.npy")
    np.testing.assert_allclose(saved.load_encoder()(clips), expected, rtol=1e-5, atol=1e-6)
    saved_model.export_encoder(V1 / "run", tmp_path / "export", num_clips=1, num_crops=1)
    facts = json.loads((tmp_path / "export" / checkpoints.EXPORT_FILE).read_text())
    assert facts["views"]["size"] == 16 and facts["run"]["seed"] == 0


def test_an_older_run_resumes(tmp_path: Path) -> None:
    folder = tmp_path / "run"
    shutil.copytree(V1 / "run", folder)
    gin.clear_config()
    gin.add_config_file_search_path(str(ROOT))
    recipe = ["gin/demo/pretrain.gin"]
    gin.parse_config_files_and_bindings(
        recipe, [*PARAMETERS, "run.Run.epochs=2", "settings.Checkpointing.extend=True"]
    )
    run = gin.get_configurable(Run)(model_dir=folder)
    assert run.step == 2
    run.fit()
    assert run.step == 4
    assert json.loads((folder / "run.json").read_text())["version"] == 2
