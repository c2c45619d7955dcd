"""Models come of classes that are here; a file's word is not taken for what to import or call."""

import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
import tf_keras as keras

from cvrl_tf.models.encoder import Encoder
from cvrl_tf.models.heads import Head, ProjectionHead
from cvrl_tf.models.rebuilding import Rebuildable, rebuild
from cvrl_tf.models.resnet3d import ResNet3D

TINY = {"depth": 10, "width": 0.125}


def described(module: Any, name: Any, config: Any = TINY, **others: Any) -> dict[str, Any]:
    """As Keras writes it."""
    class_name = str(name).rpartition(">")[2]
    return {"module": module, "class_name": class_name, "registered_name": name} | {
        "config": config,
        **others,
    }


@pytest.mark.parametrize("model", [ResNet3D(**TINY), ProjectionHead(8, 1, 4)], ids=type)
def test_what_keras_writes_comes_back(model: Rebuildable) -> None:
    base = Encoder if isinstance(model, Encoder) else Head
    again = rebuild(keras.saving.serialize_keras_object(model), base)
    assert type(again) is type(model) and again.get_config() == model.get_config()


def test_a_file_may_come_before_its_module_is_imported() -> None:
    code = (
        "import cvrl_tf, sys; from cvrl_tf.models import rebuilding, encoder;"
        "assert 'cvrl_tf.models.r2plus1d' not in sys.modules;"
        "rebuilding.rebuild({'module': 'cvrl_tf.models.r2plus1d', 'config': {},"
        "'registered_name': 'cvrl_tf>R2Plus1D'}, encoder.Encoder)"
    )
    subprocess.run([sys.executable, "-c", code], check=True)


def test_options_of_the_file_are_not_taken_over() -> None:
    file = described("cvrl_tf.models.resnet3d", "cvrl_tf>ResNet3D", {**TINY, "recompute": True})
    assert not rebuild(file, Encoder).get_config()["recompute"]
    assert rebuild(file, Encoder, recompute=True).get_config()["recompute"]


def test_a_class_of_the_users_own_module() -> None:
    @keras.saving.register_keras_serializable("mine")
    class Mine(ResNet3D):
        pass

    file = keras.saving.serialize_keras_object(Mine(**TINY))
    assert type(rebuild(file, Encoder)) is Mine


@pytest.mark.parametrize(
    "file",
    [
        described("os", "system", "touch ran"),
        described("ran_by_import", "ran_by_import>Encoder"),
        described("cvrl_tf.models.ran_by_import", "x"),
        described("cvrl_tf.models..ran_by_import", "x"),
        described(["os"], ["system"]),
        described("cvrl_tf.models.heads", "cvrl_tf>ProjectionHead"),
        described("tf_keras.src.layers.core.lambda_layer", "Lambda", {"function": "x"}),
        *(None, [], "cvrl_tf>ResNet3D", {}, {"config": {}}),
    ],
)
def test_other_classes_are_refused(
    file: Any, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "ran_by_import.py").write_text("open('ran', 'w')\n")
    monkeypatch.chdir(tmp_path)
    monkeypatch.syspath_prepend(tmp_path)
    with pytest.raises(ValueError, match=r"is no Encoder of cvrl_tf\.models.*--module=MODULE"):
        rebuild(file, Encoder)
    assert not (tmp_path / "ran").exists() and "ran_by_import" not in sys.modules


LAMBDA = described("tf_keras.layers", "Lambda", {"function": ["4wAAAA==", None, None]})


@pytest.mark.parametrize(
    "config",
    [
        *(None, [], "x", 3),
        {"depth": LAMBDA},
        {"width": LAMBDA},
        {"unknown": LAMBDA},
        {"depth": 10, "width": 1e308},
        {"depth": 10, "temporal_kernels": 3},
        {"name": "x", "layers": [LAMBDA], "input_layers": [], "output_layers": []},
    ],
)
def test_arguments_stay_what_they_are(config: Any) -> None:
    file = described("cvrl_tf.models.resnet3d", "cvrl_tf>ResNet3D", config)
    with pytest.raises(ValueError, match="can't be made of its arguments|No ResNet of depth"):
        rebuild(file, Encoder)
