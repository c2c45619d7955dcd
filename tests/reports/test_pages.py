"""Pages in a real browser: no errors, all pictures load, nothing is wider than the screen.

Needs Chromium (Debian: chromium); `make test-pages`.
"""

import base64
import hashlib
import json
import os
import re
import subprocess
import sys
from pathlib import Path

import pytest
from conftest import ROOT, write_noise_video
from test_report import results  # noqa: F401 (a fixture)

from cvrl_tf.inference.embedder import Embedder
from cvrl_tf.inference.embedding import embed_videos
from cvrl_tf.inference.index import Found
from cvrl_tf.inference.search import Query
from cvrl_tf.reports import report
from cvrl_tf.reports.search_page import search_page

pytestmark = pytest.mark.browser

CHROMIUM = "chromium --headless --no-sandbox --disable-gpu --disable-quic --no-first-run"
CHROMIUM += " --disable-background-networking --disable-component-update --disable-sync"
CHROMIUM += " --enable-logging=stderr --window-size=1200,2000 --virtual-time-budget=20000"
# Tells by the title what a person would see.
LOOK = """<script>
addEventListener("load", () => {
  const broken = [...document.images].filter(i => !i.complete || !i.naturalWidth).length
  const wide = document.documentElement.scrollWidth > innerWidth
  document.title = `${document.images.length} pictures, ${broken} broken, ${wide ? "wide" : "fits"}`
})
</script>"""


POLICY = "default-src 'none'"


def seen(page: Path, folder: Path, protected: bool = True) -> tuple[str, list[str]]:
    """Title of a page that has looked at itself, and what stands on its console.

    Args:
      page: of HTML.
      folder: for the browser's profile.
      protected: keep the page's policy, by which only the script that looks may run. What else
        would run then stands on the console.
    """
    script = LOOK.removeprefix("<script>").removesuffix("</script>").encode()
    digest = base64.b64encode(hashlib.sha256(script).digest()).decode()
    text = page.read_text()
    if protected:
        text = text.replace(POLICY, f"{POLICY}; script-src 'sha256-{digest}'", 1)
    else:
        text = re.sub('<meta http-equiv="Content-Security-Policy"[^>]*>', "", text, count=1)
    copy = folder / "copy.html"
    copy.write_text(text + LOOK)
    command = [
        *CHROMIUM.split(),
        f"--user-data-dir={folder / 'profile'}",
        "--dump-dom",
        copy.as_uri(),
    ]
    done = subprocess.run(command, capture_output=True, text=True, timeout=120, check=True)
    title = re.search(r"<title>(.*?)</title>", done.stdout, re.DOTALL)
    assert title, done.stderr
    return title[1], re.findall(r"CONSOLE.*", done.stderr)


def test_what_is_broken_is_seen(tmp_path: Path) -> None:
    page = tmp_path / "page.html"
    page.write_text(
        '<title>x</title><img src="data:image/png;base64,AAAA"><div style="width: 3000px">x</div>'
        "<script>console.error('no'); undefined.x</script>"
    )
    title, console = seen(page, tmp_path)
    assert title == "1 pictures, 1 broken, wide" and len(console) == 2


LIVE = "console.error('ran')"
HOSTILE = [
    f'x" onerror="{LIVE}',
    f"<img src=x onerror={LIVE}>",
    f"<script>{LIVE}</script>",
    f"</style></title><svg onload={LIVE}>",
    f"javascript:{LIVE}",
    f"<iframe srcdoc='<script>{LIVE}</script>'>",
    f"<meta http-equiv=refresh content='0;url=javascript:{LIVE}'>",
    "$x$ \udcff",
]


def test_what_is_live_is_seen(tmp_path: Path) -> None:
    """Or nothing would follow from what is not."""
    page = tmp_path / "page.html"
    policy = f'<meta http-equiv="Content-Security-Policy" content="{POLICY}">'
    page.write_text(f"{policy}<title>x</title>{HOSTILE[1]}{HOSTILE[2]}")
    _, console = seen(page, tmp_path)
    assert len(console) >= 2 and not any("ran" in line.split(", source")[0] for line in console)
    _, console = seen(page, tmp_path, protected=False)
    assert sum("ran" in line for line in console) == 2


@pytest.mark.parametrize("protected", [True, False])
def test_nothing_live_in_a_report(results: Path, tmp_path: Path, protected: bool) -> None:  # noqa: F811
    """Names of classes, data, tasks and pictures; the policy has nothing to stop."""
    picture = (results / "pictures" / "query.webp").read_bytes()
    content = json.loads((results / "probe.json").read_text())
    content["classes"] = [HOSTILE[0], HOSTILE[-1]]
    content["gallery"] = []
    for number, hostile in enumerate(HOSTILE):
        name = hostile.replace("/", "").encode("utf-8", "surrogateescape")
        path = os.path.join(os.fsencode(results), b"%d.%b" % (number, name))
        Path(os.fsdecode(path)).write_bytes(picture)
        entry = {"picture": os.fsdecode(path), "class": hostile, "cosine": 0.5}
        content["gallery"].append({**entry, "nearest": [entry]})
    (results / "probe.json").write_text(json.dumps(content))
    for number, run in enumerate(sorted(results.glob("run*"))):
        facts = json.loads((run / "run.json").read_text())
        facts |= {"task": HOSTILE[number], "train": {**facts["train"], "data": HOSTILE[1 + number]}}
        (run / "run.json").write_text(json.dumps(facts))
    report.write_report([results], tmp_path / "out", HOSTILE[2])
    title, console = seen(tmp_path / "out" / "report.html", tmp_path, protected)
    pictures, _, rest = title.partition(" pictures, ")
    assert int(pictures) >= 2 * len(HOSTILE) and rest == "0 broken, fits" and console == []


@pytest.mark.parametrize("protected", [True, False])
def test_nothing_live_in_a_search(tmp_path: Path, protected: bool) -> None:
    video = write_noise_video(tmp_path / "a.mp4", 30, 0)
    videos = [video.rename(tmp_path / HOSTILE[0]), *(tmp_path / name for name in HOSTILE[1:])]
    found = [Found(str(each), 0.0, 1.0, 0.5) for each in videos]
    page = tmp_path / "found.html"
    page.write_text(search_page(Query(HOSTILE[1], 0.0, 1.0), found))
    title, console = seen(page, tmp_path, protected)
    assert title == "1 pictures, 0 broken, fits" and console == []


def test_report(results: Path, tmp_path: Path) -> None:  # noqa: F811
    command = [sys.executable, "-m", "cvrl_tf.report", results, f"--output={tmp_path / 'out'}"]
    subprocess.run(command, cwd=ROOT, check=True, capture_output=True)
    title, console = seen(tmp_path / "out" / "report.html", tmp_path)
    pictures, _, rest = title.partition(" pictures, ")
    assert int(pictures) >= 10 and rest == "0 broken, fits" and console == []


def test_search_page(exported_model: Path, tmp_path: Path, child_environment: dict) -> None:
    videos = [write_noise_video(tmp_path / f"{n}.mp4", 30, n) for n in range(5)]
    embedder = Embedder(exported_model)
    embed_videos(embedder, list(map(str, videos)), tmp_path / "features.npz", workers=1)
    page = tmp_path / "found.html"
    flags = f"--index={tmp_path / 'features.npz'}", str(videos[0]), f"--output={page}"
    flags += (f"--model={exported_model}",)
    command = [sys.executable, "-m", "cvrl_tf.search", *flags]
    subprocess.run(command, env=child_environment, cwd=ROOT, check=True, capture_output=True)
    title, console = seen(page, tmp_path)
    assert title == "6 pictures, 0 broken, fits" and console == []
