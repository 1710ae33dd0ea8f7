"""``report.html`` in a browser: nothing on the console, nothing wider than the screen."""

from __future__ import annotations

import shutil
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from test_explorer import table
from test_page import NAMES, html

from calib.report.page.explorer import write_explorer

BROWSER = shutil.which("chromium") or shutil.which("google-chrome")
DRIVER = shutil.which("chromedriver")
QUIET = (
    *("--headless", "--no-sandbox", "--disable-gpu", "--no-first-run", "--disable-sync"),
    *("--disable-background-networking", "--disable-component-update", "--disable-extensions"),
)
PATIENCE_S = 60
pytestmark = [
    pytest.mark.slow,
    pytest.mark.skipif(not (BROWSER and DRIVER), reason="no chromium with a chromedriver"),
]


@pytest.fixture(scope="module")
def browser(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Any]:
    from selenium import webdriver
    from selenium.webdriver.chrome.service import Service

    options = webdriver.ChromeOptions()
    options.binary_location = str(BROWSER)
    for flag in (*QUIET, f"--user-data-dir={tmp_path_factory.mktemp('browser')}"):
        options.add_argument(flag)
    options.set_capability("goog:loggingPrefs", {"browser": "ALL"})
    driver = webdriver.Chrome(options=options, service=Service(DRIVER))
    yield driver
    driver.quit()


@pytest.fixture(scope="module")
def pages(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("pages")
    for name in NAMES:
        (folder / f"{name}.html").write_text(html(name), "utf-8")
    return folder


def opened(browser: Any, path: Path, width: int, scheme: str = "light") -> Any:
    screen = {"width": width, "height": 900, "deviceScaleFactor": 1, "mobile": False}
    browser.execute_cdp_cmd("Emulation.setDeviceMetricsOverride", screen)
    media = {"features": [{"name": "prefers-color-scheme", "value": scheme}]}
    browser.execute_cdp_cmd("Emulation.setEmulatedMedia", media)
    browser.get(path.as_uri())
    until = time.monotonic() + PATIENCE_S
    while not browser.execute_script("return document.documentElement.dataset.drawn"):
        assert time.monotonic() < until, "the figures were not drawn"
        time.sleep(0.05)
    return browser


@pytest.mark.parametrize("name", NAMES)
@pytest.mark.parametrize(("width", "scheme"), [(1280, "light"), (380, "dark")])
def test_it_is_drawn_without_a_word(
    browser: Any, pages: Path, name: str, width: int, scheme: str
) -> None:
    page = opened(browser, pages / f"{name}.html", width, scheme)
    assert page.get_log("browser") == []
    assert page.execute_script("return document.documentElement.scrollWidth") <= width
    places = page.execute_script(
        "return [...document.querySelectorAll('.figure')]"
        ".map(f => f.querySelectorAll('svg').length)"
    )
    assert all(count == 1 for count in places)
    assert (len(places) == 0) == (name == "unfit")


def test_dark_is_dark(browser: Any, pages: Path) -> None:
    shown = "return getComputedStyle(document.body).backgroundColor.match(/\\d+/g).map(Number)"
    light = opened(browser, pages / "predicted.html", 1280, "light").execute_script(shown)
    dark = opened(browser, pages / "predicted.html", 1280, "dark").execute_script(shown)
    assert sum(dark[:3]) < 120
    assert sum(light[:3]) > 600


def test_measured_and_error_are_in_sight(browser: Any, pages: Path) -> None:
    """On a wide screen no column of the module tree is beyond its edge."""
    page = opened(browser, pages / "measured.html", 1280)
    beyond = page.execute_script(
        "const box = document.querySelector('table.tree').parentElement;"
        "return box.scrollWidth - box.clientWidth"
    )
    assert beyond <= 0


def test_a_tree_opens_and_a_table_sorts(browser: Any, pages: Path) -> None:
    page = opened(browser, pages / "measured.html", 1280)
    count = (
        "return [...document.querySelectorAll('table.tree tbody tr')].filter(r => !r.hidden).length"
    )
    shut = page.execute_script(count)
    page.execute_script("document.querySelector('.twist[aria-expanded=false]').click()")
    assert page.execute_script(count) > shut
    page.execute_script(
        "window.kinds = document.querySelector('table[aria-label=\"operators by kind\"]');"
        "kinds.tHead.rows[0].cells[1].querySelector('button').click()"
    )
    first = "return [...kinds.tBodies[0].rows].map(r => Number(r.cells[1].dataset.value))"
    falling = page.execute_script(first)
    assert falling == sorted(falling, reverse=True)
    page.execute_script("kinds.tHead.rows[0].cells[1].querySelector('button').click()")
    assert page.execute_script(first) == sorted(falling)


def test_a_sorted_tree_keeps_children_below_their_parents(browser: Any, pages: Path) -> None:
    page = opened(browser, pages / "measured.html", 1280)
    page.execute_script(
        "const tree = document.querySelector('table.tree');"
        "tree.tHead.rows[0].cells[1].querySelector('button').click()"
    )
    rows = page.execute_script(
        "return [...document.querySelectorAll('table.tree tbody tr')]"
        ".map(r => [r.dataset.id, r.dataset.parent])"
    )
    seen = {""}
    for name, parent in rows:
        assert parent in seen
        seen.add(name)


def test_all_rows_of_a_long_table_come_when_asked(browser: Any, pages: Path) -> None:
    page = opened(browser, pages / "measured.html", 380)
    hidden = "return document.querySelectorAll('table[data-first] tbody tr[hidden]').length"
    assert page.execute_script(hidden) > 0
    page.execute_script("document.querySelector('.more').click()")
    assert page.execute_script(hidden) == 0


@pytest.mark.parametrize("width", [1280, 380])
def test_the_explorer_draws_what_is_chosen(browser: Any, tmp_path: Path, width: int) -> None:
    path = write_explorer(table(), tmp_path)
    page = opened(browser, path, width)
    assert page.get_log("browser") == []
    assert page.execute_script("return document.documentElement.scrollWidth") <= width
    label = "return document.querySelector('#explorer svg').textContent"
    assert "per token" in page.execute_script(label)
    page.execute_script(
        "const up = document.querySelectorAll('#choices select')[1];"
        "up.value = 'wall_s'; up.dispatchEvent(new Event('change'))"
    )
    until = time.monotonic() + PATIENCE_S
    while "time of the whole" not in page.execute_script(label):
        assert time.monotonic() < until
        time.sleep(0.05)
    assert page.get_log("browser") == []
