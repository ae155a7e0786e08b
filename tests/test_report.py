import struct
from html.parser import HTMLParser

import numpy as np
import pandas as pd

from augment.report import report_page, slices


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
        title="T",
        verdict="It <helped>.",
        tables=[("Scores", pd.DataFrame({"arm": ["real"], "score": [0.8125]}))],
        figures=[(slices([volume], ["one"]), "A brain.")],
        config={"seed": 3},
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
