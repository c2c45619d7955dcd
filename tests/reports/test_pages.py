"""Pages in a real browser: no errors, all pictures load, nothing is wider than the screen.

Needs Chromium (Debian: chromium); `make test-pages`.
"""

import re
import subprocess
import sys
from pathlib import Path

import pytest
from conftest import ROOT, write_noise_video
from test_report import results  # noqa: F401 (a fixture)

from cvrl_tf.inference.embedder import Embedder, embed_videos

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


def seen(page: Path, folder: Path) -> tuple[str, list[str]]:
    """Title of a page that has looked at itself, and what stands on its console."""
    copy = folder / "copy.html"
    copy.write_text(page.read_text() + LOOK)
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
    command = [sys.executable, "-m", "cvrl_tf.search", *flags]
    subprocess.run(command, env=child_environment, cwd=ROOT, check=True, capture_output=True)
    title, console = seen(page, tmp_path)
    assert title == "6 pictures, 0 broken, fits" and console == []
