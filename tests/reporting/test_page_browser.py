"""Tests of the page in Chromium: at three widths, in the light and dark theme, without network access."""

from __future__ import annotations

import shutil
from collections.abc import Iterator
from pathlib import Path

import pytest

from blip_rl.reporting.page import write_report
from tests.reporting.report_runs import make_run

sync_api = pytest.importorskip("playwright.sync_api", reason="playwright is not installed")

_BROWSER = next(
    (path for name in ("chromium", "chromium-browser", "google-chrome") if (path := shutil.which(name))), None
)
_FLAGS = [
    "--no-sandbox",
    "--disable-gpu",
    "--disable-quic",
    "--no-first-run",
    "--disable-background-networking",
    "--disable-component-update",
    "--disable-sync",
]
LONG = "a_name_without_a_single_space_that_goes_on_and_on_for_much_longer_than_any_phone_is_wide_" * 2

pytestmark = pytest.mark.skipif(_BROWSER is None, reason="no Chromium on this machine: apt-get install chromium")


@pytest.fixture(scope="module")
def browser() -> Iterator[sync_api.Browser]:
    with sync_api.sync_playwright() as playwright:
        browser = playwright.chromium.launch(executable_path=_BROWSER, args=_FLAGS)
        yield browser
        browser.close()


@pytest.fixture(scope="module")
def pages(tmp_path_factory) -> dict[str, Path]:
    """A page of one complete run, and one of two runs with missing data and very long names."""
    folder = tmp_path_factory.mktemp("runs")
    one = make_run(folder / "one", command=f"blip-rl train --out {LONG}")
    games = ("kungfu", LONG)
    several = [make_run(folder / LONG[:80], games=games, logs=False, bits=False, stages=1)]
    several.append(make_run(folder / "b", agent=LONG, games=games, seed=1, logs=False, bits=False))
    (several[0] / "bits.csv").unlink()
    return {
        "one": write_report([one]).page,
        "several": write_report(several, out=folder / "out").page,
    }


@pytest.mark.parametrize("scheme", ["light", "dark"])
@pytest.mark.parametrize("width", [390, 820, 1440])
@pytest.mark.parametrize("name", ["one", "several"])
def test_page_fits_the_width_and_makes_no_requests(browser, pages, name, width, scheme):
    page = browser.new_page(viewport={"width": width, "height": 800}, color_scheme=scheme)
    said, asked = [], []
    page.on("console", lambda message: said.append(message.text))
    page.on("pageerror", lambda error: said.append(str(error)))
    page.on("request", lambda request: asked.append(request.url))
    page.goto(pages[name].as_uri())
    try:
        assert said == []
        assert [url[:120] for url in asked if not url.startswith("data:")] == [pages[name].as_uri()]
        images = page.evaluate("Array.from(document.images, one => [one.naturalWidth, one.currentSrc.length])")
        assert len(images) > 3
        assert all(natural > 0 and address > 100 for natural, address in images)
        assert page.evaluate("document.documentElement.scrollWidth") <= width
        dark = page.evaluate("getComputedStyle(document.body).backgroundColor") == "rgb(14, 18, 24)"
        assert dark == (scheme == "dark")
        assert _charts_follow(page) == {scheme}
    finally:
        page.close()


def _charts_follow(page) -> set[str]:
    """Return the themes of the charts: ``source`` elements have the dark image, ``img`` the light one."""
    return set(
        page.evaluate(
            """Array.from(document.querySelectorAll("picture img"), one => {
                const dark = Array.from(one.parentElement.querySelectorAll("source"))
                    .filter(s => s.media.includes("dark")).map(s => s.srcset);
                return dark.includes(one.currentSrc) ? "dark" : "light";
            })"""
        )
    )


def test_printed_page_is_light(browser, pages):
    page = browser.new_page(color_scheme="dark")
    page.goto(pages["one"].as_uri())
    page.emulate_media(media="print", color_scheme="dark")
    # Not wait_for_function: it evaluates text inside the page, which the page's security policy forbids.
    page.evaluate("Promise.all(Array.from(document.images, one => one.decode()))")
    try:
        assert _charts_follow(page) == {"light"}
        assert page.evaluate("getComputedStyle(document.body).backgroundColor") == "rgb(255, 255, 255)"
        assert page.evaluate("getComputedStyle(document.querySelector('h1')).color") == "rgb(28, 35, 48)"
    finally:
        page.close()


def test_numbers_of_a_chart_are_shown_and_downloaded(browser, pages):
    page = browser.new_page(viewport={"width": 360, "height": 800})
    page.goto(pages["one"].as_uri())
    numbers = page.locator("#games details.data").first
    assert not numbers.locator("table").is_visible()
    numbers.locator("summary").click()
    assert numbers.locator("table").is_visible()
    assert page.evaluate("document.documentElement.scrollWidth") <= 360
    with page.expect_download() as started:
        numbers.locator("a").click()
    assert started.value.suggested_filename == "game-1-kungfu.csv"
    saved = pages["one"].parent / "pictures" / "game-1-kungfu.csv"
    assert Path(started.value.path()).read_bytes() == saved.read_bytes()
    page.close()
