import pytest
from made_study import Trainings, study_recipe
from rich.console import Console

from flextune import pipeline
from flextune.cli import stages
from flextune.errors import FlextuneError, UsageError
from flextune.files import read_json, write_json
from flextune.report.page import write_page
from flextune.report.study import draw, judgement, read_study, study_page, summary, table, write_study_report
from flextune.studies import compare

HOSTILE = "</pre><script>alert(1)</script>$x"


@pytest.fixture
def make(monkeypatch, tmp_path):
    monkeypatch.setattr(pipeline, "run", Trainings())
    monkeypatch.setattr(compare, "alone", lambda function, *arguments: function(*arguments))

    def make(**study):
        return compare.run_study(study_recipe(**study), tmp_path / "study")

    return make


def printed(path):
    console = Console(width=80, record=True)
    console.print(summary(read_study(path)))
    return console.export_text()


def test_page_and_terminal_say_the_same(make):
    path = make()
    page, text = (path / "report/index.html").read_text(), printed(path)
    for shown in (
        "1.2300",
        "0.8500",
        "-0.3800",
        "2 of 2 seeds",
        "weight_decay = 0.1",
        "learning_rate = 0.002",
        "0.2147 to 1.4853",
    ):
        assert shown in page
        assert shown in text
    assert 'href="../trials/' not in page  # these trials have no pages
    (path / "trials/plain/seed-0/report").mkdir()
    (path / "trials/plain/seed-0/report/index.html").touch()
    page = write_page(study_page(path), path / "report").read_text()
    assert page.count('href="../trials/plain/seed-0/report/index.html"') == 1
    assert "lower beyond the noise of seeds" in page
    figure = (path / "report/figures/validation.svg").read_text()
    assert figure.count(">plain<") == figure.count(">decayed<") == 1
    (figure,) = (figure for figure in study_page(path).figures if figure.name == "ratios")
    ratios = {row["measure"]: row["/ plain"] for row in figure.rows}
    assert ratios["seconds of training"] == 2
    assert ratios["validation loss"] == pytest.approx(0.85 / 1.23)


def test_the_figure_has_a_line_for_each_reported_seed(make):
    path = make()
    (figure,) = draw(read_study(path), path)
    left, right = figure.drawing.axes
    lines = left.lines
    assert len(lines) == len(right.lines) == 4
    assert [list(line.get_xdata()) for line in (lines[0], right.lines[0])] == [[0, 5, 10, 15]] * 2
    assert list(right.lines[2].get_xdata()) == [0, 10, 20, 30]
    assert [line.get_color() for line in lines] == [lines[0].get_color()] * 2 + [lines[2].get_color()] * 2
    assert lines[0].get_ydata()[1] == 3.0
    assert len(figure.rows) == 4 * 4


def test_one_seed_has_no_interval_and_says_so(make):
    path = make(seeds=[0])
    assert "one seed, no interval" in printed(path)
    assert "noise cannot be told from effect" in (path / "report/index.html").read_text()
    assert "over 1 seed<" in (path / "report/index.html").read_text()


def test_what_was_never_reached_is_said(make):
    path = make(compare={"plain": {"training.weight_decay": 0.1}, "worse": {}}, tune={})
    cells = dict(table(read_study(path)))["steps to plain's final loss"]
    assert cells == [("15", "all the same", "2 of 2 seeds"), ("never", "0 of 2 seeds")]
    assert "higher beyond the noise" in (path / "report/index.html").read_text()


def test_what_failed_is_said_and_the_page_stands_without_it(monkeypatch, make):
    made = Trainings()

    def train(recipe, output):
        if not recipe.training.weight_decay or recipe.seed == 1:
            raise FlextuneError(HOSTILE)
        return made(recipe, output)

    monkeypatch.setattr(pipeline, "run", train)
    path = make()  # the reference has no seed, the other arm one
    cells = dict(table(read_study(path)))
    assert cells["seeds"] == [("none",), ("0",)]
    assert cells["validation loss"] == [("no seed",), ("0.8000", "one seed, no interval")]
    assert cells["difference from plain"] == [("reference",), ("no seed",)]
    assert cells["steps to plain's final loss"] == [("no seed",), ("no seed",)]
    text, page = printed(path).replace("\n", " "), (path / "report/index.html").read_text()
    for arm, seed in (("plain", 0), ("plain", 1), ("decayed", 1)):
        assert f"{arm}, seed {seed}, is in no mean: it failed: " in text
        assert f"{arm}, seed {seed}, is in no mean: it failed: &lt;/pre&gt;" in page
    assert "decayed against plain" not in text
    assert page.count("<script") == 1


def test_an_interval_with_zero_is_no_difference():
    assert judgement({"value": -0.1, "low": -0.3, "high": 0.1}) == "no difference beyond the noise of seeds"


def test_nothing_from_the_files_is_run(make):
    path = make()
    content = read_json(path / "study.json")
    content["reference"] = content["comparison"][0]["arm"] = HOSTILE
    content["chosen"][HOSTILE] = content["recipe"]["study"]["compare"][HOSTILE] = {"training.template": HOSTILE}
    content["recipe"]["model"] = HOSTILE
    for trial in content["trials"]:
        trial["arm"] = HOSTILE if trial["arm"] == "plain" else trial["arm"]
        trial["settings"] = {HOSTILE: HOSTILE}
    write_json(path / "study.json", content)
    page = write_study_report(path).read_text()
    assert "<script>" not in page
    assert page.count("&lt;script&gt;") > 10
    assert page.count("<script") == 1


def test_a_folder_without_a_study(tmp_path):
    with pytest.raises(UsageError, match="holds no finished study"):
        read_study(tmp_path)


def test_a_choice_at_the_edge_of_what_was_tried_is_said(make):
    path = make()  # 0.002 is the greater of the two
    sentence = "decayed: training.learning_rate = 0.002 is the greatest that was tried; the best may lie beyond"
    assert sentence in (path / "report/index.html").read_text()
    assert sentence in printed(path).replace("\n", " ")


def test_a_choice_in_the_middle_is_not(make):
    path = make(tune={"decayed": {"training.learning_rate": [0.001, 0.002, 0.003]}})
    assert "may lie beyond" not in (path / "report/index.html").read_text()


def test_the_verb_report_writes_it_anew(make):
    path = make()
    page = path / "report/index.html"
    page.unlink()
    stages.report(str(path))
    assert page.exists()
    stages.report(str(path), output=str(path.parent / "elsewhere"))
    assert (path.parent / "elsewhere/index.html").exists()
