"""A headless Chromium that opens a page and tells what it found; driven by its own flags."""

import functools
import json
import re
import shutil
import subprocess
from pathlib import Path
from typing import NamedTuple

import pytest

BROWSER = next(filter(None, map(shutil.which, ("chromium", "chromium-browser"))), None)
needs_chromium = pytest.mark.skipif(
    BROWSER is None, reason="there is no Chromium here: `apt-get install chromium`"
)

# Looks into the viewers' frames, too, once everything was drawn.
PROBE = """<script>
addEventListener("load", () => setTimeout(() => {
  const pages = [document, ...[...document.querySelectorAll("iframe")].map(f => f.contentDocument)];
  const all = name => pages.flatMap(page => [...page.querySelectorAll(name)]);
  const drawn = canvas => {
    const data = canvas.getContext("2d").getImageData(0, 0, canvas.width, canvas.height).data;
    return new Set(data.filter((_, k) => k % 4 == 0)).size;
  };
  const found = {
    pictures: all("img").map(image => image.complete ? image.naturalWidth : 0),
    canvases: all("canvas").map(drawn),
    requests: pages.flatMap(page => page.defaultView.performance.getEntriesByType("resource"))
      .map(entry => entry.name).filter(name => !name.startsWith("data:")),
    width: innerWidth,
    content: document.documentElement.scrollWidth,
    ink: getComputedStyle(document.body).color,
    paper: getComputedStyle(document.body).backgroundColor,
  };
  const told = document.createElement("pre");
  told.id = "probe";
  told.textContent = JSON.stringify(found);
  document.body.append(told);
}, 1500));
</script>"""


class Opened(NamedTuple):
    """What a page looked like."""

    found: dict
    """Of the probe: widths of pictures, grey values of canvases, addresses asked for, colours."""
    complaints: list
    """Lines of the console."""


def browse(page: Path, folder: Path, *flags: str) -> Opened:
    """Open a page in a window 500 pixels wide, the smallest that Chromium has."""
    assert BROWSER is not None
    probed = folder / "probed.html"
    probed.write_text(page.read_text().replace("</body>", PROBE + "</body>"))
    done = subprocess.run(
        [
            BROWSER, "--headless", "--no-sandbox", "--disable-gpu", "--disable-dev-shm-usage",
            "--disable-background-networking", "--disable-component-update", "--no-first-run",
            f"--user-data-dir={folder / 'profile'}",
            "--enable-logging=stderr", "--window-size=500,900", "--virtual-time-budget=10000",
            "--dump-dom", *flags, probed.as_uri(),
        ],
        capture_output=True, text=True, timeout=120,
    )  # fmt: skip
    told = re.search(r'<pre id="probe">(.*?)</pre>', done.stdout, re.S)
    assert told, done.stderr[-2000:]
    # Hints on speed, of nilearn's viewer, are no complaints.
    console = [line for line in done.stderr.splitlines() if "CONSOLE" in line]
    complaints = [line for line in console if "Canvas2D: Multiple readback" not in line]
    return Opened(json.loads(told[1]), complaints)


@functools.cache
def luminance(colour: str) -> float:
    """Relative luminance of ``rgb(r, g, b)``, as WCAG has it."""
    parts = [int(part) / 255 for part in re.findall(r"\d+", colour)[:3]]
    linear = [p / 12.92 if p <= 0.04045 else ((p + 0.055) / 1.055) ** 2.4 for p in parts]
    return 0.2126 * linear[0] + 0.7152 * linear[1] + 0.0722 * linear[2]


def contrast(one: str, other: str) -> float:
    """Contrast of two colours, 1 to 21; text needs 4.5."""
    low, high = sorted((luminance(one), luminance(other)))
    return (high + 0.05) / (low + 0.05)
