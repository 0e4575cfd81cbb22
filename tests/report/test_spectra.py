"""The table and the figures of a made content of spectrum.json."""

import copy
from io import StringIO

import pytest
from made_spectrum import adapter, content, measures
from rich.console import Console

from flextune.report import spectra


@pytest.fixture
def drawn():
    """Draws; returns the figures by name."""

    def draw(*adapters):
        return {figure.name: figure.drawing for figure in spectra.figures(content(*adapters))}

    return draw


def text(made, width=80):
    console = Console(width=width, record=True, file=StringIO())
    console.print(spectra.summary(made))
    return console.export_text()


def test_the_table_fits_and_judges():
    lines = [
        " ".join(line.split()) for line in text(content(adapter("[red]"), adapter("fresh", zero=True))).split("\n")
    ]
    assert lines.index("[red]") < lines.index("A 2.83 25.0 % 48.0 to 52.0 more low-frequency than chance")
    assert "B 2.83 50.0 % 48.0 to 52.0 as chance" in lines
    assert "ΔW 2.83 75.0 % 48.0 to 52.0 more high-frequency than chance" in lines
    assert "of gate_proj 2.83 75.0 % 48.0 to 52.0 more high-frequency than chance" in lines
    assert "ΔW 0 – – –" in lines
    assert "Above T: the energy at relative frequencies of 0.4 and more." in lines
    assert "fresh: B is zero, so there is no ΔW." in lines


def test_the_table_says_what_does_not_pair_and_what_chance_is():
    made = content({**adapter("experts"), "unpaired": ["a", "b", "c"]})
    assert "experts: ΔW is without 3 whose A and B do not pair (a, b …)." in text(made, 120)
    made["permutations"] = 1
    assert "the range of 1 random permutation (chance alone leaves it in 100 % of values)" in text(made, 120)


@pytest.mark.parametrize(("share", "word"), [(0.48, "as"), (0.52, "as"), (0.47, "low"), (0.53, "high")])
def test_the_range_itself_is_chance(share, word):
    assert word in spectra.judgement(measures(share)).replace("-", " ").split()


def test_power_and_chance_are_relative_to_white_noise(drawn):
    a, b, delta = drawn(adapter("x"))["spectrum"].axes
    for axes, power, low in ((a, [1.5, 0.5], 0.75), (b, [1.5, 0.5], 0.75), (delta, [0.5, 7 / 6], 3.5 / 6)):
        (line,) = (line for line in axes.lines if list(line.get_xdata()) == [0.25, 0.75])
        assert list(line.get_ydata()) == pytest.approx(power)
        assert axes.collections[0].get_datalim(axes.transData).y0 == pytest.approx(low)


def test_the_axis_is_logarithmic_where_the_range_asks_for_it(drawn):
    assert drawn(adapter("x"))["spectrum"].axes[0].get_yscale() == "linear"
    steep = adapter("x")
    steep["overall"]["A"] = measures(0.1, power=(7.9, 0.1))
    assert drawn(steep)["spectrum"].axes[0].get_yscale() == "log"


def test_layers_without_a_number_are_not_drawn(drawn):
    a, _, delta = drawn(adapter("x"), adapter("fresh", zero=True))["layers"].axes
    assert [list(line.get_xdata()) for line in a.lines] == [[0, 7], [0, 7]]
    assert [list(line.get_ydata()) for line in delta.lines] == [[75, 75]]


def test_maps_share_a_scale_around_white_noise(drawn):
    strong = adapter("strong")
    strong["map"]["power"][0][0] = 16.0
    first, second, bar = drawn(adapter("x"), strong, adapter("fresh", zero=True))["maps"].axes
    assert (first.get_title("left"), second.get_title("left")) == ("x", "strong")
    assert first.images[0].get_array().tolist() == [[0.5, 1.5], [1.0, 1.0]]
    assert first.images[0].get_clim() == second.images[0].get_clim() == pytest.approx((1 / 8, 8))
    assert bar.get_ylabel() == "power of ΔW / white noise"


def test_files_for_what_there_is(tmp_path):
    spectra.draw(content(adapter("a$b$c"), adapter("fresh", zero=True)), tmp_path)
    assert sorted(path.name for path in tmp_path.iterdir()) == ["layers.svg", "maps.svg", "spectrum.svg"]
    figure = (tmp_path / "spectrum.svg").read_text()
    for words in (
        ">a$b$c</text>",
        "fresh (B is zero)",
        "39 random permutations (chance alone leaves it in 5 % of values)",
    ):
        assert words in figure
    without = adapter("fresh", zero=True)
    without["layers"] = without["layers"][2:]
    spectra.draw(content(without), tmp_path)
    assert [path.name for path in tmp_path.iterdir()] == ["spectrum.svg"]


def test_the_same_content_gives_the_same_bytes(tmp_path):
    made = content(adapter("x"))
    spectra.draw(copy.deepcopy(made), tmp_path / "one")
    spectra.draw(made, tmp_path / "two")
    for path in (tmp_path / "one").iterdir():
        assert path.read_bytes() == (tmp_path / "two" / path.name).read_bytes()


def test_bands_without_bins_and_adapters_without_energy_are_drawn_as_nothing(drawn):
    narrow, empty = adapter("narrow"), adapter("empty", share=None, zero=True)
    narrow["overall"]["A"] = measures(0.25, power=(8.0, 0.0), white=(8.0, 0.0))
    a = drawn(narrow)["spectrum"].axes[0]
    assert list(a.lines[1].get_ydata()) == pytest.approx([1, float("nan")], nan_ok=True)
    assert drawn(empty) == {}
