"""Recipe: one experiment in one file, the same in YAML, in Python and on the command line.

    recipe = load_recipe("recipe.yaml", ["training.learning_rate=1e-4"])
    recipe = Recipe(model="smollm2-135m", training=Training(epochs=1))

Every section is a frozen dataclass of the module that reads it; unknown keys, wrong types and combinations that make no
sense are `UsageError`s that name the key, the value and what is allowed.
"""

from collections.abc import Iterator, Sequence
from dataclasses import fields, is_dataclass
from pathlib import Path
from typing import Annotated, Any, Literal, get_args, get_type_hints

import yaml
from pydantic import Field, TypeAdapter, model_validator
from pydantic.dataclasses import dataclass

from flextune.errors import UsageError
from flextune.execution.settings import Execution
from flextune.generation.settings import Decoding, Generation
from flextune.rundir import folder_name
from flextune.section import SECTION, parse
from flextune.tuning.settings import Adapter, Penalty, Training

Variant = Literal["base", "unmerged", "merged"]
"""The model as it came; with the adapter beside its weights; with the adapter added into its weights."""


@dataclass(frozen=True, kw_only=True, config=SECTION)
class Evaluation:
    """What is measured, and of which variants of the model."""

    benchmarks: list[str] = Field(default_factory=lambda: ["basics-python", "basics-java"])
    """Benchmarks by name (`flextune data list`), or .jsonl files of problems."""
    limit: Annotated[int, Field(ge=1)] | None = None
    """Ask only the first problems of each benchmark."""
    variants: list[Variant] | None = None
    """base, unmerged, merged; by default base, and unmerged if there is an adapter."""
    adapter: str | None = None
    """A PEFT folder to measure when the recipe trains none."""
    decodings: dict[str, Decoding] = Field(default_factory=lambda: {"greedy": Decoding()})
    """Decodings by a name of your choice, which becomes a folder."""


@dataclass(frozen=True, kw_only=True, config=SECTION)
class Recipe:
    """One experiment: a model, what it is taught, and what that did to each language."""

    model: str
    """A folder, a name on the Hub, or the embedded smollm2-135m."""
    revision: str | None = None
    """Commit, tag or branch of a model on the Hub; the commit is recorded either way."""
    dtype: Literal["auto", "float32", "bfloat16", "float16"] = "auto"
    """Type of the frozen weights; auto: that of the checkpoint. Adapters are always trained in float32."""
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

    @property
    def variants(self) -> list[Variant]:
        """The variants to measure, in order."""
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
        for name, given in (("benchmarks", evaluation.benchmarks), ("variants", self.variants)):
            if not given or len(set(given)) != len(given):
                raise ValueError(f"evaluation.{name} = {given}: expected at least one, each once")
        folders = [folder_name(name) for name in evaluation.benchmarks]
        if len(set(folders)) != len(folders):
            raise ValueError(f"evaluation.benchmarks = {evaluation.benchmarks}: two would share the folder of a name")
        for name in evaluation.decodings:
            if not name.replace("-", "").replace(".", "").replace("_", "").isalnum():
                raise ValueError(f"evaluation.decodings: {name!r} has to be a folder's name (letters, digits, - . _)")
        return self


def load_recipe(path: str | Path, overrides: Sequence[str] = ()) -> Recipe:
    """Read a recipe from YAML and apply overrides of the form `section.key=value` (the value is YAML)."""
    path = Path(path)
    try:
        content = yaml.safe_load(path.read_text(encoding="utf-8"))
    except FileNotFoundError:
        raise UsageError(f"the recipe {path} does not exist") from None
    except (OSError, UnicodeDecodeError) as error:
        raise UsageError(f"the recipe {path} cannot be read: {error}") from None
    except yaml.YAMLError as error:
        mark = getattr(error, "problem_mark", None)
        line = f", line {mark.line + 1}" if mark else ""
        raise UsageError(f"{path}{line}: not valid YAML ({getattr(error, 'problem', None) or error})") from None
    if not isinstance(content, dict):
        raise UsageError(f"{path}: a recipe is a mapping of keys such as `model: smollm2-135m`, found {content!r}")
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
        nested = [kind for kind in (hints[field.name], *get_args(hints[field.name])) if is_dataclass(kind)]
        if nested and field.name != "decodings":
            yield f"{prefix}{field.name}", "section", "", info.description or ""
            yield from _describe(nested[0], f"{prefix}{field.name}.")
            continue
        default = "required" if info.is_required() else repr(info.get_default(call_default_factory=True))
        kind = getattr(hints[field.name], "__name__", str(hints[field.name])).replace("typing.", "")
        yield f"{prefix}{field.name}", kind, default, info.description or ""


def _apply(content: dict[str, Any], override: str) -> None:
    key, equals, value = override.partition("=")
    if not equals or not key:
        raise UsageError(f"{override!r}: an override is written section.key=value")
    *sections, last = key.split(".")
    for section in sections:
        if content.get(section) is None:
            content[section] = {}
        content = content[section]
        if not isinstance(content, dict):
            raise UsageError(f"{override!r}: {section} is not a section")
    try:
        content[last] = yaml.safe_load(value)
    except yaml.YAMLError:
        content[last] = value
