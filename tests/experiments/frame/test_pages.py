import itertools
import struct
from html.parser import HTMLParser

import numpy as np
import pandas as pd
import pytest
from chromium import browse, contrast, needs_chromium

from neuromix.experiments.frame.figures import slices
from neuromix.experiments.frame.findings import criterion
from neuromix.experiments.frame.pages import report_page, viewer


class Page(HTMLParser):
    def __init__(self, text):
        super().__init__()
        self.tags, self.words = [], []
        self.feed(text)

    def handle_starttag(self, tag, attrs):
        self.tags.append((tag, dict(attrs)))

    def handle_data(self, data):
        self.words.append(data.strip())


def test_a_page_stands_alone_and_opens_with_the_verdict():
    volume = np.random.default_rng(0).random((8, 9, 10))
    text = report_page(
        {"verdict": "It <helped>.", "config": {"seed": 3}},
        title="T",
        tables=[("Scores", pd.DataFrame({"arm": ["real"], "score": [0.8125]}))],
        figures=[(slices([volume], ["one"]), "A brain.")],
    )
    page = Page(text)
    words = [word for word in page.words if word]
    assert words.index("It <helped>.") < words.index("Scores")
    assert "0.812" in words
    images = [attrs for tag, attrs in page.tags if tag == "img"]
    assert images[0]["alt"] == "A brain."
    links = [v for _, attrs in page.tags for k, v in attrs.items() if k in ("src", "href")]
    assert all(link.startswith("data:") for link in links)


def test_slices_show_three_planes_of_each_volume():
    volume = np.zeros((10, 10, 10))
    blank = slices([volume], ["empty"])
    volume[:, :, 5] = 1
    png = slices([volume], ["a plate"])
    width, height = struct.unpack(">II", png[16:24])
    assert width > 100
    assert height > 300
    assert png != blank


@pytest.fixture(scope="module")
def full(tmp_path_factory):
    """A page with everything on it."""
    volume = np.random.default_rng(0).random((8, 9, 10)).astype(np.float32)
    wide = {"arm": ["real only", "real + synthetic"]}
    wide |= {f"a rather long column {k}": [0.8125, 0.5] for k in range(9)}
    page = tmp_path_factory.mktemp("page") / "report.html"
    page.write_text(
        report_page(
            {
                "verdict": "It did not help.",
                "findings": [criterion("likeness", 0.5, "at least 0.9", False)],
                "config": {"seed": 3},
            },
            title="T",
            tables=[("Scores", pd.DataFrame(wide))],
            figures=[(slices([volume], ["one"]), "A brain.", "A brain in three planes.")],
            viewers=[viewer(volume, np.diag([4.0, 4, 4, 1]), "a real subject", upper=1.0)],
            details=[("All rows", pd.DataFrame({"arm": ["real only"]}))],
            methods=["One sampler was trained."],
            warnings=["Its variance is not in the intervals."],
        )
    )
    return page


def test_a_screen_reader_finds_its_way(full):
    tags = Page(full.read_text()).tags
    assert ("html", {"lang": "en"}) in tags
    levels = [int(tag[1]) for tag, _ in tags if tag in ("h1", "h2", "h3", "h4")]
    assert levels[0] == 1
    assert all(after - before <= 1 for before, after in itertools.pairwise(levels))
    images = [attrs for tag, attrs in tags if tag == "img"]
    assert [image["alt"] for image in images] == ["A brain in three planes."]
    assert [a["title"] for tag, a in tags if tag == "iframe"] == ["Slice viewer: a real subject"]
    names = [tag for tag, _ in tags]
    assert names.count("caption") == names.count("table") == 5
    scopes = {attrs.get("scope") for tag, attrs in tags if tag == "th"}
    assert scopes == {"col", "row"}


def test_warnings_come_before_and_methods_after_the_numbers(full):
    words = " ".join(word for word in Page(full.read_text()).words if word)
    order = [
        "It did not help.",
        "Its variance is not",
        "at least 0.9",
        "Scores",
        "A brain.",
        "All rows",
        "One sampler was",
    ]
    assert sorted(order, key=words.index) == order


@needs_chromium
@pytest.mark.parametrize("dark", [False, True])
def test_a_browser_shows_every_picture_and_asks_nobody(full, tmp_path, dark):
    opened = browse(full, tmp_path, *(["--blink-settings=preferredColorScheme=0"] if dark else []))
    assert opened.complaints == []
    assert opened.found["requests"] == []
    assert len(opened.found["pictures"]) >= 3  # one of ours, and the viewer's
    assert min(opened.found["pictures"]) > 0
    assert min(opened.found["canvases"]) > 10  # grey values: slices were drawn
    assert opened.found["content"] <= opened.found["width"]  # wide tables scroll by themselves
    ink, paper = opened.found["ink"], opened.found["paper"]
    assert contrast(ink, paper) > 10
    assert (contrast(paper, "rgb(0, 0, 0)") < 2) is dark


@needs_chromium
def test_the_browser_would_notice(full, tmp_path):
    text = full.read_text().replace(
        "<main>", '<main><script>nothing()</script><img src="https://a.invalid/x.png">'
    )
    page = tmp_path / "broken.html"
    page.write_text(text.replace("Content-Security-Policy", "none"))
    opened = browse(page, tmp_path)
    assert any("nothing is not defined" in line for line in opened.complaints)
    assert any(address.endswith("x.png") for address in opened.found["requests"])
    assert 0 in opened.found["pictures"]
    page.write_text(text)
    assert any("Content Security Policy" in line for line in browse(page, tmp_path).complaints)
