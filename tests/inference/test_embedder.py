"""Videos to features: those of evaluation, in one file, whatever stops the work or is damaged."""

import json
import multiprocessing
import os
import shutil
import signal
import subprocess
import sys
import threading
import time
from pathlib import Path
from typing import Any

import imageio_ffmpeg
import numpy as np
import pytest
import tensorflow as tf
from conftest import write_noise_video
from etils import epath

from cvrl_tf import checkpoints
from cvrl_tf.data import clips, pipeline, views
from cvrl_tf.evaluation import features
from cvrl_tf.inference import embedding, feature_file, saved_model
from cvrl_tf.inference.embedder import Embedder, averaged
from cvrl_tf.inference.feature_file import ClipFeatures
from cvrl_tf.preparation import annotations, prepare
from cvrl_tf.preparation.decoding import FrameOptions

LENGTHS = (40, 3, 25, 60)


@pytest.fixture(scope="module")
def videos(tmp_path_factory: pytest.TempPathFactory) -> list[str]:
    folder = tmp_path_factory.mktemp("videos")
    return [
        str(write_noise_video(folder / f"{seed}.mp4", length, seed))
        for seed, length in enumerate(LENGTHS)
    ]


@pytest.fixture(scope="module")
def embedder(exported_model: Path) -> Embedder:
    return Embedder(exported_model, batch=7)


def embed_videos(embedder: Embedder, videos: list[str], output: Path) -> ClipFeatures:
    embedding.embed_videos(embedder, videos, output, workers=2)
    return ClipFeatures.load(output)


def of_evaluation(
    exported_model: Path, videos: list[str], folder: Path, options: FrameOptions, **sampling: Any
) -> np.ndarray:
    """Features of the videos, [N, D], by way of records."""
    listed = [annotations.Video(epath.Path(video), Path(video).name, None) for video in videos]
    prepare.prepare(listed, folder, num_shards=1, frames=options)
    crop = views.EvenCrops(16, 16, 3)
    data = pipeline.Pipeline(folder, clips.EvenClips(4, 2, 2), crop, **sampling)
    encoder = checkpoints.load_encoder(exported_model.parent / "run")
    found, _ = features.extract(encoder, data, 8).of_videos
    ids = sorted(Path(video).stem for video in videos)
    return found[[ids.index(Path(video).stem) for video in videos]]


def test_features_are_those_of_evaluation(
    videos: list[str], embedder: Embedder, exported_model: Path, tmp_path: Path
) -> None:
    found = embed_videos(embedder, videos, tmp_path / "features.npz")
    assert list(found.videos) == [video for video in videos for _ in range(2)]
    assert set(found.results) == {"feature", "embedding"} and found.facts["skipped"] == {}
    ours = found.results["feature"].reshape(len(videos), 2, -1).mean(axis=1)
    wanted = of_evaluation(exported_model, videos, tmp_path / "records", FrameOptions())
    np.testing.assert_allclose(ours, wanted, rtol=1e-5, atol=1e-6)
    lengths = np.linalg.norm(found.results["embedding"], axis=1)
    np.testing.assert_allclose(lengths, 1, rtol=1e-5)


def test_records_of_another_kind(videos: list[str], exported_model: Path, tmp_path: Path) -> None:
    """Trained on small frames, at another rate, with a stride that counts in a third one: so it
    stands in the run, and so videos are taken."""
    run = tmp_path / "run"
    shutil.copytree(exported_model.parent / "run", run)
    facts = json.loads((run / "encoder.json").read_text())
    facts["sampling"] |= {"short_side": 24, "record_fps": 20.0, "fps": 10.0}
    (run / "encoder.json").write_text(json.dumps(facts))
    saved_model.export_encoder(run, tmp_path / "model", num_clips=2, num_crops=3)
    found = embed_videos(Embedder(tmp_path / "model"), videos, tmp_path / "features.npz")
    options = FrameOptions(short_side=24, fps=20.0)
    wanted = of_evaluation(exported_model, videos, tmp_path / "records", options, fps=10.0)
    ours = found.results["feature"].reshape(len(videos), 2, -1).mean(axis=1)
    np.testing.assert_allclose(ours, wanted, rtol=1e-5, atol=1e-6)
    # Four frames, every second one at 10 a second: 0.8 s.
    long = found.videos == videos[3]
    np.testing.assert_allclose((found.ends - found.starts)[long], 0.8, atol=1e-6)
    assert found.ends[long].max() <= 60 / 25 + 1e-6


def test_times_of_the_clips(videos: list[str], embedder: Embedder, tmp_path: Path) -> None:
    """25 frames a second; a clip reaches over 8 frames."""
    found = embed_videos(embedder, videos, tmp_path / "features.npz")
    begins = np.array([frame / 25 for n in LENGTHS for frame in (0, max(n - 8, 0))])
    ends = np.minimum(begins + 8 / 25, np.repeat(LENGTHS, 2) / 25)
    np.testing.assert_allclose(found.starts, begins, atol=1e-6)
    np.testing.assert_allclose(found.ends, ends, atol=1e-6)


@pytest.mark.parametrize("name", ["features.parquet", "features.npz"])
def test_files_hold_all_there_is(
    name: str, videos: list[str], embedder: Embedder, tmp_path: Path
) -> None:
    damaged = tmp_path / "damaged.mp4"
    damaged.write_bytes(Path(videos[0]).read_bytes()[:2000])
    skipped = embedding.embed_videos(embedder, [str(damaged), *videos], tmp_path / name, workers=2)
    assert list(skipped) == [str(damaged)]
    read = ClipFeatures.load(tmp_path / name)
    assert read.facts["skipped"] == skipped and read.facts["views"] == embedder.views
    assert list(read.videos) == [video for video in videos for _ in range(2)]
    other = embed_videos(embedder, videos, tmp_path / "other.npz")
    for ours, theirs in ((read.starts, other.starts), (read.ends, other.ends)):
        np.testing.assert_array_equal(ours, theirs)
    for result in ("feature", "embedding"):
        assert read.results[result].dtype == np.float32
        np.testing.assert_allclose(
            read.results[result], other.results[result], rtol=1e-5, atol=1e-6
        )
    left = sorted(path.name for path in tmp_path.iterdir())
    assert left == sorted(["damaged.mp4", name, "other.npz"])


def test_a_file_of_another_kind_is_refused(tmp_path: Path) -> None:
    empty = ClipFeatures.joined([], {})
    with pytest.raises(ValueError, match=r"must end with .parquet or .npz"):
        empty.save(tmp_path / "features.csv")
    assert not list(tmp_path.iterdir())


def filmed(path: Path, times: str, *more: str) -> str:
    """A video of 16 frames that are shown when an expression of their number N says, seconds."""
    source = ["-f", "lavfi", "-i", "testsrc2=s=64x48:d=0.64:r=25", *more]
    encoder = ["-c:v", "libx264", "-bf", "0", "-pix_fmt", "yuv420p", "-fps_mode", "passthrough"]
    picture = ["-vf", f"setpts=({times})/TB", *encoder, str(path)]
    ffmpeg = imageio_ffmpeg.get_ffmpeg_exe()
    subprocess.run([ffmpeg, "-loglevel", "error", *source, *picture], check=True)
    return str(path)


def test_times_where_frames_are_irregular(embedder: Embedder, tmp_path: Path) -> None:
    """8 frames at 25 a second, then 8 at 1 a second."""
    video = filmed(tmp_path / "clip.mp4", "if(lt(N\\,8)\\,N/25\\,N-7.68)")
    found = embed_videos(embedder, [video], tmp_path / "features.npz")
    np.testing.assert_allclose(found.starts, [0, 0.32], atol=1e-3)
    assert found.ends[0] == pytest.approx(0.32, abs=1e-3)
    assert 7.32 < found.ends[1] < 8.33


def test_times_where_frames_are_irregular_and_a_stride_is_a_time(
    exported_model: Path, tmp_path: Path
) -> None:
    """8 frames at 12.5 a second, then one each 0.52 s: clips of four frames, 0.4 s apart."""
    shutil.copytree(exported_model, tmp_path / "model")
    about = tmp_path / "model" / checkpoints.EXPORT_FILE
    facts = json.loads(about.read_text())
    facts["views"] |= {"fps": 5.0}
    about.write_text(json.dumps(facts))
    long = filmed(tmp_path / "long.mp4", "if(lt(N\\,8)\\,N*0.08\\,0.64+(N-8)*0.52)")
    short = filmed(tmp_path / "short.mp4", "N*0.08")  # 1.3 s: a clip of 1.6 s loops
    found = embed_videos(Embedder(tmp_path / "model"), [long, short], tmp_path / "features.npz")
    # Its last frame is shown at 4.28 s. The last clip begins at 2.8 s.
    np.testing.assert_allclose(found.starts, [0, 2.72, 0, 0], atol=1e-3)
    assert found.ends[0] == pytest.approx(1.68, abs=1e-3)  # the frame that is there at 1.6 s
    assert 4.4 < found.ends[1] < 4.7 and found.ends[2] == found.ends[3]
    assert 1.22 < found.ends[2] < 1.29


def test_times_count_from_the_beginning_of_the_file(embedder: Embedder, tmp_path: Path) -> None:
    """The sound begins half a second before the picture."""
    sound = ["-f", "lavfi", "-i", "sine=d=1", "-c:a", "aac"]
    video = filmed(tmp_path / "clip.mkv", "0.5+N/25", *sound)
    found = embed_videos(embedder, [video], tmp_path / "features.npz")
    first = found.starts[0]
    assert first == pytest.approx(0.5, abs=0.05)  # the encoder of the sound begins a little earlier
    np.testing.assert_allclose(found.starts, np.add(first, [0, 0.32]), atol=2e-3)
    np.testing.assert_allclose(found.ends, np.add(first, [0.32, 0.64]), atol=2e-3)


def test_a_fast_rate_is_a_rate(embedder: Embedder, tmp_path: Path) -> None:
    fast = write_noise_video(tmp_path / "fast.mp4", 12, 0, rate=1000)
    found = embed_videos(embedder, [str(fast)], tmp_path / "features.npz")
    np.testing.assert_allclose(found.starts, [0, 0.004], atol=1e-6)
    np.testing.assert_allclose(found.ends, [0.008, 0.012], atol=1e-6)


def test_folders_and_files(videos: list[str], tmp_path: Path) -> None:
    folder = Path(videos[0]).parent
    wanted = [videos[2], videos[0], videos[1], videos[3]]
    assert embedding.listed([videos[2], str(folder), videos[0]])[0] == wanted
    (tmp_path / "notes.txt").touch()
    (tmp_path / "folder.mp4").mkdir()
    with pytest.raises(FileNotFoundError, match="No file in .* has a video's ending"):
        embedding.listed([str(tmp_path)])
    with pytest.raises(FileNotFoundError, match="No file or folder 'nowhere.mp4'"):
        embedding.listed(["nowhere.mp4"])
    # A file that is named is tried, whatever its ending.
    assert embedding.listed([str(tmp_path / "notes.txt")]) == ([str(tmp_path / "notes.txt")], {})


def test_nothing_that_can_be_embedded(embedder: Embedder, tmp_path: Path) -> None:
    text = tmp_path / "text.mp4"
    text.write_text("no video")
    with pytest.raises(ValueError, match="None of 1 videos .* embedded. .*text.mp4: not a video"):
        embed_videos(embedder, [str(text)], tmp_path / "features.npz")
    assert not (tmp_path / "features.npz").exists()
    write_noise_video(text, 6, 0)  # mended, the same call succeeds
    assert set(embed_videos(embedder, [str(text)], tmp_path / "features.npz").videos) == {str(text)}


def stop_at(embedder: Embedder, number: int, monkeypatch: pytest.MonkeyPatch) -> list[str]:
    """Ctrl-C at the model's n-th round; the videos that came to it."""
    monkeypatch.setattr(embedding, "_BYTES_A_ROUND", 0)
    of_records, seen = embedder.of_records, []

    def stopped(folder: Path, outcomes: list) -> ClipFeatures:
        seen.extend(outcome.name for outcome in outcomes)
        if len(seen) == number:
            raise KeyboardInterrupt
        return of_records(folder, outcomes)

    monkeypatch.setattr(embedder, "of_records", stopped)
    return seen


def test_it_goes_on_where_it_stopped(
    videos: list[str], embedder: Embedder, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    seen = stop_at(embedder, 3, monkeypatch)
    output = tmp_path / "features.npz"
    with pytest.raises(KeyboardInterrupt):
        embed_videos(embedder, videos, output)
    assert seen == videos[:3]
    # Nothing goes on behind the scenes.
    assert not [t for t in threading.enumerate() if t.name.startswith("Thread") and t.daemon]
    assert not multiprocessing.active_children()
    assert len(list((tmp_path / "features.npz.parts").glob("*.npz"))) == 2
    resumed = embed_videos(embedder, videos, output)
    assert seen == [*videos[:3], *videos[2:]]
    monkeypatch.undo()
    whole = embed_videos(embedder, videos, tmp_path / "whole.npz")
    for name, rows in whole.results.items():
        np.testing.assert_allclose(resumed.results[name], rows, rtol=1e-5, atol=1e-6)
    assert list(resumed.videos) == list(whole.videos)
    assert not (tmp_path / "features.npz.parts").exists()


def test_what_was_begun_otherwise_is_not_mixed_in(
    videos: list[str],
    embedder: Embedder,
    exported_model: Path,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    stop_at(embedder, 2, monkeypatch)
    output = tmp_path / "features.npz"
    with pytest.raises(KeyboardInterrupt):
        embed_videos(embedder, videos, output)
    with pytest.raises(ValueError, match="begun with other videos_sha256"):
        embed_videos(embedder, videos[1:], output)
    with pytest.raises(ValueError, match="begun with other views"):
        embed_videos(Embedder(exported_model, num_clips=3), videos, output)
    # Another encoder in the same place.
    other = Embedder(exported_model)
    monkeypatch.setattr(other, "facts", {**other.facts, "fingerprint": "another"})
    with pytest.raises(ValueError, match="begun with other fingerprint"):
        embed_videos(other, videos, output)


@pytest.mark.parametrize("crops", [1, 3])
def test_other_numbers_of_clips_and_crops(
    crops: int, videos: list[str], exported_model: Path, tmp_path: Path
) -> None:
    few = Embedder(exported_model, num_clips=5, num_crops=crops)
    found = embed_videos(few, videos[:1], tmp_path / "features.npz")
    assert len(found.videos) == 5 and found.results["feature"].shape == (5, 64)
    assert found.facts["views"]["num_crops"] == crops


def test_rounds_end_by_size_too(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(embedding, "_BYTES_A_ROUND", 100)
    names = []
    for number, size in enumerate((150, 40, 40, 40, 10)):
        path = tmp_path / str(number)
        path.write_bytes(bytes(size))
        names.append(str(path))
    assert embedding._round_of(names, 9) == names[:1]  # however large it is
    assert embedding._round_of(names[1:], 9) == names[1:3]
    assert embedding._round_of(names[1:], 1) == names[1:2]
    assert embedding._round_of(["gone", *names[1:]], 9) == ["gone", *names[1:3]]


def test_what_is_no_export(tmp_path: Path) -> None:
    with pytest.raises(FileNotFoundError, match="give what cvrl_tf.export wrote"):
        Embedder(tmp_path)


def command(environment: dict[str, str], *arguments: object) -> subprocess.Popen[str]:
    return subprocess.Popen(
        [sys.executable, "-m", "cvrl_tf.embed", *map(str, arguments)],
        env=environment,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
        start_new_session=True,
    )


@pytest.mark.slow
def test_command_stopped_killed_and_called_again(
    exported_model: Path, tmp_path: Path, child_environment: dict[str, str]
) -> None:
    """By Ctrl-C after its first round, and then killed, all its processes with it."""
    for number in range(70):
        write_noise_video(tmp_path / "videos" / f"{number:02d}.mp4", 6, number)
    (tmp_path / "videos" / "text.mp4").write_text("no video")
    output = tmp_path / "features.parquet"
    flags = f"--model={exported_model}", tmp_path / "videos", f"--output={output}", "--workers=2"
    parts = tmp_path / "features.parquet.parts"
    for kill, code in ((signal.SIGINT, 130), (signal.SIGKILL, -signal.SIGKILL)):
        before = len(list(parts.glob("*.npz")))
        run = command(child_environment, *flags)
        deadline = time.monotonic() + 120
        while len(list(parts.glob("*.npz"))) == before:
            assert time.monotonic() < deadline and run.poll() is None, run.communicate()
            time.sleep(0.02)
        os.killpg(run.pid, kill)
        _, complained = run.communicate()
        assert run.returncode == code and "Traceback" not in complained, complained
        assert not output.exists()
        # Killed, it has no time to say so.
        assert ("Stopped by SIGINT. Rerun the same command" in complained) == (
            kill == signal.SIGINT
        )

    run = command(child_environment, *flags)
    said, complained = run.communicate()
    assert run.returncode == 0, complained
    assert f"Wrote 2 clips of each of 70 videos to {output}." in said
    assert "Skipped 1 videos:" in said and "text.mp4: not a video" in said
    assert "views/s" in complained and " 0/71 " not in complained  # it went on
    found = ClipFeatures.load(output)
    names = sorted(str(path) for path in (tmp_path / "videos").glob("??.mp4"))
    assert list(found.videos) == [name for name in names for _ in range(2)]

    again = command(child_environment, *flags)
    assert "is there already" in again.communicate()[1] and again.returncode == 1


@pytest.mark.parametrize(
    ("arguments", "said"),
    [
        (["--model=nowhere", "a.mp4", "--output=a.npz"], "No file or folder 'a.mp4'"),
        (["--model=nowhere", ".", "--output=a.csv"], "must end with .parquet or .npz"),
        (["--model=nowhere", "--output=a.npz"], "Say which videos"),
    ],
)
def test_mistakes(
    arguments: list[str], said: str, tmp_path: Path, child_environment: dict[str, str]
) -> None:
    done = subprocess.run(
        [sys.executable, "-m", "cvrl_tf.embed", *arguments],
        cwd=tmp_path,
        env=child_environment,
        capture_output=True,
        text=True,
    )
    assert done.returncode and said in done.stdout + done.stderr
    assert "Traceback" not in done.stderr


def test_embeddings_stay_of_length_one() -> None:
    rows = tf.math.l2_normalize(np.random.default_rng(0).normal(size=[6, 5]), axis=1).numpy()
    means = averaged("embedding", rows, 3)
    np.testing.assert_allclose(np.linalg.norm(means, axis=1), 1)
    wanted = rows[:3].mean(axis=0)
    np.testing.assert_allclose(means[0], wanted / np.linalg.norm(wanted))
    np.testing.assert_allclose(averaged("feature", rows, 3)[0], wanted)


def test_parts_without_a_clip_are_left_out(tmp_path: Path) -> None:
    """All of their videos were skipped."""
    facts = {"skipped": {"a": "no video"}}
    some = ClipFeatures(
        np.array(["b"]), np.zeros(1), np.ones(1), {"feature": np.ones([1, 2], "f4")}, facts
    )
    paths = [tmp_path / f"{number}.npz" for number in range(3)]
    for path, part in zip(paths, (ClipFeatures.joined([], facts), some, some), strict=True):
        part.save(path)
    for name in ("joined.parquet", "joined.npz"):
        feature_file.join(paths, tmp_path / name, facts)
        read = ClipFeatures.load(tmp_path / name)
        assert list(read.videos) == ["b", "b"] and read.facts == facts
        assert read.results["feature"].shape == (2, 2)
        assert read.starts.tolist() == [0, 0] and read.ends.tolist() == [1, 1]
