"""Every recipe parses, says what DESIGN asks of it, and builds."""

from collections.abc import Callable
from pathlib import Path

import gin
import numpy as np
import pytest
import tensorflow as tf
import tf_keras as keras
from conftest import ROOT, sampling

from cvrl_tf import checkpoints
from cvrl_tf.data import schema, shard_index
from cvrl_tf.evaluation import frozen
from cvrl_tf.models.resnet3d import ResNet3D
from cvrl_tf.training.run import Run

ALL = sorted(path.relative_to(ROOT) for path in (ROOT / "gin").rglob("*.gin"))
RECIPES = [path for path in ALL if path.parts[1] != "common"]
VIDEOS = 4_800
DEMO_PROBE = Path("gin/demo/probe.gin")
METHODS = [path for path in RECIPES if path.parts[1] == "methods"]
# What the methods share in an equal comparison.
BUDGET = (
    *(f"{macro}/macro.value" for macro in ("NUM_FRAMES", "SIZE", "WEIGHT_DECAY", "DECAY_IN_LOSS")),
    *(
        "run.Run.epochs",
        "run.Run.global_batch",
        "resnet3d.ResNet3D.depth",
        "settings.Optimization.optimizer",
    ),
    *("tf_keras.optimizers.SGD.momentum", "settings.Optimization.learning_rate"),
    *("schedules.warmup_cosine.learning_rate", "schedules.warmup_cosine.base_batch"),
    "schedules.warmup_cosine.warmup_epochs",
)


@pytest.fixture
def parameters(tmp_path: Path) -> list[str]:
    """A data set of the classes of Kinetics, as far as its facts and indexes go."""
    names = ["train", "validation", "test", "train_1pct", "train_10pct"]
    shards = {name: f"{name}-00000-of-00001" for name in names}
    labels = [f"class {i}" for i in range(400)]
    info = schema.DatasetInfo(
        labels,
        256,
        {
            name: schema.SplitInfo({shard: VIDEOS}, 0, {}, dict.fromkeys(labels, VIDEOS // 400), {})
            for name, shard in shards.items()
        },
    )
    info.save(tmp_path)
    rows = np.zeros(VIDEOS, shard_index.RECORD)
    rows["num_frames"] = 300
    index = shard_index.ShardIndex(0, rows, [b""] * VIDEOS, np.zeros(0, shard_index.FRAME))
    for shard in shards.values():
        (tmp_path / shard).touch()
        index.save(shard_index.path_of(tmp_path / shard))
    return [f"DATA_DIR='{tmp_path}'"]


@pytest.fixture(autouse=True)
def fresh_gin() -> None:
    gin.clear_config()
    gin.add_config_file_search_path(str(ROOT))


@pytest.mark.parametrize("recipe", RECIPES, ids=str)
def test_recipe_has_its_head(recipe: Path) -> None:
    text = (ROOT / recipe).read_text()
    head = text[: text.index("\nfrom __gin__") if "\nfrom __gin__" in text else None]
    for word in ("Command:", "Hardware:", "Time:", "Metric:"):
        assert word in head, f"{recipe} does not say its {word}"
    assert "measured" in head
    assert str(recipe) in head, "the command names the file"


@pytest.mark.parametrize(
    "recipe",
    [
        pytest.param(recipe, marks=pytest.mark.slow) if recipe in METHODS else recipe
        for recipe in RECIPES
    ],
    ids=str,
)
def test_recipe_builds(recipe: Path, parameters: list[str], tmp_path: Path) -> None:
    parameters = [*parameters, "resnet3d.ResNet3D.width=0.125"]
    if recipe.parts[1] in ("probe", "finetune", "semi") or recipe == DEMO_PROBE:
        # What a pretraining run would have left.
        encoder = ResNet3D(depth=10, width=0.25)
        encoder.build()
        prefix = tf.train.Checkpoint(encoder=encoder).write(str(tmp_path / "run/checkpoints/c-1"))
        checkpoints.save_encoder_config(encoder, sampling(16, 224), tmp_path / "run")
        parameters = [*parameters, f"CHECKPOINT='{prefix}'"]
    if recipe.name == "k600_authors_code.gin":
        parameters = [*parameters, "AUTHORS_REPLICAS=64"]
    gin.parse_config_files_and_bindings([str(recipe)], parameters)
    if recipe.name == "cached.gin" or recipe == DEMO_PROBE:
        assert gin.get_configurable(frozen.FrozenEvaluation)().num_classes == 400
        return
    run = gin.get_configurable(Run)(model_dir=tmp_path / "new")
    assert run.steps_per_epoch == VIDEOS // run.global_batch
    assert run.model.encoder.count_params() > 0
    if run.model.kind == "classify":
        assert run.model.classifier.units == 400
    if recipe.parent.name == "baselines" and recipe.name == "simclr.gin":
        assert run.model.encoder.stem.conv.kernel.shape[0] == 1  # a network of images


@pytest.mark.parametrize("recipe", METHODS, ids=lambda path: path.stem)
def test_equal_budget_goes_behind_a_method(recipe: Path, parameters: list[str]) -> None:
    overlay = "gin/common/equal_budget/methods.gin"
    gin.parse_config_files_and_bindings([str(recipe), overlay], parameters)
    equal = {name: repr(gin.query_parameter(name)) for name in BUDGET}
    gin.clear_config()
    gin.parse_config_files_and_bindings(["gin/pretrain/k400.gin"], parameters)
    assert equal == {name: repr(gin.query_parameter(name)) for name in BUDGET}


def test_paper_numbers_reach_the_pretraining_run(parameters: list[str], tmp_path: Path) -> None:
    gin.parse_config_files_and_bindings(["gin/pretrain/k400.gin"], parameters)
    run = gin.get_configurable(Run)(model_dir=tmp_path / "new")
    assert run.global_batch == 1024
    rate = run.model.optimizer._learning_rate  # the schedule itself
    warmup = 5 * run.steps_per_epoch
    assert rate(0) == 0.0
    assert 0.3199 < rate(warmup) < 0.32
    assert float(rate(800 * run.steps_per_epoch)) == pytest.approx(0, abs=1e-8)
    assert run._train_data.sampling.clip_shape == (16, 224, 224, 3)
    assert run.model.encoder.count_params() == 31_725_248
    assert run.model.head.output_layer.units == 128


def test_the_authors_learning_rate_is_for_their_replicas(
    parameters: list[str], tmp_path: Path
) -> None:
    """The gradient of their loss is 2R times that of the mean: 0.32 x 2 x 8 for 8 replicas."""
    recipe, small = ["gin/pretrain/k600_authors_code.gin"], ["resnet3d.ResNet3D.depth=10"]
    gin.parse_config_files_and_bindings(recipe, [*parameters, *small, "AUTHORS_REPLICAS=8"])
    run = gin.get_configurable(Run)(model_dir=tmp_path / "new")
    rate = run.model.optimizer._learning_rate
    # After the warm-up, where the cosine is at 0.9985.
    assert float(rate(5 * run.steps_per_epoch)) == pytest.approx(5.12 * 0.9985, rel=1e-4)
    gin.clear_config()
    with pytest.raises(ValueError, match=r"AUTHORS_REPLICAS.*not subsequently overridden"):
        gin.parse_config_files_and_bindings(recipe, [*parameters, *small])


@pytest.mark.parametrize("recipe", ["pretrain/k400", "methods/rotation", "methods/clip_order"])
def test_micro_batch_reaches_the_task(recipe: str, parameters: list[str], tmp_path: Path) -> None:
    bindings = [*parameters, "MICRO_BATCH=4", "resnet3d.ResNet3D.depth=10"]
    gin.parse_config_files_and_bindings([f"gin/{recipe}.gin"], bindings)
    assert gin.get_configurable(Run)(model_dir=tmp_path / "new").model._micro_batch == 4


def test_lars_goes_behind_a_recipe(parameters: list[str], tmp_path: Path) -> None:
    from official.modeling.optimization import lars

    recipes = ["gin/demo/pretrain.gin", "gin/common/lars.gin"]
    gin.parse_config_files_and_bindings(recipes, parameters)
    model = gin.get_configurable(Run)(model_dir=tmp_path / "new").model
    assert isinstance(model.optimizer, lars.LARS)
    names = [variable.name for variable in model.trainable_variables]
    decayed = [name for name in names if model.optimizer._use_weight_decay(name)]
    assert decayed == [name for name in names if "kernel" in name] and len(decayed) == 14


def test_lars_takes_over_the_decay_of_any_recipe(parameters: list[str], tmp_path: Path) -> None:
    recipes = ["gin/baselines/supervised_k400.gin", "gin/common/lars.gin"]
    small = ["resnet3d.ResNet3D.depth=10", "resnet3d.ResNet3D.width=0.125"]
    gin.parse_config_files_and_bindings(recipes, [*parameters, *small])
    model = gin.get_configurable(Run)(model_dir=tmp_path / "new").model
    assert model.weight_decay_loss() == 0 and model.optimizer.weight_decay_rate == 1e-4


@pytest.mark.parametrize("name", ["none", "strong", "asymmetric", "on_host"])
def test_augmentation_goes_behind_a_recipe(
    name: str, noise_records: Path, tmp_path: Path, one_worker: Callable
) -> None:
    recipes = ["gin/demo/pretrain.gin", f"gin/common/augment_{name}.gin"]
    small = [f"DATA_DIR='{noise_records}'", "run.Run.global_batch=4"]
    gin.parse_config_files_and_bindings(recipes, small)
    run = gin.get_configurable(Run)(model_dir=tmp_path / "new")
    (batch,) = run._train_data.train_batches(4, 0, 0, one_worker(1)).take(1)
    assert batch["frames"].dtype == (tf.float32 if name == "on_host" else tf.uint8)
    frames = run.model.augment(batch["frames"], batch["seeds"])
    assert frames.shape == (8, 8, 40, 40, 3)
    changed = np.abs(frames - tf.reshape(tf.cast(batch["frames"], tf.float32) / 255, frames.shape))
    assert (changed.max() > 0.01) == (name != "none")


@pytest.mark.parametrize(
    ("name", "parameter", "value"),
    [
        ("mixed_bfloat16", "settings.Execution.precision", "mixed_bfloat16"),
        ("mixed_float16", "settings.Execution.precision", "mixed_float16"),
        ("recompute", "checkpoints.encoder_of.recompute", True),
    ],
)
def test_precision_and_recomputation_go_behind_a_recipe(
    name: str, parameter: str, value: object, parameters: list[str], tmp_path: Path
) -> None:
    recipes = ["gin/demo/pretrain.gin", f"gin/common/{name}.gin"]
    gin.parse_config_files_and_bindings(recipes, parameters)
    assert gin.query_parameter(parameter) == value
    model = gin.get_configurable(Run)(model_dir=tmp_path / "new").model
    compute = {"recompute": "float32"}.get(name, name.removeprefix("mixed_"))
    assert model.encoder.compute_dtype == model.head.compute_dtype == compute
    assert model.encoder.get_config()["recompute"] == (name == "recompute")
    assert keras.mixed_precision.global_policy().name == "float32"  # as it was before


def test_the_checkpoint_settles_the_architecture(parameters: list[str], tmp_path: Path) -> None:
    """Of an inflated network, say, which sees normalized pixels."""
    encoder = ResNet3D(depth=10, width=0.25, padding="symmetric", pixel_mean=(0.4, 0.4, 0.4))
    encoder.build()
    prefix = checkpoints.save_as_run(encoder, sampling(16, 224), tmp_path / "run")
    gin.parse_config_files_and_bindings(
        ["gin/probe/k400.gin", "gin/common/recompute.gin"],
        [*parameters, f"CHECKPOINT='{prefix}'", "resnet3d.ResNet3D.depth=18"],
    )
    found = gin.get_configurable(Run)(model_dir=tmp_path / "new").model.encoder
    assert found.get_config() == {**encoder.get_config(), "recompute": True}


def test_fine_tuning_from_scratch(parameters: list[str], tmp_path: Path) -> None:
    """The supervised baseline on little data."""
    gin.parse_config_files_and_bindings(
        ["gin/semi/k400_1pct.gin"],
        [*parameters, "CHECKPOINT=None", "resnet3d.ResNet3D.depth=10"],
    )
    assert gin.get_configurable(Run)(model_dir=tmp_path / "new").step == 0


def test_the_host_makes_the_same_pixels(
    noise_records: Path, tmp_path: Path, one_worker: Callable
) -> None:
    small = [f"DATA_DIR='{noise_records}'", "run.Run.global_batch=4"]
    views = []
    for recipes in ([], ["gin/common/augment_on_host.gin"]):
        gin.clear_config()
        gin.parse_config_files_and_bindings(["gin/demo/pretrain.gin", *recipes], small)
        run = gin.get_configurable(Run)(model_dir=tmp_path / "new")
        (batch,) = run._train_data.train_batches(4, 0, 0, one_worker(1)).take(1)
        views.append(run.model.augment(batch["frames"], batch["seeds"]).numpy())
    # XLA rounds by the shape of the batch; 1e-5 is a four-hundredth of a step of 8 bits.
    np.testing.assert_allclose(views[0], views[1], atol=1e-5)


def test_no_package_hides_gin() -> None:
    assert not list((ROOT / "gin").rglob("__init__.py"))
