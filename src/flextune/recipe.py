"""Recipe: one experiment in one file, the same in YAML, in Python and on the command line.

    recipe = load_recipe("recipe.yaml", ["training.learning_rate=1e-4"])
    recipe = Recipe(model="smollm2-135m", training=Training(epochs=1))

Every section is a frozen dataclass of the module that reads it; unknown keys, wrong types and combinations that make no
sense are `UsageError`s that name the key, the value and what is allowed.
"""

import difflib
import itertools
from collections.abc import Iterator, Mapping, Sequence
from contextlib import suppress
from dataclasses import fields, is_dataclass
from pathlib import Path
from typing import Annotated, Any, Literal, get_args, get_type_hints

import yaml
from pydantic import Field, TypeAdapter, field_validator, model_validator
from pydantic.dataclasses import dataclass

from flextune.errors import UsageError
from flextune.execution.settings import Execution
from flextune.files import parse_yaml, read_yaml
from flextune.generation.settings import BEAMS, Decoding, Generation
from flextune.rundir import folder_name
from flextune.section import SECTION, parse
from flextune.studies.settings import Range, Study, Sweep, refusal
from flextune.tasks import chooses
from flextune.tuning.settings import Adapter, Penalty, Training

Variant = Literal["base", "unmerged", "merged"]
"""The model as it came; with the adapter beside its weights; with the adapter added into its weights."""


@dataclass(frozen=True, kw_only=True, config=SECTION)
class Evaluation:
    """What is measured, and of which variants of the model."""

    benchmarks: list[str] = Field(default_factory=lambda: ["basics-python", "basics-java"])
    """Benchmarks by name (`flextune data list`), or .jsonl files of problems; none: nothing is measured."""
    only: list[str] | None = None
    """Ask only these problems, by name; `HumanEval/0` is also the name of its translations. A search may choose by them
    where `without` leaves them out of what is reported."""
    without: list[str] = Field(default_factory=list)
    """Do not ask these problems, by name."""
    limit: Annotated[int, Field(ge=1)] | None = None
    """Ask only the first problems of each benchmark."""
    variants: list[Variant] | None = None
    """base, unmerged, merged; by default base, and unmerged if there is an adapter. With [] nothing is measured, while
    `training.overlap` goes by the benchmarks' problems all the same."""
    adapter: str | None = None
    """A PEFT folder, or the directory of a run that has one, to measure when the recipe trains none."""
    scale: Annotated[float, Field(gt=0)] = 1.0
    """Measure the adapter with ΔW multiplied by this: less of it, less forgotten (WiSE-FT, arXiv 2109.01903)."""
    decodings: dict[str, Decoding] = Field(default_factory=lambda: {"greedy": Decoding()})
    """Decodings by a name of your choice, which becomes a folder; with lists of values, one for each combination."""

    @field_validator("decodings", mode="before")
    @classmethod
    def _each_combination(cls, given: Any) -> Any:
        if not isinstance(given, Mapping):
            return given
        found = list(_combinations(given))
        names = [name for name, _ in found]
        if twice := sorted({str(name) for name in names if names.count(name) > 1}):
            raise ValueError(f"{twice[0]}: two decodings would have this name; give one of them another")
        return dict(found)


def _combinations(given: Mapping[str, Any]) -> Iterator[tuple[str, Any]]:
    """Decodings without lists: each combination by its name and the values that it has of them.

    >>> list(_combinations({"beam": {"kind": "beam", "beams": [1, 4]}, "greedy": {}}))
    [('beam-1', {'kind': 'beam', 'beams': 1}), ('beam-4', {'kind': 'beam', 'beams': 4}), ('greedy', {})]
    """
    for name, settings in given.items():
        lists = {k: v for k, v in settings.items() if isinstance(v, list)} if isinstance(settings, Mapping) else {}
        if not lists or not isinstance(name, str):
            yield name, settings
            continue
        for key, values in lists.items():
            if not values or any(value in values[:i] for i, value in enumerate(values)):
                raise ValueError(f"{name}.{key} = {values}: expected at least one value, each once")
        for chosen in itertools.product(*lists.values()):
            yield "-".join([name, *map(str, chosen)]), {**settings, **dict(zip(lists, chosen, strict=True))}


@dataclass(frozen=True, kw_only=True, config=SECTION)
class Recipe:
    """One experiment: a model, what it is taught, and what that did to each language."""

    about: str | None = None
    """What the experiment is, in one line; changes nothing."""
    model: str
    """A folder, a name on the Hub, or the embedded smollm2-135m."""
    revision: str | None = None
    """Commit, tag or branch of a model on the Hub; the commit is recorded either way."""
    dtype: Literal["auto", "float32", "bfloat16", "float16"] = "auto"
    """Type of the frozen weights; auto: that of the checkpoint, or float32 on a processor without instructions for its
    16-bit floats. Adapters are always trained in float32."""
    quantization: Literal["nf4"] | None = None
    """Load the frozen weights in 4 bits (QLoRA, with double quantization); needs the extra `qlora`."""
    merge_first: str | None = None
    """A PEFT folder, or the directory of a run, whose adapter becomes part of the weights before all else."""
    seed: Annotated[int, Field(ge=0, lt=2**32)] = 0
    """Seeds the adapter, the order of the examples, dropout and sampling."""
    data: str | None = None
    """A folder with local copies of data sets (`humaneval.jsonl`, `multipl-e/<config>.jsonl`, …)."""
    training: Training | None = None
    """Leave out to measure only."""
    adapter: Adapter = Field(default_factory=Adapter)
    """The LoRA factors."""
    penalty: Penalty = Field(default_factory=Penalty)
    """The Fourier penalty on them."""
    evaluation: Evaluation = Field(default_factory=Evaluation)
    """What is measured."""
    generation: Generation = Field(default_factory=Generation)
    """How completions are made."""
    execution: Execution = Field(default_factory=Execution)
    """How programs are judged."""
    study: Study | None = None
    """Instead of one training, several that are compared."""
    sweep: Sweep | None = None
    """What `flextune sweep` searches; `flextune run` leaves it aside."""

    @property
    def variants(self) -> list[Variant]:
        """The variants to measure, in order; none without a benchmark."""
        if not self.evaluation.benchmarks:
            return []
        if self.evaluation.variants is not None:
            return self.evaluation.variants
        return ["base", "unmerged"] if self.training or self.evaluation.adapter else ["base"]

    @model_validator(mode="after")
    def _possible(self) -> "Recipe":
        evaluation = self.evaluation
        tuned = [variant for variant in self.variants if variant != "base"]
        if self.training and evaluation.adapter:
            raise ValueError(
                f"evaluation.adapter = {evaluation.adapter!r}: a recipe with `training` measures the adapter it trains"
            )
        if tuned and not (self.training or evaluation.adapter):
            raise ValueError(
                f"evaluation.variants = {self.variants}: {tuned[0]} needs `training` or `evaluation.adapter`"
            )
        if (tuned or self.training) and self.generation.backend == "openai":
            raise ValueError(
                f"evaluation.variants = {self.variants} with generation.backend: openai: nothing is trained on a "
                "server, and an adapter there is a model of its own: serve it, name it as `model`, and measure that"
            )
        if self.quantization and self.generation.backend != "transformers":
            raise ValueError(
                f"quantization = {self.quantization!r} with generation.backend: {self.generation.backend}: only the "
                "transformers backend loads it"
            )
        if not self.variants and not self.training:
            key = "variants" if evaluation.benchmarks else "benchmarks"
            raise ValueError(f"evaluation.{key} = [], and no `training`: there is nothing to do; give one of them")
        if self.quantization and self.merge_first:
            raise ValueError(
                f"quantization = {self.quantization!r} with merge_first: 4-bit weights keep next to nothing of an "
                "adapter that is added to them; leave out one of the two"
            )
        if self.quantization and "merged" in self.variants:
            raise ValueError(
                f"evaluation.variants = {self.variants}: an adapter that is merged into 4-bit weights is all but lost; "
                "leave out merged, or quantization"
            )
        if evaluation.scale != 1 and not tuned and evaluation.variants != []:
            raise ValueError(f"evaluation.scale = {evaluation.scale}: there is no adapter to measure; remove it")
        for name, given in (("benchmarks", evaluation.benchmarks), ("variants", self.variants)):
            if len(set(given)) != len(given):
                raise ValueError(f"evaluation.{name} = {given}: expected each once")
        folders = [folder_name(name) for name in evaluation.benchmarks]
        if len(set(folders)) != len(folders):
            raise ValueError(f"evaluation.benchmarks = {evaluation.benchmarks}: two would share the folder of a name")
        if not evaluation.decodings:
            raise ValueError("evaluation.decodings = {}: expected at least one, such as greedy: {}")
        for name, decoding in evaluation.decodings.items():
            if decoding.kind in BEAMS and self.generation.backend != "transformers":
                raise ValueError(
                    f"evaluation.decodings.{name}.kind = {decoding.kind!r} with generation.backend: "
                    f"{self.generation.backend}: only the transformers backend has beams"
                )
            if not name.replace("-", "").replace(".", "").replace("_", "").isalnum():
                raise ValueError(f"evaluation.decodings: {name!r} has to be a folder's name (letters, digits, - . _)")
        try:
            if self.study:
                _check_study(self, self.study)
            if self.sweep:
                _check_sweep(self, self.sweep)
        except UsageError as error:
            raise ValueError(str(error)) from None
        return self


def _check_study(recipe: Recipe, study: Study) -> None:
    """Make the recipe of every arm and of every combination of values, so that none can turn out wrong later."""
    if recipe.training is None or recipe.training.validation is None:
        raise UsageError(
            "study: needs training.validation, a training set or a number of examples to hold out: it compares by "
            "their loss"
        )
    if recipe.training.patience is not None:
        raise UsageError(
            f"study: training.patience = {recipe.training.patience}: arms would stop at different steps, while their "
            "last losses are compared; leave it out"
        )
    held_out = isinstance(recipe.training.validation, int)
    sections = [key for key, kind, *_ in describe_keys() if kind == "section"]
    for arm, settings in study.compare.items():
        for where, keys in ((f"study.compare.{arm}", settings), (f"study.tune.{arm}", study.tune.get(arm, {}))):
            refused = refusal(list(keys), sections, held_out)
            if refused:
                raise UsageError(f"{where}: {refused}")
        plain = change(recipe, {**settings, "study": None}, f"study.compare.{arm}")
        tried: list[Recipe] = []
        for values in study.grid(arm):
            tried.append(change(plain, values, f"study.tune.{arm}"))
            if tried[-1] in tried[:-1]:
                raise UsageError(f"study.tune.{arm}: {values} would be tried twice; leave out one")


WHAT_IS_MEASURED = (
    "model",
    "revision",
    "data",
    *(f"evaluation.{key}" for key in ("benchmarks", "only", "without", "limit", "variants")),
)
"""Keys that values of a sweep would not compare beyond."""
TRIED_OUT = 200
"""How many combinations of a sweep are tried out when the recipe is read."""


def _check_sweep(recipe: Recipe, sweep: Sweep) -> None:
    """What a sweep measures is for choosing, and its values make recipes."""
    if recipe.study:
        raise UsageError("sweep: the recipe has a study too; leave out one of them")
    training = recipe.training
    if sweep.objective == "validation_loss" and (training is None or training.validation is None):
        raise UsageError("sweep.objective = validation_loss: needs training.validation, or set objective: pass@1")
    if sweep.objective == "pass@1" and not recipe.evaluation.benchmarks:
        raise UsageError("sweep.objective = pass@1: needs evaluation.benchmarks, such as mbpp-validation")
    if sweep.objective == "pass@1" and training and set(recipe.variants) == {"base"}:
        raise UsageError(
            "sweep.objective = pass@1: evaluation.variants = [base] measures no adapter, so every trial would be worth "
            "the same; add unmerged or merged"
        )
    reported = [name for name in recipe.evaluation.benchmarks if not chooses(name)]
    if reported and recipe.evaluation.only is None and sweep.objective == "pass@1":
        raise UsageError(
            f"sweep: evaluation.benchmarks has {', '.join(reported)}: what is reported must not choose. Measure "
            "mbpp-validation, mbpp-java-validation, basics-… or a file of your own, and the best recipe on the others "
            "afterwards; or name problems to choose by as evaluation.only, and report with them as evaluation.without"
        )
    sections = [key for key, kind, *_ in describe_keys() if kind == "section"]
    if training and sweep.objective == "validation_loss":
        keys = [key for key in sweep.space if key != "seed"]
        if refused := refusal(keys, sections, isinstance(training.validation, int)):
            raise UsageError(f"sweep.space: {refused}")
    for key in sweep.space:
        if key in (*sections, *WHAT_IS_MEASURED):
            raise UsageError(f"sweep.space: {key} would change what is measured, or is a section; search its keys")
    plain = change(recipe, {"sweep": None}, "sweep")
    tries: dict[str, Any] = {
        key: values.tries if isinstance(values, Range) else values for key, values in sweep.space.items()
    }
    tried: list[Recipe] = []
    for values in itertools.islice(Sweep(space=tries, only=sweep.only).grid(), TRIED_OUT):
        try:
            tried.append(change(plain, values, "sweep.space"))
        except UsageError as error:
            between = [k for k, v in values.items() if isinstance(sweep.space[k], Range) and v in tries[k][2:]]
            hint = f"; if {', '.join(between)} takes whole numbers only, write whole: true there" if between else ""
            raise UsageError(f"{error}{hint}") from None
        if tried[-1] in tried[:-1]:
            raise UsageError(f"sweep.space: {values} would be tried twice; leave out one")


def change(recipe: Recipe, keys: Mapping[str, Any], where: str) -> Recipe:
    """The recipe with other values of some dotted keys, checked like any recipe.

    `where` stands at the front of error messages.

    >>> change(Recipe(model="m"), {"adapter.rank": 4}, "an example").adapter.rank
    4
    """
    content = TypeAdapter(Recipe).dump_python(recipe, mode="json")
    for key, value in keys.items():
        _put(content, key, value, f"{where}: {key}")
    return parse_recipe(content, where)


def overridden(recipe: Recipe, overrides: Sequence[str], where: str) -> Recipe:
    """The recipe with overrides of the form `section.key=value` (the value is YAML), checked like any recipe."""
    content = TypeAdapter(Recipe).dump_python(recipe, mode="json")
    for override in overrides:
        _apply(content, override)
    return parse_recipe(content, where)


def setting_of(recipe: Recipe, key: str) -> Any:
    """What a dotted key has come to: however it was written, one value has one form.

    >>> setting_of(Recipe(model="m", training=Training(learning_rate=1e-4)), "training.learning_rate")
    0.0001
    """
    content: Any = TypeAdapter(Recipe).dump_python(recipe, mode="json")
    for part in key.split("."):
        content = content[part]
    return content


PACKAGED = Path(__file__).parent / "recipes"
"""Recipes that come with flextune; `flextune run recipes/quickstart.yaml` finds them from any folder."""


def _find(path: Path) -> Path:
    """A recipe of the user's, or else a packaged one by its path from `recipes/`."""
    if path.exists():
        return path
    packaged = {found.relative_to(PACKAGED.parent): found for found in sorted(PACKAGED.rglob("*.yaml"))}
    if path in packaged:
        return packaged[path]
    names = [name.as_posix() for name in packaged]
    close = difflib.get_close_matches(path.as_posix(), names, n=1)
    folders = sorted({name.parent.as_posix() for name in packaged} - {"recipes"})
    known = f"{close[0]}" if close else f"recipes/quickstart.yaml, and those of {', '.join(folders)}"
    raise UsageError(f"the recipe {path} does not exist; flextune comes with {known}")


def load_recipe(path: str | Path, overrides: Sequence[str] = ()) -> Recipe:
    """Read a recipe from YAML and apply overrides of the form `section.key=value` (the value is YAML).

    A path that does not exist, such as `recipes/quickstart.yaml`, may name a recipe that comes with flextune.
    """
    path = _find(Path(path))
    content = read_yaml(path)
    for override in overrides:
        _apply(content, override)
    return parse_recipe(content, str(path))


def parse_recipe(content: dict[str, Any], where: str) -> Recipe:
    """Check a mapping against the schema; `where` stands at the front of error messages."""
    return parse(Recipe, content, where)


def dump_recipe(recipe: Recipe) -> str:
    """The effective recipe as YAML: every key, defaults included."""
    content = TypeAdapter(Recipe).dump_python(recipe, mode="json")
    return yaml.safe_dump(content, sort_keys=False, allow_unicode=True)


def describe_keys() -> Iterator[tuple[str, str, str, str]]:
    """Each key of a recipe: its full name, type, default, and what it does."""
    yield from _describe(Recipe, "")


def _describe(section: Any, prefix: str) -> Iterator[tuple[str, str, str, str]]:
    hints = get_type_hints(section)
    for field in fields(section):
        info = section.__pydantic_fields__[field.name]
        description = " ".join((info.description or "").split())
        nested = [kind for kind in (hints[field.name], *get_args(hints[field.name])) if is_dataclass(kind)]
        if nested and field.name != "decodings":
            yield f"{prefix}{field.name}", "section", "", description
            yield from _describe(nested[0], f"{prefix}{field.name}.")
            continue
        default = "required" if info.is_required() else repr(info.get_default(call_default_factory=True))
        kind = getattr(hints[field.name], "__name__", str(hints[field.name])).replace("typing.", "")
        yield f"{prefix}{field.name}", kind, default, description


def _apply(content: dict[str, Any], override: str) -> None:
    key, equals, value = override.partition("=")
    if not equals or not key:
        raise UsageError(f"{override!r}: an override is written section.key=value")
    with suppress(yaml.YAMLError, ValueError, RecursionError):
        value = parse_yaml(value)
    _put(content, key, value, repr(override))


def _put(content: dict[str, Any], key: str, value: Any, shown: str) -> None:
    """Set a dotted key; `shown` stands at the front of the error message."""
    *sections, last = key.split(".")
    for section in sections:
        if content.get(section) is None:
            content[section] = {}
        content = content[section]
        if not isinstance(content, dict):
            raise UsageError(f"{shown}: {section} is not a section")
    content[last] = value
