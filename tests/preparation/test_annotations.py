"""Annotations of each format, in the forms in which they are found."""

import json
import os
from pathlib import Path

import numpy as np
import pytest

from cvrl_tf.inference import embedding
from cvrl_tf.inference.feature_file import ClipFeatures
from cvrl_tf.preparation import annotations, decoding, prepare
from cvrl_tf.preparation.annotations import Video
from cvrl_tf.preparation.summary import listing


def touch(folder: Path, *names: str) -> Path:
    for name in names:
        (folder / name).parent.mkdir(parents=True, exist_ok=True)
        (folder / name).touch()
    return folder


def labels(videos: list[Video]) -> dict[str, str | None]:
    return {video.name: video.label for video in videos if not video.left_out}


def left_out(videos: list[Video]) -> dict[str, str]:
    return {video.name: video.left_out for video in videos if video.left_out}


def files(videos: list[Video], root: Path) -> dict[str, str]:
    """Names of the videos whose files are there, and where under `root`."""
    return {v.name: v.path.relative_to(root).as_posix() for v in videos if v.path.is_file()}


def test_folder_of_classes(tmp_path: Path) -> None:
    touch(tmp_path, "b c/2.MP4", "b c/1.webm", "a/x.avi", "a/x.txt", "readme.txt", ".hidden/x.avi")
    found = annotations.read(tmp_path)
    assert labels(found) == {"a/x.avi": "a", "b c/1.webm": "b c", "b c/2.MP4": "b c"}
    assert left_out(found) == {
        ".hidden": "ignored: hidden",
        "a/x.txt": "ignored: '.txt' is no video's ending",
        "readme.txt": "ignored: '.txt' is no video's ending",
    }
    assert [video.name for video in found] == sorted([*labels(found), *left_out(found)])


def test_folders_at_any_depth(tmp_path: Path) -> None:
    names = ["run/a.mp4", "run/s1/b.MTS", f"walk/{'d/' * 40}c.m2ts", "walk/s1/anim.gif"]
    root = touch(tmp_path / "videos", *names, "walk/s1/list.xml")
    touch(tmp_path / "elsewhere", "d.mp4")
    (root / "walk" / "link").symlink_to(tmp_path / "elsewhere")
    (root / "walk" / "s1" / "back").symlink_to(root)
    (root / "walk" / "broken.mp4").symlink_to("gone.mp4")
    os.mkfifo(root / "walk" / "pipe.mp4")
    found = annotations.read(root)
    names += ["walk/broken.mp4", "walk/link/d.mp4"]
    assert labels(found) == {name: name.partition("/")[0] for name in names}
    assert left_out(found) == {
        "walk/pipe.mp4": "ignored: no file",
        "walk/s1/back": "ignored: a link to a folder that it is in",
        "walk/s1/list.xml": "ignored: '.xml' is no video's ending",
    }
    parents = labels(annotations.read(root, label_from="parent"))
    assert parents == {name: name.split("/")[-2] for name in names}
    assert labels(annotations.read(root, label_from="none")) == dict.fromkeys(names)
    videos, ignored = embedding.listed([str(root)])
    assert videos == sorted(str(root / name) for name in names)
    assert ignored == {str(root / name): reason for name, reason in left_out(found).items()}


def test_names_of_any_bytes(tmp_path: Path) -> None:
    names = [os.fsdecode(name) for name in (b"caf\xe9.mp4", b"new\nline.mp4")]
    names += ["5.04\u202fPM.mov", "\u200eWhatsApp.mp4"]
    touch(tmp_path, *names)
    assert labels(annotations.read(tmp_path)) == dict.fromkeys(names)
    found = embedding.listed([str(tmp_path)])[0]
    assert found == sorted(str(tmp_path / name) for name in names)
    nothing = np.full(4, np.nan)
    written = ClipFeatures(np.array(found), nothing, nothing, {"feature": np.eye(4)}, {})
    written.save(tmp_path / "features.npz")
    assert ClipFeatures.load(tmp_path / "features.npz").videos.tolist() == found
    said = "\n".join(listing("Skipped {} videos", dict.fromkeys(names, "why"), ""))
    assert said.encode() and "'caf\\udce9.mp4': why" in said and "'new\\nline.mp4'" in said


def test_folder_of_unlabeled_videos(tmp_path: Path) -> None:
    touch(tmp_path, "b.mp4", "a.mkv", "thumbnails/a.jpg")
    assert labels(annotations.read(tmp_path)) == {"a.mkv": None, "b.mp4": None}


def test_list_of_videos(tmp_path: Path) -> None:
    touch(tmp_path, "clips/my clip.mp4", "clips/b.mp4")
    listed = tmp_path / "list.txt"
    listed.write_bytes(b"clips/my clip.mp4 10\r\nclips/b.mp4\t9 \r\n\r\nclips/gone.mp4 9\r\n")
    found = annotations.read(listed)
    assert labels(found) == {"clips/my clip.mp4": "10", "clips/b.mp4": "9", "clips/gone.mp4": "9"}
    assert found[1].path == tmp_path / "clips" / "gone.mp4"
    # Numbers in their order, not that of their digits.
    assert prepare._open_info(tmp_path, 8, found).labels == ["9", "10"]

    listed.write_text("b.mp4 bowling\n")
    assert annotations.read(listed, [tmp_path / "clips"])[0].path.is_file()


def test_list_of_unlabeled_videos(tmp_path: Path) -> None:
    names = ["b.mp4", "clips/my clip.mp4", "clips/no ending 1", "screen 5.04.32\u202fPM.mov"]
    touch(tmp_path, *names, "clips/no ending")
    listed = tmp_path / "list.txt"
    unix, windows = "\n".join([*names, "", ""]), "\r\n".join([*names[:2], "", *names[2:]])
    for content in (unix, windows, "\ufeff" + unix, "\ufeff" + windows, unix.replace("\n", " \n")):
        listed.write_bytes(content.encode())
        found = annotations.read(listed)
        assert labels(found) == dict.fromkeys(names)
        assert files(found, tmp_path) == {name: name for name in names}
    listed.write_text(str(tmp_path / "b.mp4"))
    (video,) = annotations.read(listed, [tmp_path / "clips"])
    assert (video.path, video.label) == (tmp_path / "b.mp4", None)


def test_list_with_a_byte_order_mark(tmp_path: Path) -> None:
    touch(tmp_path, "a.mp4", "b.mp4")
    listed = tmp_path / "list.txt"
    listed.write_bytes(b"\xef\xbb\xbfa.mp4 cat\r\nb.mp4 cat\r\n")
    assert labels(annotations.read(listed)) == {"a.mp4": "cat", "b.mp4": "cat"}


def test_list_with_names_that_are_no_utf_8(tmp_path: Path) -> None:
    name = os.fsdecode(b"caf\xe9.mp4")
    touch(tmp_path, name)
    listed = tmp_path / "list.txt"
    for content, label in ((b"caf\xe9.mp4\n", None), (b"caf\xe9.mp4 drink\n", "drink")):
        listed.write_bytes(content)
        found = annotations.read(listed)
        assert labels(found) == {name: label} and found[0].path.is_file()


@pytest.mark.parametrize(
    ("content", "complaint"),
    [
        ("a.mp4\nb.mp4\nc.mp4 cat\n", "list:3: 'c.mp4 cat' is no file, but 'a.mp4' in line 1 is"),
        ("\na.mp4\nb.mp4\ngone.mp4\n", "list:4: 'gone.mp4' is no .*--format=csv"),
        ("a.mp4 cat\nb.mp4 dog\nc.mp4\n", "list:3: 'c.mp4' is not `path label`: .*Add the label"),
        ("gone.mp4\n", "list:1: 'gone.mp4' is not `path label`, and no such .*or the root"),
        ("my gone.mp4\n", "list:1: 'my gone.mp4' is not `path label`, and no such"),
        ("a.mp4 2.mp4\n", "list:1: 'a.mp4 2.mp4' can be read .*both files are there"),
    ],
)
def test_lists_that_are_in_doubt(tmp_path: Path, content: str, complaint: str) -> None:
    source = touch(tmp_path, "a.mp4", "b.mp4", "c.mp4", "a.mp4 2.mp4") / "list"
    source.write_text(content)
    with pytest.raises(ValueError, match=complaint):
        annotations.read(source)


ID = "-_a1B2c3D4e"  # ids may begin with a dash and hold underscores


@pytest.mark.parametrize(
    "file", ["{}.mp4", "riding a bike/{}.mp4", "riding_a_bike/{}.mp4", "riding a bike/{}.mkv"]
)
@pytest.mark.parametrize("seconds", ["12,22", "12.0,22.0"])
def test_kinetics(tmp_path: Path, file: str, seconds: str) -> None:
    stem = f"{ID}_000012_000022"
    touch(tmp_path / "train", file.format(stem))
    source = tmp_path / "train.csv"
    source.write_text(
        "label,youtube_id,time_start,time_end,split,is_cc\n"
        f'"riding a bike",{ID},{seconds},train,0\n'
        '"passing, in football",AAAAAAAAAAA,0,10,train,1\n'
    )
    found = annotations.read(source, [tmp_path / "train"], format_name="kinetics")
    missing = "AAAAAAAAAAA_000000_000010"
    assert labels(found) == {stem: "riding a bike", missing: "passing, in football"}
    assert files(found, tmp_path / "train") == {stem: file.format(stem)}
    with pytest.raises(decoding.UnusableVideo, match="no such file"):
        decoding.encode_video(found[1].path, decoding.FrameOptions())


def test_kinetics_test_file_has_no_labels_and_replacements_go_first(tmp_path: Path) -> None:
    stem = f"{ID}_000001_000011"
    touch(tmp_path, f"test/{stem}.mp4", f"replacement/{stem}.mp4")
    source = tmp_path / "test.csv"
    source.write_text(f"youtube_id,time_start,time_end,split\n{ID},1,11,test\n")
    roots = [tmp_path / "replacement", tmp_path / "test"]
    found = annotations.read(source, roots, "test", "kinetics")
    assert labels(found) == {stem: None}
    assert files(found, tmp_path) == {stem: f"replacement/{stem}.mp4"}


def test_ucf101(tmp_path: Path) -> None:
    root = touch(tmp_path / "UCF-101", "Archery/v_Archery_g01_c01.avi", "v_Bowling_g01_c01.avi")
    train, test = tmp_path / "trainlist01.txt", tmp_path / "testlist01.txt"
    train.write_bytes(b"Archery/v_Archery_g01_c01.avi 3\r\nBowling/v_Bowling_g01_c01.avi 9\r\n")
    test.write_bytes(b"Archery/v_Archery_g01_c01.avi\r\n")
    found = annotations.read(train, [root], format_name="ucf101")
    names = ["Archery/v_Archery_g01_c01.avi", "Bowling/v_Bowling_g01_c01.avi"]
    assert labels(found) == dict(zip(names, ["Archery", "Bowling"], strict=True))
    assert files(found, root) == {names[0]: names[0], names[1]: "v_Bowling_g01_c01.avi"}
    assert labels(annotations.read(test, [root], "test", "ucf101")) == {names[0]: "Archery"}


ODD = "April_09_#1_(brush)!_a;b&c_nm_np1_ba_goo_0.avi"


def test_hmdb51(tmp_path: Path) -> None:
    lists = tmp_path / "splits"
    lists.mkdir()
    (lists / "brush_hair_test_split1.txt").write_text(f"{ODD} 1 \nb.avi 2 \nc.avi 0 \n")
    (lists / "clap_test_split1.txt").write_text("b.avi 1 \n")
    (lists / "clap_test_split2.txt").write_text("b.avi 2 \n")
    (lists / "class_list.txt").write_text("brush_hair\n")
    root = touch(tmp_path / "hmdb51", f"brush_hair/{ODD}", "brush_hair/b.avi", "clap/b.avi")
    pattern = lists / "*_test_split1.txt"
    train = annotations.read(pattern, [root], "train", "hmdb51")
    assert labels(train) == {f"brush_hair/{ODD}": "brush_hair", "clap/b.avi": "clap"}
    assert files(train, root) == {video.name: video.name for video in train}
    test = annotations.read(pattern, [root], "test", "hmdb51")
    assert files(test, root) == {"brush_hair/b.avi": "brush_hair/b.avi"}  # not that of clap
    with pytest.raises(ValueError, match="'validation'"):
        annotations.read(pattern, [root], "validation", "hmdb51")
    with pytest.raises(ValueError, match="matches 3 files; name the lists of one split"):
        annotations.read(lists / "*_test_split*.txt", [root], "train", "hmdb51")
    with pytest.raises(ValueError, match="matches 0 files"):
        annotations.read(lists / "*_test_split9.txt", [root], "train", "hmdb51")


def test_something_something(tmp_path: Path) -> None:
    root = touch(tmp_path / "videos", "7.webm")
    item = {"id": "7", "label": "holding a pen", "placeholders": ["a pen"]}
    source = tmp_path / "train.json"
    source.write_text(json.dumps([{**item, "template": "Holding [something] next to [it]"}]))
    found = annotations.read(source, [root], format_name="ssv2")
    assert labels(found) == {"7": "Holding something next to it"}
    assert files(found, root) == {"7": "7.webm"}
    source.write_text('[{"id": "7"}]')
    assert labels(annotations.read(source, [root], "test", "ssv2")) == {"7": None}


def test_csv_with_columns(tmp_path: Path) -> None:
    root = touch(tmp_path / "videos", "a b.mp4")
    source = tmp_path / "clips.csv"
    source.write_text("label,path,start,end\nx,a b.mp4,1.5,3\nx,a b.mp4,3,\ny,a b.mp4,,\n")
    found = annotations.read(source, [root], format_name="csv")
    names = ["a b.mp4", "a b.mp4[1.5-3.0]", "a b.mp4[3-]"]
    assert labels(found) == dict(zip(names, ["y", "x", "x"], strict=True))
    assert [(video.start, video.end) for video in found] == [(None, None), (1.5, 3), (3, None)]


TABLE = 'Path{0} LABEL {0}Start\r\n"a b.mp4"{0}cat{0}\r\n\r\nb.mp4 {0} dog {0}1.5\r\n'


@pytest.mark.parametrize("separator", [",", ";", "\t"])
@pytest.mark.parametrize("encoding", ["utf-8", "utf-8-sig", "utf-16"])
def test_csv_as_programs_write_it(tmp_path: Path, separator: str, encoding: str) -> None:
    source = touch(tmp_path, "a b.mp4", "b.mp4") / "clips.csv"
    source.write_bytes(TABLE.format(separator).encode(encoding))
    found = annotations.read(source, format_name="csv")
    assert labels(found) == {"a b.mp4": "cat", "b.mp4[1.5-]": "dog"}


def test_kinetics_with_a_byte_order_mark(tmp_path: Path) -> None:
    source = touch(tmp_path, f"{ID}_000001_000011.mp4") / "train.csv"
    source.write_text(f"\ufeffLabel,youtube_id,time_start,time_end,split\ncat,{ID},1,11,train\n")
    assert labels(annotations.read(source, format_name="kinetics")) == {
        f"{ID}_000001_000011": "cat"
    }


def test_rows_without_a_label(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    source = touch(tmp_path, "a.mp4", "b.mp4", "c.mp4") / "clips.csv"
    source.write_text("path,label,fps\na.mp4,cat,1\nb.mp4,\nc.mp4\na.mp4,cat,2\n")
    kept = annotations.read(source, format_name="csv", unlabeled="keep")
    assert labels(kept) == {"a.mp4": "cat", "b.mp4": None, "c.mp4": None}
    assert "columns ['fps'] are not read" in caplog.text
    assert "names 1 videos again, with the same label" in caplog.text
    skipped = annotations.read(source, format_name="csv", unlabeled="skip")
    assert labels(skipped) == {"a.mp4": "cat"}
    assert left_out(skipped) == {"b.mp4": "no label", "c.mp4": "no label"}
    source.write_text("path\na.mp4\n")
    assert labels(annotations.read(source, format_name="csv")) == {"a.mp4": None}
    with pytest.raises(ValueError, match="No video of .* drop --unlabeled=skip"):
        annotations.read(source, format_name="csv", unlabeled="skip")


@pytest.mark.parametrize(
    ("format_name", "content", "complaint"),
    [
        ("list", "clip.mp4 1\nclip.mp4\n", r"source:2: 'clip.mp4' is not `path label`"),
        ("list", "clip.mp4 1\nclip.mp4 2\n", "names 'clip.mp4' twice"),
        ("list", "other.mp4 1\n", "None of the 1 videos .* correct the root"),
        ("kinetics", "label,id\nx,y\n", "no column .*'youtube_id'.*it has .*'id'"),
        ("kinetics", "youtube_id,time_start,time_end\nx,now,then\n", "source:2: no times"),
        ("ucf101", "v_Archery_g01_c01.avi 1\n", "source:1: .*is not `Class/video.avi`"),
        ("ssv2", '[{"label": "x"}]', "an item without `id`"),
        ("csv", "file;class\nx;y\n", r"no column \['path'\]; it has \['file;class'\]"),
        ("csv", "path,label,Label\nclip.mp4,x,y\n", r"columns \['label'\] twice"),
        ("csv", "path,label\nclip.mp4,cat,dog\n", "source:2: 3 values for 2 columns.*quotes"),
        ("csv", "path,label\n,cat\n", "source:2: no path"),
        ("csv", "path,label\nclip.mp4,x\nclip.mp4,y\n", "'clip.mp4' twice, .* 'x' and 'y'"),
        ("csv", "path,label\nclip.mp4,Cat\nb,c at\nc,cat\n", r"\[\['Cat', 'cat'\]\]. Write"),
        ("csv", "path,label\nclip.mp4,a_b\nb,a  b\n", r"\[\['a  b', 'a_b'\]\]"),
        ("csv", "path,label\nclip.mp4,e\u0301\nb,\u00e9\n", "differ only by case, .*encoding"),
        ("csv", "path,label\nclip.mp4,x\nb,\n", "1 of 2 videos .* no label: .'b'.*skip.*keep"),
        ("csv", "p\0a\0t\0h\0", "zero bytes, as text in UTF-16 .*save it as UTF-8"),
        ("list", "clip.mp4 riding a bike\n", "more than one word .*'clip.mp4', up to 'bike'"),
        ("list", "clip.mp4 1 2\n", "more than one word .*'clip.mp4', up to '2'.*one label"),
        ("csv", "path,start,end\nclip.mp4,3,2\n", "source:2: it ends at 2.0, before 3.0"),
        ("csv", "path,start,end\nclip.mp4,a,2\n", "source:2: no seconds"),
        ("imagenet", "", "No format 'imagenet'; choose one of folders, list, csv, kinetics"),
        ("folders", "", "not what the format 'folders' reads"),
    ],
)
def test_annotations_that_can_not_be_used(
    tmp_path: Path, format_name: str, content: str, complaint: str
) -> None:
    source = touch(tmp_path, "clip.mp4") / "source"
    source.write_text(content)
    with pytest.raises((ValueError, FileNotFoundError), match=complaint):
        annotations.read(source, format_name=format_name)


def test_inputs_that_hold_no_videos(tmp_path: Path) -> None:
    with pytest.raises(FileNotFoundError, match="gone"):
        annotations.read(tmp_path / "gone")
    with pytest.raises(FileNotFoundError, match="None of the 0 videos"):
        annotations.read(tmp_path)
    touch(tmp_path, "train/archery/a.mp4")
    with pytest.raises(ValueError, match=r"The folders \['train'\] of .* are splits, no classes"):
        annotations.read(tmp_path)
    touch(tmp_path, "train/b.mp4")
    with pytest.raises(ValueError, match=r"1 of 2 videos .* no label: \['b.mp4'\].*skip.*keep"):
        annotations.read(tmp_path / "train")
    with pytest.raises(ValueError, match="b.mp4' is not what the format"):
        annotations.read(tmp_path / "train" / "b.mp4")
    with pytest.raises(ValueError, match="A folder needs no root"):
        annotations.read(tmp_path / "train" / "archery", [tmp_path])
    with pytest.raises(FileNotFoundError, match="no_root"):
        annotations.read(touch(tmp_path, "list.txt") / "list.txt", [tmp_path / "no_root"])
