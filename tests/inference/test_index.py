"""Search by features: exact, and through the index on the disk; its page."""

import json
import os
import re
import shutil
import subprocess
import sys
from pathlib import Path

import numpy as np
import pyarrow as pa
import pytest
from conftest import ROOT, write_noise_video
from pyarrow import parquet

from cvrl_tf.inference import index
from cvrl_tf.inference.embedder import Embedder
from cvrl_tf.inference.feature_file import ClipFeatures
from cvrl_tf.inference.index import Index
from cvrl_tf.inference.search import find_similar
from cvrl_tf.measures import neighbors


def clips_of(features: np.ndarray, videos: list[str]) -> ClipFeatures:
    starts = np.arange(len(features), dtype=float)
    facts = {"model": "gone", "fingerprint": "none", "views": {}, "skipped": {}}
    return ClipFeatures(np.array(videos), starts, starts + 1, {"feature": features}, facts)


def random_features(count: int, dim: int, seed: int = 0) -> np.ndarray:
    return np.random.default_rng(seed).standard_normal([count, dim], dtype=np.float32)


@pytest.mark.parametrize("dim", [128, pytest.param(512, marks=pytest.mark.slow)])
def test_recall_of_the_index(dim: int, tmp_path: Path) -> None:
    """Of 100,000 random features, whose neighbors are as hard to tell as any."""
    features, queries = random_features(100_000, dim), random_features(200, dim, 1)
    path = tmp_path / "features.parquet"
    clips_of(features, [str(n // 10) for n in range(len(features))]).save(path)
    found = Index(path)
    assert "feature" not in found.clips.results and path.with_suffix(".parquet.faiss").exists()
    rows, cosines = found.nearest(queries, 10)
    exact, exact_cosines = neighbors.nearest(queries, features, 10)
    recall = np.mean([len(set(a) & set(b)) / 10 for a, b in zip(rows, exact, strict=True)])
    assert recall >= 0.99
    np.testing.assert_allclose(cosines, exact_cosines, atol=1e-3)


def test_small_sets_are_searched_exactly(tmp_path: Path) -> None:
    features, queries = random_features(500, 16), random_features(5, 16, 1)
    for name in ("features.parquet", "features.npz"):
        clips_of(features, ["a"] * 500).save(tmp_path / name)
        rows, cosines = Index(tmp_path / name).nearest(queries, 10)
        exact, exact_cosines = neighbors.nearest(queries, features, 10)
        np.testing.assert_array_equal(rows, exact)
        np.testing.assert_allclose(cosines, exact_cosines, atol=1e-6)
    assert not list(tmp_path.glob("*.faiss"))


def test_one_clip_of_each_video(tmp_path: Path) -> None:
    """The ten clips of a video are near each other, and would hide all the others."""
    centers = random_features(40, 16)
    features = np.repeat(centers, 10, axis=0) + 0.05 * random_features(400, 16, 1)
    videos = [f"video {n // 10}" for n in range(400)]
    clips_of(features, videos).save(tmp_path / "features.npz")
    found = Index(tmp_path / "features.npz").nearest_videos(features[55], 12)
    assert found[0].video == "video 5" and found[0].start == 55
    assert len({each.video for each in found}) == 12
    assert [each.cosine for each in found] == sorted((e.cosine for e in found), reverse=True)
    rows, cosines = neighbors.nearest(features[55:56], features, 400)
    best = {
        videos[row]: cosine for row, cosine in reversed(list(zip(rows[0], cosines[0], strict=True)))
    }
    wanted = sorted(best, key=best.get, reverse=True)[:12]
    assert [each.video for each in found] == wanted
    everything = Index(tmp_path / "features.npz").nearest_videos(features[0], 1000)
    assert len(everything) == 40


def test_the_index_is_made_again_for_new_features(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(index, "EXACT", 10)
    path = tmp_path / "features.parquet"
    for seed, time in enumerate((2_000, 3_000, 1_000)):  # a file may be older than the one before
        features = random_features(50, 8, seed)
        clips_of(features, ["a"] * 50).save(path)
        os.utime(path, (time, time))
        for _ in range(2):
            (rows,), _ = Index(path).nearest(features[7:8], 1)
            assert rows[0] == 7
            made = path.with_suffix(".parquet.faiss").stat().st_ino
        Index(path)
        assert path.with_suffix(".parquet.faiss").stat().st_ino == made  # and not made again


def test_a_folder_that_can_t_be_written_to(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(index, "EXACT", 10)
    features = random_features(50, 8)
    clips_of(features, ["a"] * 50).save(tmp_path / "features.parquet")
    # As root may write everywhere, the index would be written aside where there is no folder.
    monkeypatch.setattr(index.files, "aside_of", lambda path: path.parent / "gone" / path.name)
    (rows,), _ = Index(tmp_path / "features.parquet").nearest(features[7:8], 1)
    assert rows[0] == 7


def test_what_is_no_index(tmp_path: Path) -> None:
    with pytest.raises(FileNotFoundError, match=r"No file .*make it with cvrl_tf.embed"):
        Index(tmp_path / "features.parquet")
    np.savez(tmp_path / "other.npz", a=np.zeros(3))
    (tmp_path / "text.npz").write_text("text")
    parquet.write_table(pa.table({"a": [1, 2]}), tmp_path / "other.parquet")
    facts = {"model": "m", "fingerprint": "f", "views": 3}
    place = {"video": ["a"], "start": [0.0], "end": [1.0], "feature": [[1.0]]}
    np.savez(tmp_path / "facts.npz", **place, facts=json.dumps(facts))
    np.savez(tmp_path / "pickle.npz", **place, facts=np.array([None]), allow_pickle=True)
    for name in ("other.npz", "text.npz", "other.parquet", "facts.npz", "pickle.npz"):
        with pytest.raises(ValueError, match="is not what cvrl_tf.embed writes"):
            Index(tmp_path / name)


def run(
    environment: dict[str, str], module: str, *arguments: object
) -> subprocess.CompletedProcess:
    command = [sys.executable, "-m", f"cvrl_tf.{module}", *map(str, arguments)]
    return subprocess.run(command, cwd=ROOT, env=environment, capture_output=True, text=True)


@pytest.mark.slow
def test_search_command(
    exported_model: Path, tmp_path: Path, child_environment: dict[str, str]
) -> None:
    for number in range(6):
        write_noise_video(tmp_path / "videos" / f"<{number}>.mp4", 30, number)
    features, page = tmp_path / "features.parquet", tmp_path / "found.html"
    flags = f"--model={exported_model}", tmp_path / "videos", f"--output={features}"
    done = run(child_environment, "embed", *flags)
    assert done.returncode == 0, done.stderr
    (tmp_path / "videos" / "<5>.mp4").unlink()  # from the index it is found all the same
    query = tmp_path / "videos" / "<3>.mp4"
    flags = f"--model={exported_model}", f"--index={features}", "--top=20", f"--output={page}"
    done = run(child_environment, "search", *flags, query)
    assert done.returncode == 0, done.stderr
    lines = [line.split() for line in done.stdout.splitlines()]
    clips = ClipFeatures.load(features)
    unit = clips.results["feature"] / np.linalg.norm(clips.results["feature"], axis=1)[:, None]
    mean = clips.results["feature"][clips.videos == str(query)].mean(axis=0)
    cosines = unit @ mean / np.linalg.norm(mean)
    best = {name: cosines[clips.videos == name].max() for name in set(clips.videos)}
    assert [line[-1] for line in lines] == sorted(best, key=best.get, reverse=True)
    np.testing.assert_allclose(
        [float(line[0]) for line in lines], sorted(best.values())[::-1], atol=1e-3
    )
    html = page.read_text()
    assert html.count("data:image/webp") == 6 and "&lt;3&gt;.mp4" in html and "<3>" not in html
    assert len(re.findall(r"&lt;5&gt;\.mp4, [\d.]+ s: not found", html)) == 1


def test_no_model_is_loaded_that_is_not_named(tmp_path: Path) -> None:
    video = write_noise_video(tmp_path / "a.mp4", 20, 0)
    clips_of(random_features(5, 64), ["a"] * 5).save(tmp_path / "features.npz")
    with pytest.raises(ValueError, match=r"is of 'gone'.*--model=gone"):
        find_similar(str(video), tmp_path / "features.npz", 3, None)
    with pytest.raises(FileNotFoundError, match="give what cvrl_tf.export wrote"):
        find_similar(str(video), tmp_path / "features.npz", 3, tmp_path)


def test_no_model_is_loaded_before_it_is_compared(exported_model: Path, tmp_path: Path) -> None:
    """The model has no graph at all, and the error is of its fingerprint."""
    video = write_noise_video(tmp_path / "a.mp4", 20, 0)
    clips_of(random_features(5, 64), ["a"] * 5).save(tmp_path / "features.npz")
    shutil.copytree(exported_model / "assets.extra", tmp_path / "model" / "assets.extra")
    with pytest.raises(ValueError, match="is not the model that"):
        find_similar(str(video), tmp_path / "features.npz", 3, tmp_path / "model")


@pytest.mark.parametrize("other", ["fingerprint", pytest.param("size", marks=pytest.mark.slow)])
def test_a_model_that_the_index_is_not_of(
    other: str, exported_model: Path, tmp_path: Path, child_environment: dict[str, str]
) -> None:
    video = write_noise_video(tmp_path / "a.mp4", 20, 0)
    clips = clips_of(random_features(5, 64), ["a"] * 5)
    clips.facts.update(Embedder(exported_model).facts)
    (clips.facts if other == "fingerprint" else clips.facts["views"])[other] = 17
    clips.save(tmp_path / "features.npz")
    flags = f"--index={tmp_path / 'features.npz'}", video, f"--model={exported_model}"
    done = run(child_environment, "search", *flags)
    assert done.returncode == 1 and "is not the model that" in done.stderr


@pytest.mark.slow
def test_search_says_what_is_missing(tmp_path: Path, child_environment: dict[str, str]) -> None:
    done = run(child_environment, "search", f"--index={tmp_path / 'features.npz'}", "query.mp4")
    assert done.returncode == 1 and "No video 'query.mp4'" in done.stderr
    video = write_noise_video(tmp_path / "a.mp4", 20, 0)
    done = run(child_environment, "search", f"--index={tmp_path / 'features.npz'}", video)
    assert done.returncode == 1 and "No file" in done.stderr and "Traceback" not in done.stderr
