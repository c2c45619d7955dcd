"""Data files of a stranger run nothing, open nothing, and end in a sentence.

Tries `encoder.json` with other classes, a file of features that names a hostile SavedModel, damaged
safetensors and .npz files, and files of a report that name other files, links and odd labels.
"""

import io
import json
import os
import re
import shutil
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import tensorflow as tf
from conftest import ROOT, write_noise_video
from safetensors.numpy import save
from tally import Tally

from cvrl_tf import checkpoints
from cvrl_tf.inference.embedder import Embedder
from cvrl_tf.inference.embedding import embed_videos
from cvrl_tf.inference.feature_file import ClipFeatures
from cvrl_tf.inference.index import Index

pytestmark = pytest.mark.slow

CANARY = "canary-4711"  # what stands in files that no page may show


def command(environment: dict[str, str], *arguments: object) -> subprocess.CompletedProcess:
    line = [sys.executable, *map(str, arguments)]
    return subprocess.run(
        line, cwd=ROOT, env=environment, capture_output=True, text=True, errors="replace"
    )


def assert_sentence(done: subprocess.CompletedProcess, said: str = "") -> None:
    """The command ended with an error that a user understands."""
    assert done.returncode == 1, done.stdout + done.stderr
    assert "Traceback" not in done.stderr and said in done.stderr, done.stderr


def hostile_models(marker: Path) -> dict[str, Any]:
    """What `encoder.json` may say of a model, each of which would write the marker."""
    shell = f"touch {marker}"

    def model(module: str, name: str, config: Any, registered: Any = None) -> dict[str, Any]:
        names = {"module": module, "class_name": name, "registered_name": registered or name}
        return {**names, "config": config}

    function = {"class_name": "function", "module": "os", "registered_name": "system"}
    call = {**function, "config": "system"}
    layers = "tf_keras.layers"
    of_a_lambda = {"name": "x", "function": call, "arguments": {}, "output_shape": None}
    sequential = {"name": "s", "layers": [model(layers, "Lambda", of_a_lambda)]}
    mine = "cvrl_tf.models.resnet3d", "ResNet3D"
    return {
        "a function of os": call,
        "a class of os": model("os", "system", shell),
        "subprocess": model("subprocess", "Popen", {"args": shell, "shell": True}),
        "builtins": model("builtins", "exec", f"open({str(marker)!r}, 'w')"),
        "a module to import": model("hostile", "Encoder", {}),
        "a module that looks like ours": model("cvrl_tf.models.hostile", "Encoder", {}),
        "a relative module": model("cvrl_tf.models..hostile", "Encoder", {}),
        "a Lambda": model(layers, "Lambda", of_a_lambda),
        "a Lambda in a Sequential": model(layers, "Sequential", sequential),
        "a wrapper of a function": model(
            "tf_keras.src.losses", "LossFunctionWrapper", {"fn": call}, "LossFunctionWrapper"
        ),
        "a Lambda as an argument": model(
            *mine, {"depth": model(layers, "Lambda", of_a_lambda)}, "cvrl_tf>ResNet3D"
        ),
        "a head for an encoder": model("cvrl_tf.models.heads", "H", {}, "cvrl_tf>ProjectionHead"),
        "no class": {"config": {}},
        "no object": 7,
    }


def test_encoder_json(
    exported_model: Path, tmp_path: Path, child_environment: dict[str, str], tally: Tally
) -> None:
    """As the encoder and as the head of a run, in this process; and by the command of an export."""
    (tmp_path / "hostile.py").write_text(f"open({str(tmp_path / 'ran')!r}, 'w')\n")
    run = shutil.copytree(exported_model.parent / "run", tmp_path / "run")
    good = json.loads((run / "encoder.json").read_text())
    hostile = hostile_models(tmp_path / "ran")
    sys.path.insert(0, str(tmp_path))
    try:
        for place in ("encoder", "head"):
            for name, model in hostile.items():
                with tally.attempt(f"{name} as {place}"):
                    if (place, name) == ("head", "a head for an encoder"):
                        continue  # which is what belongs there
                    (run / "encoder.json").write_text(json.dumps({**good, place: model}))
                    with pytest.raises(ValueError, match=r"encoder\.json"):
                        opened = checkpoints.SavedRun.open(run)
                        opened.load_encoder()
                        opened.load_head(64)
                    assert not (tmp_path / "ran").exists() and "hostile" not in sys.modules
    finally:
        sys.path.remove(str(tmp_path))
    environment = {**child_environment}
    environment["PYTHONPATH"] += f"{os.pathsep}{tmp_path}"
    flags = f"--checkpoint={run}", f"--output={tmp_path / 'model'}"
    export = "-m", "cvrl_tf.export", *flags
    for name in ("a function of os", "a module to import", "a Lambda in a Sequential"):
        with tally.attempt(f"{name}, exported"):
            (run / "encoder.json").write_text(json.dumps({**good, "encoder": hostile[name]}))
            assert_sentence(command(environment, *export), "is no Encoder of cvrl_tf.models")
            assert not (tmp_path / "ran").exists() and not (tmp_path / "model").exists()
    with tally.attempt("the module that the user names is imported, and no more"):
        done = command(environment, *export, "--module=hostile")
        assert_sentence(done, "is no Encoder of cvrl_tf.models")
        assert (tmp_path / "ran").exists()


def test_damaged_encoder_json(exported_model: Path, tmp_path: Path, tally: Tally) -> None:
    """Bytes removed, changed and added: it opens as it was, or there is a sentence."""
    run = shutil.copytree(exported_model.parent / "run", tmp_path / "run")
    content = (run / "encoder.json").read_bytes()
    rng = np.random.default_rng(0)
    for number in tally.attempts(short=40, long=400):
        with tally.attempt(f"damage {number}"):
            (run / "encoder.json").write_bytes(damaged(content, rng))
            try:
                checkpoints.SavedRun.open(run)
            except ValueError as error:
                assert "encoder.json" in str(error)


def damaged(content: bytes, rng: np.random.Generator) -> bytes:
    """Content with a part removed, overwritten or inserted."""
    at, length = int(rng.integers(len(content))), int(rng.integers(1, 9))
    noise = rng.bytes(length)
    return [
        content[:at],
        content[:at] + content[at + length :],
        content[:at] + noise + content[at + length :],
        content[:at] + noise + content[at:],
    ][int(rng.integers(4))]


class Hostile(tf.saved_model.experimental.TrackableResource):
    """Writes a file when the SavedModel that holds it is loaded."""

    def __init__(self, marker: Path) -> None:
        super().__init__()
        self._marker = str(marker)

    def _create_resource(self) -> tf.Tensor:
        return tf.raw_ops.VarHandleOp(dtype=tf.float32, shape=[])

    def _initialize(self) -> None:
        tf.io.write_file(self._marker, CANARY)


def hostile_model(like: Path, folder: Path, marker: Path) -> Path:
    """An export that runs something when it is loaded, with what another says of itself."""
    module = tf.Module()
    module.resource = Hostile(marker)

    @tf.function(input_signature=[tf.TensorSpec([None, None, None, None, 3], tf.uint8)])
    def clips(frames: tf.Tensor) -> dict[str, tf.Tensor]:
        del frames
        assert module.resource.resource_handle is not None  # or it would not be saved
        return {"feature": tf.zeros([1, 64])}

    module.clips = clips
    tf.saved_model.save(module, str(folder), {"clips": clips})
    shutil.copytree(like / "assets.extra", folder / "assets.extra", dirs_exist_ok=True)
    return folder


def test_an_index_names_a_hostile_model(
    exported_model: Path, tmp_path: Path, child_environment: dict[str, str], tally: Tally
) -> None:
    marker = tmp_path / "ran"
    model = hostile_model(exported_model, tmp_path / "hostile", marker)
    marker.unlink(missing_ok=True)
    tf.saved_model.load(str(model))
    assert marker.exists()  # or the rest would prove nothing
    marker.unlink()
    video = write_noise_video(tmp_path / "a.mp4", 30, 0)
    index = tmp_path / "features.npz"
    embed_videos(Embedder(exported_model), [str(video)], index, workers=1, show=False)
    clips = ClipFeatures.load(index)
    clips.facts["model"] = str(model)
    clips.save(index)
    search = "-m", "cvrl_tf.search", f"--index={index}", video, f"--output={tmp_path / 'x.html'}"
    with tally.attempt("no model is named"):
        done = command(child_environment, *search)
        assert_sentence(done, f"--model={model}")
        assert not marker.exists()
    with tally.attempt("the fingerprint differs"):
        about = model / checkpoints.EXPORT_FILE
        about.write_text(json.dumps({**json.loads(about.read_text()), "fingerprint": "other"}))
        done = command(child_environment, *search, f"--model={model}")
        assert_sentence(done, "is not the model that")
        assert not marker.exists()
    with tally.attempt("what it says of itself is damaged"):
        about.write_text('{"views": 3}')
        assert_sentence(command(child_environment, *search, f"--model={model}"), "is damaged")
        assert not marker.exists()
    with tally.attempt("the user names another"):
        done = command(child_environment, *search, f"--model={exported_model}")
        assert done.returncode == 0, done.stderr
        assert not marker.exists()


class Pickled:
    """Runs a command where it is unpickled."""

    def __init__(self, marker: Path) -> None:
        self._marker = marker

    def __reduce__(self) -> tuple[Callable[[str], int], tuple[str]]:
        return os.system, (f"touch {self._marker}",)


def test_files_of_features(exported_model: Path, tmp_path: Path, tally: Tally) -> None:
    """Pickles in them, what lacks something, and damage: read as they were, or a sentence."""
    place = {"video": np.array(["a"] * 3), "start": np.zeros(3), "end": np.ones(3)}
    facts = {"model": "m", "fingerprint": "f", "views": {}}
    good = {**place, "feature": np.zeros([3, 4], "f4"), "facts": json.dumps(facts)}
    pickled = np.array([Pickled(tmp_path / "ran")] * 3, object)
    for name in good:
        with tally.attempt(f"a pickle as {name}"):
            np.savez(tmp_path / "x.npz", **{**good, name: pickled}, allow_pickle=True)
            with pytest.raises(ValueError, match="is not what cvrl_tf.embed writes"):
                ClipFeatures.load(tmp_path / "x.npz")
            assert not (tmp_path / "ran").exists()
    for name, others in {
        "other lengths": {"end": np.ones(2)},
        "facts of another kind": {"facts": "[]"},
        "views of another kind": {"facts": json.dumps({**facts, "views": 3})},
        "no JSON": {"facts": "{"},
    }.items():
        with tally.attempt(name):
            np.savez(tmp_path / "x.npz", **{**good, **others})
            with pytest.raises(ValueError, match="is not what cvrl_tf.embed writes"):
                Index(tmp_path / "x.npz")
    rng = np.random.default_rng(0)
    names = ["x.npz", "x.parquet"]
    clips = ClipFeatures(*place.values(), {"feature": good["feature"]}, facts)
    for name in names:
        clips.save(tmp_path / name)
    contents = {name: (tmp_path / name).read_bytes() for name in names}
    for number in tally.attempts(short=100, long=2000):
        name = names[number % 2]
        with tally.attempt(f"damage {number} of {name}"):
            (tmp_path / name).write_bytes(damaged(contents[name], rng))
            try:
                ClipFeatures.load(tmp_path / name)
            except ValueError as error:
                assert name in str(error)


def test_damaged_safetensors(
    tmp_path: Path, child_environment: dict[str, str], tally: Tally
) -> None:
    inflate = ROOT / "tools" / "inflate.py", f"--output={tmp_path / 'out'}"
    content = save({"unknown": np.zeros([64, 3, 7, 7], "f4")})
    huge = (2**62).to_bytes(8, "little") + content[8:]
    for name, text in {
        "another network": content,
        "cut": content[:100],
        "a header of 4 EB": huge,
        "a pickle": b"\x80\x04\x95cos\nsystem\n(S'touch ran'\ntR.",
    }.items():
        with tally.attempt(name):
            (tmp_path / "x.safetensors").write_bytes(text)
            done = command(child_environment, *inflate, f"--source={tmp_path / 'x.safetensors'}")
            assert_sentence(
                done, "'conv1.weight' is missing" if name == "another network" else "is damaged"
            )
            assert not (ROOT / "ran").exists() and not (tmp_path / "out").exists()


PAYLOADS = [
    'x" onerror="document.title=1',
    "<script>document.title=1</script>",
    "javascript:document.title=1",
    "</title><img src=x onerror=document.title=1>",
    "{{ 7 * 7 }}{% raw %}",
    "$\\frac{1}{$",
    "$$",
    "\udcff\udc80",
    "\x00\x1b[2J\n\r",
    "名" * 5000,
]


def evaluation(**others: Any) -> dict[str, Any]:
    """What `cvrl_tf.evaluate` writes, of three classes."""
    estimate = {"value": 0.5, "low": 0.4, "high": 0.6, "count": 40}
    measures = {
        "linear_probe": {name: estimate for name in ("top1", "top5", "mean_per_class")},
        "knn": {"top1": estimate},
        "retrieval": {name: estimate for name in ("R@1", "R@5", "R@10", "R@20")},
    }
    data = {"data": "k400", "split": "train", "videos": 80, "views": 2}
    about = {"features": "cached", "checkpoint": None, "epochs": 1, "train": data, "test": data}
    names = ("trained", "random", "random_calibrated", "mean_color")
    return {
        **{"cell": None, "seed": 0, "classes": ["a", "b", "c"], "protocol": about},
        "encoders": dict.fromkeys(names, measures),
        "confusion": np.eye(3, dtype=int).tolist(),
        **{"test_features": "gone", "gallery": []},
        **others,
    }


def pictured(*paths: Path | str) -> list[dict[str, Any]]:
    return [{"picture": str(path), "class": "a", "nearest": []} for path in paths]


def test_reports_show_no_other_files(
    tmp_path: Path, child_environment: dict[str, str], tally: Tally
) -> None:
    """Pictures that an evaluation names: whatever they are, the page holds nothing of them."""
    from PIL import Image

    run, outside = tmp_path / "run", tmp_path / "outside"
    run.mkdir()
    outside.mkdir()
    file = io.BytesIO()
    Image.new("RGB", (8, 8)).save(file, "png")
    secret = file.getvalue() + CANARY.encode()
    (outside / "secret.png").write_bytes(secret)
    (run / "link.png").symlink_to(outside / "secret.png")
    (run / "folder").symlink_to(outside)
    (run / "loop.png").symlink_to(run / "loop.png")
    (run / "text.png").write_text(CANARY)
    (run / "live.svg").write_text("<svg xmlns='http://www.w3.org/2000/svg' onload='alert(1)'/>")
    (run / f"{PAYLOADS[0]}.png").write_text("<script>document.title=1</script>")
    (run / "good.png").write_bytes(file.getvalue())
    hostile = ["/etc/passwd", "/dev/zero", "/proc/self/environ", outside / "secret.png"]
    hostile += [run / ".." / "outside" / "secret.png", run / "x\0.png", "x" * 5000, run]
    names = ("link.png", "folder/secret.png", "loop.png", "text.png", "live.svg")
    hostile += [run / name for name in (*names, f"{PAYLOADS[0]}.png")]
    hostile.append("https://127.0.0.1:1/x.png")
    (outside / "features.npz").write_bytes(b"no features")
    content = evaluation(
        gallery=pictured(*hostile, run / "good.png"), test_features=str(outside / "features.npz")
    )
    (run / "probe.json").write_text(json.dumps(content))
    done = command(child_environment, "-m", "cvrl_tf.report", run, f"--output={tmp_path / 'out'}")
    assert done.returncode == 0, done.stderr
    page = (tmp_path / "out" / "report.html").read_text()
    rows = re.findall(r'<div class="gallery">(.*?)</div>', page, re.DOTALL)
    for path, row in zip([*hostile, run / "good.png"], rows, strict=True):
        with tally.attempt(repr(path)):
            good = path == run / "good.png"
            assert row.count("<img") == (1 if good else 0), row
            assert not re.search(r"root:|http|onerror|<script", row)
    with tally.attempt("all of the page"):
        assert CANARY not in page and page.count("data:image/png") == 3  # with two figures


def test_names_in_reports(tmp_path: Path, tally: Tally) -> None:
    """As classes, data and runs, in the page, its figures and the tables."""
    from cvrl_tf.reports.report import write_report

    for number, payload in enumerate(PAYLOADS):
        run, out = tmp_path / f"run{number}", tmp_path / f"out{number}"
        run.mkdir()
        content = evaluation(classes=[payload, f"{payload} 2", "c"], cell="1/CVRL")
        content["protocol"]["train"]["data"] = payload
        (run / "probe.json").write_text(json.dumps(content))
        facts = {"version": 2, "task": payload, "kind": "classify", "metric_names": [payload]}
        (run / "run.json").write_text(json.dumps({**facts, "cell": None}))
        (run / "metrics.jsonl").write_text(json.dumps({"epoch": 1, f"epoch/{payload}": 0.5}) + "\n")
        with tally.attempt(ascii(payload[:40])):
            write_report([run], out)
            page = (out / "report.html").read_text()
            assert not re.search(r"<script|<img(?! alt=\"[^\"<>]*\" src=\"data:image/)", page)
            sources = re.findall(r'src="([^:]*:[^;]*)', page)
            assert sources == ["data:image/png"] * page.count("<img")
            assert "<script" not in (out / "tables.md").read_text()
