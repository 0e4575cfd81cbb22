"""How fast the page of a report opens and scrolls, for more and more problems, and what its style sheet changes.

    python benchmarks/report.py [--problems 100,1000,5000] [--samples 20] [--rounds 3]

Needs Chromium and the package playwright. The script makes runs of so many problems, writes their pages, and opens
each page from disk in a window of 1200 × 800 points. It measures each page twice in every round:

- as it is: the browser draws the lines near the screen, and no others (`content-visibility: auto` in style.css);
- all lines drawn: the same page with `content-visibility: visible`.

The columns of the table:

- written: seconds in which `write_report` makes the page;
- opened: milliseconds from the request for the page to its second frame;
- lines drawn: the most lines that the browser lays out and draws in a frame of the scrolling;
- frame: milliseconds from one frame to the next while the page scrolls 20,000 points in steps of 200; the browser makes
  60 frames a second at most, which is 16.7 ms;
- work: milliseconds of the browser's main thread for one of these frames;
- problem: milliseconds from the click on a problem to the frame with all its programs.

Every number is the median of the rounds. Prints the table, and writes it to benchmarks/results/report.md.
"""

import argparse
import json
import shutil
import statistics
import sys
import tempfile
import time
from pathlib import Path
from typing import Any

from flextune.files import write_jsonl
from flextune.recipe import Recipe, dump_recipe
from flextune.report.run import write_report
from flextune.rundir import RunDirectory, machine
from flextune.scoring.score import score

RESULTS = Path(__file__).parent / "results" / "report.md"
BENCHMARK = "basics-python"
FLAGS = ["--no-sandbox", "--no-first-run", "--disable-background-networking"]
STYLES = {"as it is": "", "all lines drawn": "details.problem { content-visibility: visible !important; }"}
TWO_FRAMES = "() => new Promise((done) => requestAnimationFrame(() => requestAnimationFrame(done)))"
ADD_STYLE = """(text) => {
  const style = document.createElement("style");
  style.textContent = text;
  document.head.append(style);
}"""
SCROLL = """async () => {
  const frames = [];
  let last = performance.now();
  for (let y = 0; y < 20000; y += 200) {
    scrollTo(0, y);
    await new Promise(requestAnimationFrame);
    const now = performance.now();
    frames.push(now - last);
    last = now;
  }
  return frames.sort((a, b) => a - b);
}"""
COUNT = """async () => {
  const lines = [...document.querySelectorAll(".problem > summary")];
  let most = 0;
  for (let y = 0; y < 20000; y += 200) {
    scrollTo(0, y);
    await new Promise(requestAnimationFrame);
    most = Math.max(most, lines.filter((line) => line.checkVisibility({ contentVisibilityAuto: true })).length);
  }
  return most;
}"""
OPEN = """async (number) => {
  const row = document.getElementById(`p${number}`);
  row.scrollIntoView();
  const started = performance.now();
  row.querySelector("summary").click();
  while (!row.querySelector(".program")) await new Promise((done) => setTimeout(done));
  await new Promise(requestAnimationFrame);
  return performance.now() - started;
}"""


def make_page(folder: Path, problems: int, samples: int) -> tuple[Path, float]:
    """The page of a run of so many problems with programs of 14 lines, and the seconds that writing it took."""
    run = RunDirectory(folder)
    recipe = Recipe(model="m", evaluation={"benchmarks": [BENCHMARK], "variants": ["base"]})
    run.begin(dump_recipe(recipe), {"model": {"folder": "m"}}, {"python": "3"})
    ids = [f"basics/{number}" for number in range(problems)]
    asked = [{"task_id": name, "language": "python", "prompt": "def f():\n", "tests": ""} for name in ids]
    write_jsonl(run.problems(BENCHMARK), asked)
    measurement = run.measurement(BENCHMARK, "base", "greedy")
    text = "    total = 0\n" + "".join(f"    total += {line}  # a line of code\n" for line in range(12))
    rows = [{"task_id": name, "sample": sample} for name in ids for sample in range(samples)]
    completions = [{**row, "completion": f"{text}    return {number}\n"} for number, row in enumerate(rows)]
    write_jsonl(measurement.completions, completions)
    verdicts = [
        {**row, "verdict": "passed" if number % 3 else "timeout", "passed": number % 3 > 0}
        for number, row in enumerate(rows)
    ]
    write_jsonl(measurement.verdicts, verdicts)
    score(measurement, BENCHMARK)
    started = time.perf_counter()
    page = write_report(run.path)
    return page, time.perf_counter() - started


def measure(browser: Any, path: Path, style: str, problems: int) -> dict[str, float]:
    """What one opening of the page costs, in milliseconds, and how many lines a frame draws."""
    page = browser.new_page(viewport={"width": 1200, "height": 800})
    session = page.context.new_cdp_session(page)
    session.send("Performance.enable")
    if style:
        page.add_init_script(f"addEventListener('DOMContentLoaded', () => ({ADD_STYLE})({json.dumps(style)}))")
    started = time.perf_counter()
    page.goto(f"{path.as_uri()}#programs")
    page.evaluate(TWO_FRAMES)
    opened = 1000 * (time.perf_counter() - started)
    before = worked(session)
    frames = page.evaluate(SCROLL)
    work = 1000 * (worked(session) - before) / len(frames)
    found = {
        "opened": opened,
        "lines drawn": page.evaluate(COUNT),
        "frame, median": statistics.median(frames),
        "frame, 95 %": frames[len(frames) * 95 // 100],
        "work": work,
        "problem": page.evaluate(OPEN, problems * 7 // 10),
    }
    page.close()
    return found


def worked(session: Any) -> float:
    """Seconds that the main thread of the page has worked."""
    metrics = {each["name"]: each["value"] for each in session.send("Performance.getMetrics")["metrics"]}
    return float(metrics["TaskDuration"])


def main() -> None:
    """Measure the pages, and write the table."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--problems", default="100,1000,5000", help="Problems of each page.")
    parser.add_argument("--samples", type=int, default=20, help="Programs of each problem.")
    parser.add_argument("--rounds", type=int, default=3, help="How often each page is measured.")
    options = parser.parse_args()
    chromium = shutil.which("chromium")
    if chromium is None:
        sys.exit("Chromium is not installed: make browser")
    from playwright.sync_api import sync_playwright

    rows = []
    with tempfile.TemporaryDirectory() as folder, sync_playwright() as playwright:
        browser = playwright.chromium.launch(executable_path=chromium, args=FLAGS)
        version = browser.version
        for problems in map(int, options.problems.split(",")):
            path, seconds = make_page(Path(folder) / str(problems), problems, options.samples)
            measured: dict[str, list[dict[str, float]]] = {name: [] for name in STYLES}
            for _ in range(options.rounds):
                for name, style in STYLES.items():
                    measured[name].append(measure(browser, path, style, problems))
            for name, rounds in measured.items():
                found = {key: statistics.median(each[key] for each in rounds) for key in rounds[0]}
                cells = [f"{problems:,}", name, f"{seconds:.2f}", f"{found['opened']:.0f}"]
                cells += [f"{found['lines drawn']:,.0f}"]
                cells += [f"{found[key]:.1f}" for key in ("frame, median", "frame, 95 %", "work")]
                rows.append([*cells, f"{found['problem']:.0f}"])
                print(" | ".join(rows[-1]), flush=True)
        browser.close()
    head = ["problems", "page", "written (s)", "opened (ms)", "lines drawn"]
    head += ["frame, median (ms)", "frame, 95 % (ms)", "work per frame (ms)", "problem (ms)"]
    text = [
        "# How fast the page of a report opens and scrolls",
        f"`{' '.join(['python benchmarks/report.py', *sys.argv[1:]])}`",
        f"{json.dumps(machine())}, Chromium {version}. {options.samples} programs for each problem; the median of "
        f"{options.rounds} rounds.",
        "The rows `as it is` draw about a hundred lines in a frame, however many problems the page lists. The rows "
        "`all lines drawn` show the same page when the browser draws every line. A line that is drawn only near the "
        "screen costs nothing while the page opens, and costs a layout in the frame in which it appears: compare "
        "`opened` and `work per frame`. The script explains the columns.",
        "\n".join("| " + " | ".join(cells) + " |" for cells in [head, ["---:", "---"] + ["---:"] * 7, *rows]),
    ]
    RESULTS.write_text("\n\n".join(text) + "\n")
    print(RESULTS.read_text())


if __name__ == "__main__":
    main()
