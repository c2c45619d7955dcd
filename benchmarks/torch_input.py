"""Measure a sample in PyTorch for `input_pipeline.py`, and print milliseconds as JSON.

    python benchmarks/torch_input.py FOLDER

The folder has the frames of a video as *.jpg, and video.mp4. This is a process of its own, because
TensorFlow and PyTorch with CUDA have two LLVMs, which can't be loaded together. The packages are no
dependencies of the project; the output says which are not installed.
"""

import json
import random
import statistics
import sys
import time
from collections.abc import Callable
from pathlib import Path

NOT_INSTALLED = "not installed"
CLIP, STRIDE = 16, 2
SIZE = 224
SAMPLES, ROUNDS = 20, 5


def indices(length: int) -> list[range]:
    """Draw the frames of two clips."""
    reach = (CLIP - 1) * STRIDE + 1
    starts = [random.randrange(length - reach + 1) for _ in range(2)]
    return [range(start, start + reach, STRIDE) for start in starts]


def milliseconds(sample: Callable[[], object]) -> float:
    """Return the median time of a sample over the rounds."""
    sample()
    rounds = []
    for _ in range(ROUNDS):
        begin = time.perf_counter()
        for _ in range(SAMPLES):
            sample()
        rounds.append((time.perf_counter() - begin) / SAMPLES * 1000)
    return round(statistics.median(rounds), 1)


def torchvision_transforms(folder: Path) -> float | str:
    """Make two views like the Model Garden's. Transforms draw once a call, so a call is a clip."""
    try:
        import torch
        from torchvision.io import decode_jpeg, read_file
        from torchvision.transforms import v2
    except ImportError:
        return NOT_INSTALLED
    torch.set_num_threads(1)
    jpegs = [read_file(str(path)) for path in sorted(folder.glob("*.jpg"))]
    color = [
        v2.RandomResizedCrop(SIZE, scale=(0.3, 1.0), ratio=(0.5, 2.0), antialias=False),
        v2.RandomHorizontalFlip(),
        v2.ToDtype(torch.float32, scale=True),
        v2.RandomApply([v2.ColorJitter(0.8, 0.8, 0.8, 0.2)], 0.8),
        v2.RandomGrayscale(0.2),
    ]
    blur = v2.GaussianBlur(SIZE // 10 // 2 * 2 + 1, (0.1, 2.0))
    first = v2.Compose([*color, blur])
    second = v2.Compose([*color, v2.RandomApply([blur], 0.1), v2.RandomSolarize(0.5, 0.2)])

    def sample() -> None:
        for view, clip in zip((first, second), indices(len(jpegs)), strict=True):
            view(torch.stack([decode_jpeg(jpegs[t]) for t in clip]))

    return milliseconds(sample)


def torchcodec_decoding(folder: Path) -> float | str:
    """Decode the same number of whole frames of the video as H.264."""
    try:
        from torchcodec.decoders import VideoDecoder
    except (ImportError, RuntimeError, OSError):  # it needs FFmpeg's libraries too
        return NOT_INSTALLED

    def sample() -> None:
        decoder = VideoDecoder(folder / "video.mp4", num_ffmpeg_threads=1)
        for clip in indices(len(decoder)):
            decoder.get_frames_in_range(clip.start, clip.stop, STRIDE)

    return milliseconds(sample)


if __name__ == "__main__":
    folder = Path(sys.argv[1])
    print(
        json.dumps(
            {
                "torchvision": torchvision_transforms(folder),
                "torchcodec": torchcodec_decoding(folder),
            }
        )
    )
