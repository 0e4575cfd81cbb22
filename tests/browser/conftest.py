"""Chromium, and a page that notes what should not happen."""

import shutil

import pytest

HUNG = 120_000
"""Milliseconds after which a step that has not happened is taken for one that never will."""
FLAGS = ["--no-sandbox", "--enable-unsafe-swiftshader", "--no-first-run", "--disable-background-networking"]


@pytest.fixture(scope="session")
def browser():
    from playwright.sync_api import sync_playwright

    path = shutil.which("chromium")
    if path is None:
        pytest.skip("Chromium is not installed: make browser")
    with sync_playwright() as playwright:
        browser = playwright.chromium.launch(executable_path=path, args=FLAGS, timeout=HUNG)
        yield browser
        browser.close()


@pytest.fixture
def open_page(browser):
    """Opens a file; at the end nothing was said on the console, and nothing asked for but files."""
    opened = []

    def open_(path, width=1200, **options):
        page = browser.new_page(viewport={"width": width, "height": 800}, **options)
        page.set_default_timeout(HUNG)
        page.problems, page.requests = [], []
        page.on("console", lambda message: message.type == "error" and page.problems.append(message.text))
        page.on("pageerror", lambda error: page.problems.append(str(error)))
        page.on("request", lambda request: page.requests.append(request.url))
        page.goto(path if isinstance(path, str) else path.as_uri())
        opened.append(page)
        return page

    yield open_
    for page in opened:
        page.wait_for_timeout(100)
        assert page.problems == []
        assert page.requests
        assert all(url.startswith(("file://", "blob:file://", "data:")) for url in page.requests)
        page.close()
