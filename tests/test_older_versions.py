"""What version 1 wrote opens in this one: a run, its records, and what they say of themselves."""

import json
import shutil
from pathlib import Path

import gin
import numpy as np
import pytest
from conftest import ROOT, sampling

from cvrl_tf import checkpoints
from cvrl_tf.data import shard_index
from cvrl_tf.inference import saved_model
from cvrl_tf.training.run import Run

V1 = ROOT / "tests" / "fixtures" / "v1"
# By the names of today; the old run's config.gin has those of then.
PARAMETERS = [
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


def new_run(records: Path, folder: Path, **checkpointing: object) -> Run:
    gin.clear_config()
    gin.add_config_file_search_path(str(ROOT))
    more = [f"DATA_DIR='{records}'", "run.Run.epochs=2"]
    more += [f"settings.Checkpointing.{name}={value!r}" for name, value in checkpointing.items()]
    gin.parse_config_files_and_bindings(["gin/demo/pretrain.gin"], [*PARAMETERS, *more])
    return gin.get_configurable(Run)(model_dir=folder)


@pytest.mark.slow
def test_a_run_of_the_earlier_order_is_refused_and_begins_another(tmp_path: Path) -> None:
    folder, records = tmp_path / "run", tmp_path / "tiny_records"
    shutil.copytree(V1 / "run", folder)
    shutil.copytree(V1 / "records", records)
    for shard in records.glob("train-*"):
        shard_index.scan(shard).save(shard_index.path_of(shard))
    with pytest.raises(ValueError, match="records in another order. Finish it with that version"):
        new_run(records, folder, extend=True)
    run = new_run(records, tmp_path / "new", initial=str(folder))
    run.fit()
    assert run.step == 4
    facts = json.loads((tmp_path / "new" / "run.json").read_text())
    assert facts["version"] == 2 and facts["train"]["order"] == "ids"
