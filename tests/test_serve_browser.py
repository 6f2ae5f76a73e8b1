"""The pages in a real browser: Debian's Chromium, driven by Playwright, over a real server and store."""

from __future__ import annotations

import importlib.util
import os
import shutil
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from media_factory import write_video
from page_server import PageServer, page_server
from stores import SmallStore, still
from test_serve_api import publish_labels_head

from cliploom.pipelines.demo.corpus import PAGE
from cliploom.transforms.store.lock import store_lock
from cliploom.transforms.store.object_store import ObjectStore

CHROMIUM = os.environ.get("CLIPLOOM_CHROMIUM") or shutil.which("chromium") or shutil.which("chromium-browser")
playwright = pytest.importorskip("playwright.sync_api", reason="needs Playwright: pip install playwright")
pytestmark = pytest.mark.skipif(not CHROMIUM, reason="needs Chromium: apt-get install chromium, or CLIPLOOM_CHROMIUM")
HOSTILE = "<img src=x onerror=document.title='owned'>"

CONTRAST = """() => {
  const parsed = (text) => text.match(/[\\d.]+/g).map(Number);
  const light = ([r, g, b]) => [r, g, b].map((v) => v / 255)
    .map((v) => v <= .03928 ? v / 12.92 : ((v + .055) / 1.055) ** 2.4)
    .reduce((sum, v, i) => sum + v * [.2126, .7152, .0722][i], 0);
  const ground = (node) => {
    for (let at = node; at; at = at.parentElement) {
      const found = parsed(getComputedStyle(at).backgroundColor);
      if (found.length === 3 || found[3] > .5) return found;
    }
    return matchMedia("(prefers-color-scheme: dark)").matches ? [0, 0, 0] : [255, 255, 255];
  };
  const bad = [];
  for (const node of document.querySelectorAll("body *")) {
    const own = [...node.childNodes].some((each) => each.nodeType === 3 && each.textContent.trim());
    if (!own || !node.checkVisibility() || node.closest("svg, .skip")) continue;
    const [a, b] = [light(parsed(getComputedStyle(node).color)), light(ground(node))].sort((x, y) => y - x);
    if ((a + .05) / (b + .05) < 4.5) bad.push(`${node.tagName}.${node.className} ${node.textContent.slice(0, 30)}`);
  }
  return bad;
}"""

UNNAMED = """() => [...document.querySelectorAll("a, button, input:not([type=hidden]), select, video, progress, img")]
  .filter((node) => node.checkVisibility() && !node.closest("[aria-hidden=true]"))
  .filter((node) => {
    const named = node.getAttribute("aria-label") || node.textContent.trim() || node.labels?.length || node.title;
    if (node.tagName === "IMG") return node.getAttribute("alt") === null;
    return !(named || node.querySelector("img[alt]:not([alt=''])"));
  }).map((node) => node.outerHTML.slice(0, 120))"""


def until(page: Any, expression: str) -> None:
    """Wait until an expression is true in the page; Playwright's own waiting needs eval, which the pages forbid."""
    deadline = time.monotonic() + 60
    while not page.evaluate(expression):
        assert time.monotonic() < deadline, expression
        page.wait_for_timeout(30)


AXE = """() => axe.run(document, {
  runOnly: ["wcag2a", "wcag2aa", "wcag21a", "wcag21aa", "wcag22aa", "best-practice"],
}).then((found) => found.violations.map((each) =>
  `${each.impact} ${each.id}: ${each.nodes.slice(0, 3).map((node) => node.html.slice(0, 160)).join(" | ")}`))"""
VIEWS = ("/", "/?q=a+cat", "/item/videos/cat?q=a+cat", "/item/noise", "/store", "/runs", "/predict", "/login", "/none")


def axe_source() -> str:
    """axe-core's script, from the package that brings it."""
    found = importlib.util.find_spec("axe_playwright_python")
    if found is None or found.origin is None:
        pytest.skip("needs axe-core: pip install axe-playwright-python")
    return (Path(found.origin).parent / "axe.min.js").read_text(encoding="utf-8")


@pytest.fixture(scope="module")
def project(built_store: SmallStore, tmp_path_factory: pytest.TempPathFactory) -> SmallStore:
    folder = tmp_path_factory.mktemp("shown") / "project"
    shutil.copytree(built_store.folder, folder, symlinks=True)
    found = SmallStore(folder)
    still(PAGE, found.media / f"{HOSTILE}.png")
    write_video(found.media / "old.avi", 30, "mpeg4", fps=10, size=(160, 120))
    found.run()
    publish_labels_head(found, folder.parent / "head")
    return found


@pytest.fixture(scope="module")
def server(project: SmallStore) -> Iterator[PageServer]:
    with page_server(project.store) as found:
        yield found


@pytest.fixture(scope="module")
def browser() -> Iterator[object]:
    with playwright.sync_playwright() as started:
        found = started.chromium.launch(executable_path=CHROMIUM, args=["--no-sandbox"])
        yield found
        found.close()


class Watched:
    """A tab, and what went wrong in it: console errors, faults of scripts, requests to other hosts."""

    def __init__(self, browser: object, server: PageServer, **options: object) -> None:
        self.context = browser.new_context(base_url=server.url, **options)  # type: ignore[attr-defined]
        self.context.set_default_timeout(60_000)
        self.page = self.context.new_page()
        self.problems: list[str] = []
        self.page.on("console", lambda m: self.problems.append(m.text) if m.type in ("error", "warning") else None)
        self.page.on("pageerror", lambda error: self.problems.append(str(error)))
        self.page.on("request", lambda r: self._check(r.url, server.url))

    def _check(self, url: str, own: str) -> None:
        if not url.startswith((own, "blob:", "data:")):
            self.problems.append(f"external request: {url}")


@pytest.fixture
def tab(browser: object, server: PageServer) -> Iterator[Watched]:
    found = Watched(browser, server, viewport={"width": 1280, "height": 860})
    yield found
    found.context.close()
    assert found.problems == []


def test_search_as_you_type_then_play_at_the_moment(tab: Watched) -> None:
    page = tab.page
    page.goto("/")
    page.keyboard.press("Tab")
    page.locator("#q").fill("a rocket")
    until(page, "document.querySelector('#took').textContent.includes('hits in')")
    assert "q=a+rocket" in page.url
    shared = page.url
    page.goto("/item/videos/cat?t=1.5&q=a+cat")
    until(page, "document.querySelector('video').readyState >= 1")
    until(page, "Math.abs(document.querySelector('video').currentTime - 1.5) < 0.1")
    page.locator("svg.curve rect").nth(2).click()
    until(page, "document.querySelector('video').currentTime >= 2")
    assert "t=2" in page.url
    page.goto(shared)  # the address shows the same again
    assert page.locator("#q").input_value() == "a rocket"
    assert page.locator("#hits .card").count() > 3


def test_a_video_that_browsers_do_not_play_is_converted_and_plays_at_the_moment(tab: Watched) -> None:
    page = tab.page
    page.goto("/item/old?t=1.5")
    until(page, "document.querySelector('#playback').textContent.startsWith('This is a copy')")
    until(page, "document.querySelector('video').readyState >= 1")
    until(page, "Math.abs(document.querySelector('video').currentTime - 1.5) < 0.1")
    page.locator(".stills a").nth(6).click()
    until(page, "document.querySelector('video').currentTime >= 2")


def test_a_hit_leads_to_its_item_and_to_more_like_it(tab: Watched) -> None:
    page = tab.page
    page.goto("/?q=a+cat&index=frames")
    page.locator("#hits .card .name").first.click()
    page.wait_for_url("**/item/**")
    page.get_by_role("link", name="More like this moment").click()
    page.wait_for_url("**/?like=**")
    assert page.locator("#like").is_visible()
    assert page.locator("#hits .card").count() >= 3


def test_hovering_scrubs_through_the_item(tab: Watched) -> None:
    page = tab.page
    page.goto("/?q=a+cat&index=frames")
    card = page.locator('[data-uid="videos/cat"]')
    card.scroll_into_view_if_needed()
    first = card.locator("img").get_attribute("src")
    box = card.locator(".shot").bounding_box()
    assert box is not None
    page.mouse.move(box["x"] + 5, box["y"] + 20)
    page.mouse.move(box["x"] + box["width"] * 0.9, box["y"] + 20, steps=4)
    until(page, "document.querySelector('[data-uid=\"videos/cat\"] .shot').dataset.step > 8")
    assert card.locator("img").get_attribute("src") != first
    page.mouse.move(0, 0)
    until(page, "!document.querySelector('[data-uid=\"videos/cat\"] .shot').dataset.step")


def test_a_dropped_picture_is_searched_by(tab: Watched, project: SmallStore) -> None:
    page = tab.page
    page.goto("/")
    page.locator("#file").set_input_files(str(project.media / "page.png"))
    until(page, "document.querySelector('#took').textContent.includes('hits')")
    assert page.locator("#hits .card").first.get_attribute("data-uid").startswith(("page", HOSTILE))  # equal bytes
    assert page.locator("#like b").inner_text() == "page.png"


def test_hostile_names_stay_text(tab: Watched) -> None:
    page = tab.page
    page.goto("/")
    page.locator("#q").fill("a page of a book")
    until(page, "[...document.querySelectorAll('.name')].some((n) => n.textContent.startsWith('<img '))")
    page.goto("/item/" + HOSTILE.replace("<", "%3C").replace(">", "%3E").replace(" ", "%20"))
    assert page.locator("h1").inner_text() == HOSTILE
    assert page.title() != "owned"


def test_prediction_shows_its_stages_and_labels(tab: Watched, tmp_path: Path) -> None:
    page = tab.page
    page.goto("/predict")
    page.locator("input[type=file]").set_input_files(
        str(write_video(tmp_path / "mine.mp4", 30, fps=10, size=(160, 120)))
    )
    page.get_by_role("button", name="Predict").click()
    page.wait_for_url("**/predict/**")
    page.locator("#prediction[data-ended=yes]").wait_for()
    assert page.locator(".labels li").count() == 2
    assert "%" in page.locator(".labels li").first.inner_text()


def test_store_and_runs_are_shown(tab: Watched, project: SmallStore) -> None:
    page = tab.page
    page.goto("/store")
    assert page.locator("svg.dag .node").count() == 8
    page.get_by_label("against").select_option("1")
    page.get_by_role("button", name="Compare").click()
    page.wait_for_url("**against=1**")
    assert "frames +4 rows" in page.locator("main").inner_text()
    assert page.locator("#failures tbody tr").count() == 1
    page.goto("/runs")
    until(page, "document.querySelector('#run-state').textContent === 'published'")
    assert page.locator("#run-stages li").count() == 3


def test_the_store_page_shows_a_run_by_stage_until_it_is_published(browser: object, small_store: SmallStore) -> None:
    (outcome,) = small_store.store.glob("runs/*/outcome.json")
    kept = outcome.read_bytes()
    outcome.unlink()
    with page_server(small_store.store) as server, store_lock(ObjectStore(small_store.store), "cliploom run"):
        tab = Watched(browser, server)
        tab.page.goto("/store")
        assert tab.page.locator("#run-state").inner_text() == "running"
        stages = tab.page.locator("#run-stages li")
        assert [stages.nth(at).get_attribute("data-stage") for at in range(3)] == ["frames", "looks", "publish"]
        with tab.page.expect_event("load"):  # the page shows itself again, as there may be a new release
            outcome.write_bytes(kept)
        assert not tab.page.locator("#run").is_visible()
        tab.context.close()
        assert tab.problems == []


def test_keyboard_alone_reaches_search_and_a_hit(tab: Watched) -> None:
    page = tab.page
    page.goto("/?q=a+cat&index=frames")
    page.keyboard.press("/")
    assert page.evaluate("document.activeElement.id") == "q"
    for _ in range(12):
        page.keyboard.press("Tab")
        if page.evaluate("document.activeElement.className") == "name":
            break
    page.keyboard.press("Enter")
    page.wait_for_url("**/item/**")


@pytest.mark.parametrize("scheme", ["light", "dark"])
@pytest.mark.parametrize("width", [390, 1280])
def test_pages_fit_and_can_be_read(browser: object, server: PageServer, scheme: str, width: int) -> None:
    tab = Watched(browser, server, viewport={"width": width, "height": 844}, color_scheme=scheme)
    for path in ("/?q=a+cat", "/item/videos/cat?q=a+cat", "/item/noise", "/store", "/runs", "/predict", "/login"):
        tab.page.goto(path)
        assert tab.page.evaluate("document.documentElement.scrollWidth - innerWidth") <= 0, path
        assert tab.page.evaluate(CONTRAST) == [], path
        assert tab.page.evaluate(UNNAMED) == [], path
        assert tab.page.locator("h1").count() == 1
        assert tab.page.locator("html[lang=en]").count() == 1
    tab.context.close()
    assert tab.problems == []


@pytest.mark.parametrize(("scheme", "width"), [("light", 1280), ("dark", 390)])
def test_axe_finds_nothing(browser: object, server: PageServer, scheme: str, width: int) -> None:
    source = axe_source()
    # axe-core is put into the page by the test, which the pages' policy would forbid.
    tab = Watched(browser, server, viewport={"width": width, "height": 844}, color_scheme=scheme, bypass_csp=True)
    found = {}
    for path in VIEWS:
        tab.page.goto(path)
        tab.page.evaluate(source)
        found[path] = tab.page.evaluate(AXE)
    tab.context.close()
    assert {path: problems for path, problems in found.items() if problems} == {}


def test_plain_search_works_without_javascript(browser: object, server: PageServer) -> None:
    tab = Watched(browser, server, java_script_enabled=False)
    tab.page.goto("/")
    tab.page.locator("#q").fill("a cat")
    tab.page.locator("#q").press("Enter")
    tab.page.wait_for_url("**/?q=a+cat**")
    assert tab.page.locator("#hits .card").count() >= 3
    tab.context.close()


def test_a_run_is_watched_live(tab: Watched, project: SmallStore) -> None:
    page = tab.page
    page.goto("/runs")
    before = page.locator("#run-name").inner_text()
    still(PAGE, project.media / "later.png")
    project.run()
    until(page, f"document.querySelector('#run-name').textContent !== '{before}'")
    until(page, "document.querySelector('#run-state').textContent === 'published'")
