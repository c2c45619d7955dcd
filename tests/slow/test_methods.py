"""Each method's recipe, at the size of the demo: it trains, and resumes bit by bit."""

import json
import shutil
from pathlib import Path

import gin
import numpy as np
import pytest
import tensorflow as tf
from conftest import ROOT, noise_video, write_records

from cvrl_tf import checkpoints
from cvrl_tf.training.run import Run

pytestmark = pytest.mark.slow

METHODS = sorted(path.stem for path in (ROOT / "gin" / "methods").glob("*.gin"))
STEPS = 3


@pytest.fixture(scope="module")
def records(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Videos as long as those of the demo."""
    videos = [noise_video(32, 48, 56, seed) for seed in range(4 * STEPS)]
    return write_records(tmp_path_factory.mktemp("records"), videos)


def trained(method: str, records: Path, folder: Path) -> dict[str, np.ndarray]:
    """Train one epoch, or what is left of it; return the last checkpoint."""
    gin.clear_config()
    gin.add_config_file_search_path(str(ROOT))
    gin.parse_config_files_and_bindings(
        [f"gin/methods/{method}.gin", "gin/common/demo/pretrain.gin"],
        [
            *(f"DATA_DIR='{records}'", "run.Run.global_batch=4", "run.Run.epochs=1"),
            *("schedules.warmup_cosine.warmup_epochs=0", "settings.Checkpointing.every=1"),
        ],
    )
    gin.get_configurable(Run)(model_dir=folder).fit()
    gin.clear_config()
    reader = tf.train.load_checkpoint(str(folder / "checkpoints" / f"ckpt-{STEPS}"))
    names = (name for name in reader.get_variable_to_shape_map() if not name.startswith("_"))
    return {name: reader.get_tensor(name) for name in names}


@pytest.mark.parametrize("method", METHODS)
def test_a_method_trains_and_resumes(method: str, records: Path, tmp_path: Path) -> None:
    whole = trained(method, records, tmp_path / "whole")
    lines = (tmp_path / "whole" / "metrics.jsonl").read_text().splitlines()
    assert all(np.isfinite(list(json.loads(line).values())).all() for line in lines)
    assert (tmp_path / "whole" / "views.png").exists()

    shutil.copytree(tmp_path / "whole", tmp_path / "resumed")
    for path in (tmp_path / "resumed" / "checkpoints").glob("*"):
        if not path.name.startswith("ckpt-1."):
            path.unlink()
    resumed = trained(method, records, tmp_path / "resumed")
    assert resumed.keys() == whole.keys()
    for name in whole:
        np.testing.assert_array_equal(resumed[name], whole[name], err_msg=name)

    saved = checkpoints.SavedRun.open(tmp_path / "whole")
    encoder = saved.load_encoder()  # which is what an export takes, and a head called so
    assert np.isfinite(encoder(tf.zeros([1, 8, 40, 40, 3]))).all()
    assert ("head" in saved.facts) == any(name.startswith("head/") for name in whole)
