"""Which frames of a video are read, when, and how they are shown. FFmpeg makes the clips."""

import struct
import subprocess
from pathlib import Path

import av
import cv2
import imageio_ffmpeg
import numpy as np
import pytest
import tensorflow as tf
from conftest import jpegs_of

from cvrl_tf.preparation import decoding
from cvrl_tf.preparation.decoding import FrameOptions, UnusableVideo
from cvrl_tf.preparation.video_reader import VideoReader

FFMPEG = imageio_ffmpeg.get_ffmpeg_exe()
OPTIONS = FrameOptions(48)
X264 = "-c:v libx264 -preset veryfast -pix_fmt yuv420p "


def make(path: Path, how: str, source: str = "testsrc2=s=64x48:d=2:r=25", *more: str) -> Path:
    """Writes a clip of a test picture."""
    inputs = ["-f", "lavfi", "-i", source, *more]
    subprocess.run([FFMPEG, "-loglevel", "error", "-y", *inputs, *how.split(), path], check=True)
    return path


def pixels(encoded: decoding.EncodedVideo, number: int = 0) -> np.ndarray:
    return tf.io.decode_jpeg(jpegs_of(encoded)[number]).numpy().astype(int)


@pytest.mark.parametrize("how", [X264, X264.replace("420p", "420p10le"), "-c:v mjpeg", "-c:v vp9"])
def test_pixels_are_those_of_opencv(tmp_path: Path, how: str) -> None:
    path = make(tmp_path / "clip.mkv", how, "testsrc2=s=64x48:d=0.4:r=25")
    capture = cv2.VideoCapture(str(path), cv2.CAP_FFMPEG)
    with VideoReader(path, 2**20) as reader:
        for each in reader.pictures():
            read, image = capture.read()
            assert read
            np.testing.assert_array_equal(reader.display(each.picture).bgr(each.picture), image)
    assert not capture.read()[0]


@pytest.mark.parametrize(
    ("name", "how"),
    [
        ("variable.mkv", X264 + "-vf select='lt(mod(n,10),3)' -fps_mode passthrough"),
        ("variable.webm", "-c:v vp8 -vf select='lt(mod(n,10),3)' -fps_mode passthrough"),
        ("variable.avi", "-c:v mpeg4 -vf select='lt(mod(n,10),3)' -fps_mode passthrough"),
        ("offset.avi", "-c:v mpeg4 -output_ts_offset 5"),
        ("offset.mkv", X264 + "-output_ts_offset 5"),
        ("offset.ts", X264 + "-output_ts_offset 5"),
        ("b_frames.avi", "-c:v mpeg4 -bf 2"),
        ("animation.gif", ""),
        ("camera.MTS", X264 + "-f mpegts"),
        ("disc.VOB", "-c:v mpeg2video -f vob"),
    ],
)
def test_sound_files_are_whole(tmp_path: Path, name: str, how: str) -> None:
    """Each also with sound that is longer than the picture, where its container holds sound."""
    sound = () if name.endswith("gif") else ("-f", "lavfi", "-i", "sine=d=3")
    encoded = decoding.encode_video(
        make(tmp_path / name, how, "testsrc2=s=64x48:d=2:r=25", *sound), OPTIONS
    )
    assert encoded.jpegs.num_frames == (15 if name.startswith("variable") else 50)
    assert encoded.warning == ""
    assert all(np.diff(encoded.times) > 0)


def test_an_edit_list_hides_frames(tmp_path: Path) -> None:
    whole = make(tmp_path / "whole.mp4", X264 + "-g 50 -bf 0", "testsrc2=s=64x48:d=4:r=25")
    cut = tmp_path / "cut.mp4"
    command = [FFMPEG, "-loglevel", "error", "-ss", "1", "-i", whole, "-t", "1", "-c", "copy", cut]
    subprocess.run(command, check=True)
    encoded = decoding.encode_video(cut, OPTIONS)
    assert encoded.warning == ""
    segment = decoding.encode_video(whole, OPTIONS, 1.0, 2.0)
    assert jpegs_of(encoded) == jpegs_of(segment)
    assert encoded.times == [40_000 * i for i in range(25)]


@pytest.mark.parametrize(
    "name", ["clip.avi", "clip.mkv", "clip.wmv", "clip.flv", "fast.mp4", "clip.ts"]
)
def test_missing_bytes_are_noticed(tmp_path: Path, name: str) -> None:
    how = "-c:v wmv2" if name.endswith("wmv") else "-c:v mpeg4 -movflags +faststart"
    content = make(tmp_path / name, how.replace("mpeg4", "flv") if "flv" in name else how)
    content.write_bytes(content.read_bytes()[: content.stat().st_size * 2 // 3])
    with pytest.raises(UnusableVideo, match="cut short or damaged: "):
        decoding.encode_video(content, OPTIONS)
    kept = decoding.encode_video(content, FrameOptions(48, keep_truncated=True))
    assert kept.warning and 5 < kept.jpegs.num_frames < 50
    before = decoding.encode_video(content, OPTIONS, 0.0, 0.2)  # ends before what is missing
    assert before.jpegs.num_frames == 5 and before.warning == ""


@pytest.mark.parametrize("name", ["clip.ts", "clip.m2ts", "clip.flv"])
def test_a_gap_is_noticed(tmp_path: Path, name: str) -> None:
    how = "-c:v flv" if name.endswith("flv") else "-c:v mpeg4 -mpegts_m2ts_mode "
    path = make(tmp_path / name, how + ("01"["m2ts" in name] if "ts" in name else ""))
    content = path.read_bytes()
    third = len(content) // 3
    path.write_bytes(content[:third] + content[third + 9 * 188 + 5 :])
    encoded = decoding.encode_video(path, OPTIONS)
    assert "bytes are missing in the middle" in encoded.warning
    assert encoded.jpegs.num_frames < 50


@pytest.mark.parametrize("how", [X264, "-c:v mjpeg -q:v 2", "-c:v mpeg4 -q:v 2"])
def test_damage_in_the_middle_is_counted(tmp_path: Path, how: str) -> None:
    path = make(tmp_path / "clip.avi", how, "testsrc2=s=340x256:d=2:r=25")
    content = bytearray(path.read_bytes())
    middle = len(content) * 4 // 9
    for place in range(middle, middle + 300):
        content[place] = (7 * content[place] + 13 * place) % 256
    path.write_bytes(content)
    encoded = decoding.encode_video(path, OPTIONS)
    assert encoded.jpegs.num_frames >= 49
    assert "damaged frames: " in encoded.warning or " of 50 frames decode" in encoded.warning


CODES = {  # a quarter turn, flips, and both: a, b, c, d of the display matrix
    (1, 0, 0, 1): lambda image: image,
    (0, 1, -1, 0): lambda image: np.rot90(image, -1),
    (0, -1, 1, 0): lambda image: np.rot90(image),
    (-1, 0, 0, -1): lambda image: image[::-1, ::-1],
    (-1, 0, 0, 1): lambda image: image[:, ::-1],
    (1, 0, 0, -1): lambda image: image[::-1],
    (0, 1, 1, 0): lambda image: image.transpose(1, 0, 2),
    (0, -1, -1, 0): lambda image: image[::-1, ::-1].transpose(1, 0, 2),
}


@pytest.mark.parametrize("code", CODES)
def test_a_display_matrix_turns_and_mirrors(tmp_path: Path, code: tuple[int, ...]) -> None:
    path = make(tmp_path / "clip.mp4", X264, "testsrc2=s=64x48:d=0.2:r=25")
    stored = pixels(decoding.encode_video(path, OPTIONS))
    content = path.read_bytes()
    a, b, c, d = (number << 16 for number in code)
    matrix = [struct.pack(">9i", *row, 1 << 30) for row in [(1 << 16, 0, 0, 0, 1 << 16, 0, 0, 0)]]
    turned = struct.pack(">9i", a, b, 0, c, d, 0, 0, 0, 1 << 30)
    at = content.index(matrix[0], content.index(b"tkhd"))
    path.write_bytes(content[:at] + turned + content[at + 36 :])
    encoded = decoding.encode_video(path, OPTIONS)
    shown = pixels(encoded)
    assert shown.shape[:2] == (encoded.height, encoded.width)
    assert np.abs(shown - CODES[code](stored)).mean() < 4  # JPEG blocks lie elsewhere


def test_pixels_may_be_oblong(tmp_path: Path) -> None:
    for aspect, size in (("2/1", (48, 128)), ("1/2", (72, 48)), ("150/151", (48, 64))):
        path = make(tmp_path / "clip.mp4", X264 + f"-vf setsar={aspect}:max=1000")
        encoded = decoding.encode_video(path, OPTIONS)
        assert (encoded.height, encoded.width) == size, aspect


def test_interlaced_video_is_deinterlaced(tmp_path: Path) -> None:
    how = "-vf tinterlace=interleave_top -c:v mpeg2video -flags +ilme+ildct -q:v 2"
    path = make(tmp_path / "clip.mpg", how, "testsrc2=s=320x240:d=1:r=50")
    encoded = decoding.encode_video(path, FrameOptions(240))
    assert encoded.jpegs.num_frames == 25 and encoded.warning == "deinterlaced"
    assert encoded.times == [40_000 * i for i in range(25)]
    with VideoReader(path, 2**24) as reader:
        shown = [each.picture.to_ndarray()[:240] for each in reader.pictures()]
    with av.open(str(path)) as container:
        stored = [picture.to_ndarray()[:240] for picture in container.decode(video=0)]

    def combs(frames: list[np.ndarray]) -> float:
        rows = np.stack(frames[5:20]).astype(int)
        return np.abs(2 * rows[:, 1:-1] - rows[:, :-2] - rows[:, 2:]).mean()

    assert combs(shown) < 0.7 * combs(stored)


def test_a_picture_on_the_cover_is_no_video(tmp_path: Path) -> None:
    picture = make(tmp_path / "cover.png", "-frames:v 1", "testsrc2=s=200x200")
    cover = ("-i", str(picture))
    how = "-map 1 -map 0 -c:v:0 png -disposition:v:0 attached_pic -c:v:1 libx264 -pix_fmt yuv420p"
    encoded = decoding.encode_video(
        make(tmp_path / "clip.mp4", how, "testsrc2=s=64x48:d=1:r=25", *cover), OPTIONS
    )
    assert (encoded.jpegs.num_frames, encoded.width) == (25, 64)
    how = "-map 1 -map 0 -c:v:0 png -c:v:1 mpeg4"  # in Matroska, without a word that it is one
    unmarked = make(tmp_path / "clip.mkv", how, "testsrc2=s=64x48:d=1:r=25", *cover)
    assert decoding.encode_video(unmarked, OPTIONS).jpegs.num_frames == 25
    how = "-map 0 -map 1 -c:v png -disposition:v:0 attached_pic"
    with pytest.raises(UnusableVideo, match="no video stream"):
        decoding.encode_video(make(tmp_path / "song.m4a", how, "sine=d=1", *cover), OPTIONS)


@pytest.mark.parametrize("rate", [0.1, 0.5, 12.5, 1000.0])
def test_slow_and_fast_rates_are_rates(tmp_path: Path, rate: float) -> None:
    path = make(tmp_path / "clip.mp4", X264, f"testsrc2=s=64x48:r={rate}:d={5 / rate}")
    encoded = decoding.encode_video(path, OPTIONS)
    assert encoded.frame_rate == pytest.approx(rate)
    assert encoded.times == [round(1e6 * i / rate) for i in range(5)]
    slower = decoding.encode_video(path, FrameOptions(48, fps=rate / 2.5))
    assert slower.jpegs.num_frames == 2


@pytest.mark.parametrize(
    "name", ["clip.mp4", "clip.mkv", "clip.ts", "open.ts", "refresh.ts", "clip.avi", "clip.webm"]
)
def test_a_segment_has_the_frames_of_the_whole(tmp_path: Path, name: str) -> None:
    how = {
        "open.ts": X264 + "-g 25 -x264-params open-gop=1:bframes=3",
        "refresh.ts": X264 + "-x264-params intra-refresh=1:keyint=25",
        "clip.avi": "-c:v mpeg4 -bf 2 -g 25",
        "clip.webm": "-c:v vp8 -g 25 -deadline realtime",
    }.get(name, X264 + "-g 25 -bf 3")
    path = make(tmp_path / name, how, "testsrc2=s=64x48:d=8:r=25")
    whole = decoding.encode_video(path, OPTIONS)
    frames = dict(zip(whole.times, jpegs_of(whole), strict=True))
    for start, end in ((0.3, 0.6), (3.0, 3.2), (6.51, 9.0)):
        segment = decoding.encode_video(path, OPTIONS, start, end)
        wanted = {t: jpeg for t, jpeg in frames.items() if start <= t / 1e6 < end}
        assert dict(zip(segment.times, jpegs_of(segment), strict=True)) == wanted
        assert segment.warning == ""


@pytest.mark.parametrize("name", ["clip.mp4", "clip.mkv"])
def test_a_segment_costs_no_more_for_being_late(tmp_path: Path, name: str) -> None:
    """Counted in decoded frames, because seconds vary."""
    path = make(tmp_path / name, X264 + "-g 50", "testsrc2=s=64x48:d=100:r=25")
    counts = []
    for start in (0.0, 88.0):
        with VideoReader(path, 2**20) as reader:
            for each in reader.pictures(start):
                if each.seconds >= start + 4:
                    break
            counts.append(reader.damage.packets)
    assert counts[1] <= 1.6 * counts[0]


def test_large_pictures_are_refused(tmp_path: Path) -> None:
    path = make(tmp_path / "clip.mp4", X264, "testsrc2=s=128x96:d=0.2:r=25")
    with pytest.raises(UnusableVideo, match="128x96 pixels are more than 10000: raise --max_pix"):
        decoding.encode_video(path, FrameOptions(48, max_pixels=10_000))
    with pytest.raises(UnusableVideo, match="341x256 pixels to store are more .* --short_side"):
        decoding.encode_video(path, FrameOptions(256, max_pixels=50_000))
    long = make(tmp_path / "long.avi", "-c:v rawvideo", "testsrc2=s=2000x2:d=0.2:r=25")
    with pytest.raises(UnusableVideo, match="2000x2 pixels: one side is over 16 times the other"):
        decoding.encode_video(long, OPTIONS)


def test_lists_of_other_files_are_not_opened(tmp_path: Path) -> None:
    make(tmp_path / "clip.mp4", X264)
    playlist = "#EXTM3U\n#EXT-X-TARGETDURATION:9\n#EXTINF:9,\nclip.mp4\n#EXT-X-ENDLIST\n"
    for text in ("ffconcat version 1.0\nfile clip.mp4\n", playlist):
        listed = tmp_path / "list.mp4"
        listed.write_text(text)
        with pytest.raises(UnusableVideo, match="not a video"):
            decoding.encode_video(listed, OPTIONS)
