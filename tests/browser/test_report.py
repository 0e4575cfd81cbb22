"""The report in a real browser: opens from disk, without errors, requests or sideways scrolling."""

import shutil

import pytest
from made_run import make_run

pytestmark = pytest.mark.browser
FLAGS = ["--no-sandbox", "--disable-gpu", "--no-first-run", "--disable-background-networking"]


@pytest.fixture(scope="module")
def browser():
    from playwright.sync_api import sync_playwright

    with sync_playwright() as playwright:
        browser = playwright.chromium.launch(executable_path=shutil.which("chromium"), args=FLAGS)
        yield browser
        browser.close()


@pytest.mark.parametrize("width", [1200, 390])
def test_it_opens_from_disk(browser, tmp_path, width):
    from flextune.report.page import write_report

    path = write_report(make_run(tmp_path).path)
    page = browser.new_page(viewport={"width": width, "height": 800})
    problems, requests = [], []
    page.on("console", lambda message: problems.append(message.text))
    page.on("pageerror", lambda error: problems.append(str(error)))
    page.on("request", lambda request: requests.append(request.url))
    page.goto(path.as_uri())
    assert page.title() == "m: flextune report"
    assert all(url.startswith("file://") for url in requests)
    assert page.evaluate("[...document.images].every(i => i.complete && i.naturalWidth > 0)")
    assert page.evaluate("document.documentElement.scrollWidth <= window.innerWidth")
    assert problems == []
    summary = page.locator("details.problem summary").first
    summary.focus()
    page.keyboard.press("Enter")
    assert page.locator("details.problem pre").first.is_visible()
    page.close()
