"""The report in a real browser: opens from disk, is used by mouse and keyboard, and lets no completion in."""

from pathlib import Path

import pytest
from made_rows import make_row
from made_run import HOSTILE, make_run

from flextune import pipeline
from flextune.files import write_json, write_jsonl
from flextune.report.find import find_page
from flextune.report.page import write_page
from flextune.report.reproduction import Paper
from flextune.report.rows import rows_page
from flextune.report.run import run_page, write_report
from flextune.scoring.score import score
from flextune.studies.rows import PAPER, TABLE_3, abouts

pytestmark = pytest.mark.browser
KEPT = Path(__file__).parents[2] / "results/small"
CONTRAST = """() => {
  const parse = (c) => c.match(/[\\d.]+/g).map(Number);
  const light = (c) => {
    const linear = (v) => (v <= 0.04045 ? v / 12.92 : ((v + 0.055) / 1.055) ** 2.4);
    const [r, g, b] = c.slice(0, 3).map((v) => linear(v / 255));
    return 0.2126 * r + 0.7152 * g + 0.0722 * b;
  };
  const behind = (e) => {
    for (; e; e = e.parentElement) {
      const c = parse(getComputedStyle(e).backgroundColor);
      if (c.length < 4 || c[3] > 0) return c;
    }
    return parse(getComputedStyle(document.body).backgroundColor);
  };
  const found = [];
  const walker = document.createTreeWalker(document.body, NodeFilter.SHOW_TEXT);
  for (let node; (node = walker.nextNode()); ) {
    const e = node.parentElement;
    if (!node.textContent.trim() || !e.getClientRects().length || e.closest("select, script, style")) continue;
    const style = getComputedStyle(e);
    const ink = parse(e instanceof SVGElement && style.fill !== "none" ? style.fill : style.color);
    const [a, b] = [light(ink), light(behind(e))].sort((x, y) => y - x);
    found.push([(a + 0.05) / (b + 0.05), node.textContent.trim().slice(0, 40)]);
  }
  return found.sort((x, y) => x[0] - y[0]);
}"""

DRAWN_WHILE_SCROLLING = """async () => {
  const lines = [...document.querySelectorAll(".problem > summary")];
  const drawn = [];
  const frame = () => new Promise(requestAnimationFrame);
  await frame();
  for (let y = 0; y <= 20000; y += 200) {
    scrollTo(0, y);
    await frame();
    drawn.push(lines.filter((line) => line.checkVisibility({ contentVisibilityAuto: true })).length);
  }
  return drawn;
}"""
"""How many lines the browser lays out and draws in each frame while the page scrolls."""


@pytest.fixture
def run(tmp_path):
    return write_report(make_run(tmp_path, ("base", "unmerged", "merged")).path)


def tab(page, name):
    return page.get_by_role("tab", name=name, exact=True)


def fits(page):
    return page.evaluate("document.documentElement.scrollWidth <= window.innerWidth")


def count_layouts(page):
    """A function that returns how often the browser has computed the layout of the page since this call."""
    session = page.context.new_cdp_session(page)
    session.send("Performance.enable")

    def count():
        metrics = {each["name"]: each["value"] for each in session.send("Performance.getMetrics")["metrics"]}
        return metrics["LayoutCount"]

    return count


def drawings(page):
    """Width and height of each figure that is seen."""
    return page.evaluate(
        "[...document.querySelectorAll('.drawing svg')].filter((s) => s.getClientRects().length)"
        ".map((s) => [s.getBoundingClientRect().width, s.getBBox().height])"
    )


@pytest.mark.parametrize("width", [1200, 390])
def test_it_opens_from_disk_at_any_width(open_page, run, width):
    page = open_page(run, width)
    assert page.title() == "m, tuned on basics: flextune report"
    for name in ("Results", "Programs", "Training", "Cost", "How this was made"):
        tab(page, name).click()
        assert fits(page), name
        assert page.locator("[role=tabpanel]:visible").count() == 1
        if name in ("Results", "Training"):
            assert drawings(page)
            assert all(w > 200 and h > 50 for w, h in drawings(page))


def test_a_completion_does_not_get_in(open_page, run):
    page = open_page(run)
    tab(page, "Programs").click()
    page.locator(".problem summary").first.click()
    shown = page.locator(".problem .program code")
    shown.first.wait_for()
    assert HOSTILE in shown.first.inner_text()
    tab(page, "How this was made").click()
    page.get_by_text("Provenance").click()
    assert page.title() == "m, tuned on basics: flextune report"
    assert page.locator("img").count() == 0
    assert page.evaluate("document.scripts.length") == 1 + 2  # programs and highlight.js, from the folder
    inject = "const s = document.createElement('script'); s.textContent = 'window.owned = 1'; document.body.append(s);"
    page.evaluate(f"() => {{ {inject} }}")
    assert page.evaluate("window.owned") is None  # the policy allows no script but files
    assert any("Content Security Policy" in problem for problem in page.problems)
    page.problems.clear()


def test_tabs_by_keyboard(open_page, run):
    page = open_page(run)
    tab(page, "Results").focus()
    for key, name in (("ArrowRight", "Programs"), ("End", "How this was made"), ("ArrowRight", "Results"), ("End", ""),
                      ("Home", "Results")):  # fmt: skip
        page.keyboard.press(key)
        if name:
            assert page.evaluate("document.activeElement.textContent") == name
            assert tab(page, name).get_attribute("aria-selected") == "true"
            assert page.locator("[role=tab][tabindex='0']").count() == 1
    page.keyboard.press("ArrowRight")
    assert page.url.endswith("#programs")
    page.reload()
    assert tab(page, "Programs").get_attribute("aria-selected") == "true"


def test_a_problem_by_keyboard_and_by_its_address(open_page, run):
    page = open_page(run)
    tab(page, "Programs").click()
    page.locator(".problem summary").nth(1).focus()
    page.keyboard.press("Enter")
    page.locator("#p1 .program").first.wait_for()
    assert page.url.endswith("#p1")
    again = open_page(page.url)
    again.locator("#p1 .program").first.wait_for()
    assert tab(again, "Programs").get_attribute("aria-selected") == "true"


def test_filters(open_page, run):
    page = open_page(run)
    tab(page, "Programs").click()
    rows, count = page.locator(".problem:visible"), page.locator(".filters output")
    assert (rows.count(), count.inner_text()) == (2, "2 of 2")
    page.locator("select[name=kind]").select_option("correction")
    assert (rows.count(), count.inner_text()) == (1, "1 of 2")
    assert "basics/one" in rows.inner_text()
    page.locator("select[name=kind]").select_option("")
    page.locator("select[name=verdict]").select_option("passed")
    assert rows.count() == 1
    page.locator("select[name=verdict]").focus()
    page.keyboard.press("Home")
    page.locator("input[name=task]").fill("TWO")
    assert "basics/two" in rows.inner_text()
    page.locator("input[name=task]").fill("nothing")
    assert count.inner_text() == "0 of 2"


@pytest.mark.parametrize("scheme", ["light", "dark"])
def test_contrast(open_page, run, scheme):
    page = open_page(run, color_scheme=scheme)
    dark = page.evaluate("getComputedStyle(document.body).backgroundColor") == "rgb(22, 24, 27)"
    assert dark == (scheme == "dark")
    for name in ("Results", "Programs", "Training", "Cost", "How this was made"):
        tab(page, name).click()
        for summary in page.locator("summary:visible").all():
            summary.click()
        for problem in page.locator(".problem[open]:visible").all():
            problem.locator(".program").first.wait_for()
        assert page.evaluate(CONTRAST)[0][0] >= 4.5, page.evaluate(CONTRAST)[:3]


def test_all_of_it_is_printed(open_page, run):
    page = open_page(run)
    page.emulate_media(media="print")
    assert page.locator("[role=tabpanel]:visible").count() == 5
    assert page.get_by_role("heading", name="Training", exact=True).is_visible()
    assert not page.locator("[role=tablist]").is_visible()


def test_the_kept_results(open_page, tmp_path):
    page = write_page(find_page([KEPT], {"small": Paper(PAPER, TABLE_3, abouts("small"))}), tmp_path)
    for width in (1200, 390):
        shown = open_page(page, width)
        for each in shown.locator("[role=tab]").all():
            each.click()
            assert fits(shown), each.inner_text()
        tab(shown, "Results").click()
        assert len(drawings(shown)) == 4
        tab(shown, "Programs").click()
        shown.locator("select[name=language]").select_option("java")
        shown.locator("select[name=kind]").select_option("correction")
        rows = shown.locator(".problem:visible")
        assert 0 < rows.count() < 158
        rows.first.locator("summary").click()
        rows.first.locator(".program").first.wait_for()
        assert shown.locator(".hljs-keyword, .hljs-type").count() > 0
        assert rows.first.locator(".marks").last.inner_text().strip().startswith("+")


def test_many_rows_fit_a_phone(open_page, tmp_path):
    arms = {"round-3": {0: make_row(tmp_path, "round-3", 0, {"humaneval-java": {1, 2}}, "base")}}
    for name in ("round-5", "plain", "permuted", "l2", "kl"):
        arms[name] = {seed: make_row(tmp_path, name, seed, {"humaneval-java": {1, seed}}) for seed in (0, 1)}
    path = write_page(rows_page(arms, "Rows"), tmp_path / "page")
    for width in (1200, 390):
        page = open_page(path, width)
        tab(page, "Programs").click()
        assert fits(page)
        solved = page.get_by_title("round-5, unmerged: 2 passed")
        assert solved.count() == 1
        assert solved.is_visible() == (width == 1200)


def test_very_many_rows_fit_a_screen(open_page, tmp_path):
    arms = {f"row-{n}": {0: make_row(tmp_path, f"row-{n}", 0, {"humaneval-java": {1, n}}, of=2)} for n in range(40)}
    page = open_page(write_page(rows_page(arms, "Rows"), tmp_path / "page"), 1200)
    tab(page, "Programs").click()
    assert fits(page)


def test_what_can_be_turned(open_page, tmp_path):
    trials = [
        {"number": n, "state": "complete", "cause": None, "seconds": 1, "run": f"trials/{n}", "value": n % 4 + n // 4}
        | {"settings": {"a.x": n % 4, "a.y": n // 4, "a.z": n % 3}}
        for n in range(16)
    ]
    recipe = {"model": "m", "sweep": {"space": {"a.x": []}}}
    write_json(tmp_path / "sweep.json", {"objective": "pass@1", "best": 0, "trials": trials, "recipe": recipe})
    page = open_page(write_page(find_page([tmp_path], {}), tmp_path / "report"))
    assert not [url for url in page.requests if "plotly" in url]  # read only when it is asked for
    tab(page, "Exploration").click()
    for button in page.locator("button.turn").all():
        button.focus()
        page.keyboard.press("Enter")
    page.locator("#turned-surface canvas").first.wait_for()
    page.locator("#turned-three-settings canvas").first.wait_for()


def test_a_run_under_way_is_read_again(open_page, tmp_path):
    run = make_run(tmp_path)
    path = write_page(run_page(run.path, under_way=True), run.report)
    page = open_page(path)
    page.clock.install(time=0)
    page.clock.pause_at(1000)  # from here on only the test moves the clock of the page
    page.reload()
    assert page.get_by_text("Under way.").is_visible()
    page.evaluate("window.before = true")
    with page.expect_navigation():
        page.clock.run_for(10500)
    assert page.evaluate("window.before") is None
    tab(page, "Programs").click()
    page.locator(".problem summary").first.click()
    page.evaluate("window.before = true")
    page.clock.run_for(30000)
    assert page.evaluate("window.before") is True  # not while a problem is open


def test_a_thousand_problems_of_twenty_samples(open_page, tmp_path):
    run = make_run(tmp_path, ("base",), training=False)
    measurement = run.measurement("basics-python", "base", "greedy")
    ids = [f"basics/{number}" for number in range(1000)]
    text = "    total = 0\n" + "".join(f"    total += {line}  # a line of code\n" for line in range(12))
    problems = [{"task_id": i, "language": "python", "prompt": "def f():\n", "tests": ""} for i in ids]
    write_jsonl(run.problems("basics-python"), problems)
    rows = [{"task_id": i, "sample": sample} for i in ids for sample in range(20)]
    write_jsonl(
        measurement.completions, [{**row, "completion": f"{text}    return {n}\n"} for n, row in enumerate(rows)]
    )
    verdicts = [{**row, "verdict": "passed" if n % 3 else "timeout", "passed": n % 3 > 0} for n, row in enumerate(rows)]
    write_jsonl(measurement.verdicts, verdicts)
    score(measurement, "basics-python")
    page = open_page(write_report(run.path).as_uri() + "#programs")
    assert page.locator(".problem").count() == 1000
    assert [Path(url.partition("#")[0]).name for url in page.requests] == ["index.html", "page.js"]
    assert page.evaluate("document.querySelectorAll('*').length") < 8 * 1000  # the page holds lines, not programs
    layouts = count_layouts(page)
    drawn = page.evaluate(DRAWN_WHILE_SCROLLING)
    assert len(drawn) == 101
    assert all(0 < lines < 250 for lines in drawn), drawn  # those near the screen, and not all thousand
    assert layouts() < 3 * len(drawn)
    page.locator(".problem").nth(700).locator("summary").click()
    page.locator("#p700 .program").nth(19).wait_for()
    read = sorted(Path(url).name for url in page.requests[2:])
    assert read == ["17.js", "highlight.min.js"]  # only the file with this problem


@pytest.mark.slow
def test_the_run_of_the_quickstart(open_page, tiny_model, tmp_path):
    short = ("training.limit=4", "training.epochs=1", "evaluation.limit=2", "generation.max_new_tokens=8")
    run = pipeline.quickstart(tmp_path, [f"model={tiny_model}", *short])
    page = open_page(run.report / "index.html")
    titles = [each.inner_text() for each in page.locator("[role=tab]").all()]
    assert titles == ["Results", "Programs", "Training", "Cost", "How this was made"]
    assert len(drawings(page)) == 3
    tab(page, "Programs").click()
    assert page.locator(".problem").count() == 4
    page.locator(".problem summary").last.click()
    page.locator(".problem .program").first.wait_for()
    link = page.locator("a[href$='scores.json']").first.get_attribute("href")
    assert (run.report / link).resolve().exists()
