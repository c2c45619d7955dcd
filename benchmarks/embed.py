"""Measure videos to features, against the model alone on clips in memory.

    python benchmarks/embed.py

The model is R3D-50 with random weights, on ten clips of 16x224x224 in three crops for each video,
as in the paper. `embed` decodes videos of 300 frames of 340x256, cuts and encodes clips on the same
cores. The model alone encodes the same number of views.
"""

import tempfile
from collections.abc import Callable
from pathlib import Path

import measure
import numpy as np
import preparation

VIDEOS, CLIPS, CROPS, FRAMES, SIZE, BATCH, ROUNDS = 6, 10, 3, 16, 224, 10, 3
VIEWS = VIDEOS * CLIPS * CROPS


def main() -> None:
    # Here, because the processes that decode import this file too and need no TensorFlow.
    import tensorflow as tf

    from cvrl_tf import checkpoints
    from cvrl_tf.data.sampling import Sampling
    from cvrl_tf.inference import saved_model
    from cvrl_tf.inference.embedder import Embedder
    from cvrl_tf.inference.embedding import embed_videos
    from cvrl_tf.models.resnet3d import ResNet3D

    with tempfile.TemporaryDirectory() as name:
        work = Path(name)
        videos = [str(work / f"{seed}.mp4") for seed in range(VIDEOS)]
        for seed, path in enumerate(videos):
            preparation.write_video(Path(path), 340, 256, seed)
        encoder = ResNet3D(depth=50)
        encoder.build()
        sampling = Sampling(FRAMES, 2, None, SIZE, 256, None)
        checkpoints.save_as_run(encoder, sampling, work / "run")
        saved_model.export_encoder(work / "run", work / "model", num_clips=CLIPS, num_crops=CROPS)
        embedder = Embedder(work / "model", batch=BATCH)
        shape = [VIEWS, FRAMES, SIZE, SIZE, 3]
        clips = tf.constant(np.random.default_rng(0).integers(0, 256, shape, np.uint8))

        def embed() -> None:
            output = work / "features.npz"
            output.unlink(missing_ok=True)
            skipped = embed_videos(embedder, videos, output, preparation.CORES, show=False)
            assert not skipped

        embedder.results_of(clips[:BATCH], 1)  # loads kernels
        contenders: dict[str, Callable[[], object]] = {
            "embed": embed,
            "model": lambda: embedder.results_of(clips, CROPS),
        }
        seconds = measure.alternate(contenders, ROUNDS)
    measure.report(
        __file__,
        {"embed_vs_model": measure.speed_up(seconds, "embed", "model")},
        views_per_second={name: round(VIEWS / min(times), 2) for name, times in seconds.items()},
    )


if __name__ == "__main__":
    main()
