"""The model card of a run's adapter: `adapter/README.md`, a YAML header as the Hub reads it and a page for people.

write_card("runs/first")                                 # beside the adapter; written anew with each report
card("runs/first", repo="me/adapter", license="apache-2.0", base_model="codellama/CodeLlama-7b-hf")
"""

import html
import json
import re
from collections.abc import Iterable, Iterator, Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any

from jinja2 import Environment, PackageLoader, StrictUndefined
from markupsafe import Markup

from flextune.files import read_json, write_atomic
from flextune.report.comparison import printable, sentence
from flextune.report.results import Result, Results, form, judgement, percent, points, read_results
from flextune.rundir import RunDirectory, folder_name

if TYPE_CHECKING:
    from huggingface_hub import EvalResult, ModelCardData

CONFIG = "adapter_config.json"
WAYS = {"unmerged": "beside the weights", "merged": "merged into the weights"}
"""How an adapter was measured."""


def write_card(run: str | Path) -> Path | None:
    """Write the card of the adapter that a run has trained, in place of PEFT's template; None where there is none.

    The card is made from the files of the run alone and holds no time, so that writing it twice gives the same file.
    An adapter that the run only measured is another run's, and is left as it is.
    """
    directory = RunDirectory(run)
    if not (directory.adapter / CONFIG).exists():
        return None
    path = directory.adapter / "README.md"
    write_atomic(path, card(run))
    return path


def card(run: str | Path, *, repo: str | None = None, license: str | None = None, base_model: str | None = None) -> str:
    """The text of the card of a run that has an adapter.

    Folders are named without the path to them. The results in the header (`model-index`) are those of the adapter's
    weights as they are: none where the run measured them scaled.

    Args:
        run: The run directory.
        repo: Where the adapter will be on the Hub; the example then loads it from there.
        license: One of the Hub's identifiers, for the header.
        base_model: The model's name on the Hub; by default the one that the run took from there.

    Raises:
        UsageError: It is no run directory.

    The format is the Hub's: https://huggingface.co/docs/hub/model-cards.
    """
    results = read_results(run)
    base = base_model or base_on_hub(results)
    origin = results.provenance.get("inputs", {}).get("model", {})
    revision = origin.get("revision") if base and base == origin.get("hub") else None
    config = read_json(RunDirectory(run).adapter / CONFIG)
    environment = Environment(
        loader=PackageLoader("flextune.report", "."),
        autoescape=False,  # noqa: S701 - it is Markdown, and `finalize` escapes whatever is put in
        finalize=lambda value: value if isinstance(value, Markup) else plain(value),
        undefined=StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
        keep_trailing_newline=True,
    )
    measured = [result for result in results.results if result.variant != "base"]
    benchmarks = [folder_name(name) for name in results.recipe["evaluation"]["benchmarks"]]
    body = environment.get_template("card.md.j2").render(
        recipe=results.recipe,
        title=_title(results),
        base=base,
        named=base_model,
        model=_model(results),
        origin=origin,
        below=_last(results.recipe.get("merge_first")),
        base_code=_code(base),
        model_code=_code(results.recipe["model"]),
        repo_code=_code(repo),
        revision=revision,
        revision_code=_code(revision),
        training=list(_training(results, config)),
        rows=[_row(results, result) for result in measured],
        together=[_difference(row) for row in results.comparisons if row["against"] == "base" and "first" not in row],
        sentences=list(_sentences(results)),
        missing=[name for name in benchmarks if name not in {result.benchmark for result in measured}],
        measuring=list(_measuring(results)) if measured else [],
        versions=[(name, _each(found)) for name, found in _versions(results).items()],
    )
    return f"---\n{_header(results, repo, license, base).to_yaml()}\n---\n\n{body}"


def base_on_hub(results: Results) -> str | None:
    """The Hub's name of the weights that a run's adapter belongs on; None where only the user can know it."""
    if results.recipe.get("merge_first"):
        return None  # other weights than the Hub's
    name: str | None = results.provenance.get("inputs", {}).get("model", {}).get("hub")
    return name


def plain(value: object) -> str:
    r"""A value as Markdown shows it unchanged: one line without markup, HTML, or what would steer a terminal.

    >>> plain("a_b <img src=x>\n# | c")
    'a\\_b &lt;img src=x&gt; \\# \\| c'
    """
    line = " ".join(printable(str(value)).split())
    return html.escape(re.sub(r"([\\`*_{}\[\]#|~$!])", r"\\\1", line), quote=False)


def _header(results: Results, repo: str | None, license: str | None, base: str | None) -> "ModelCardData":
    from huggingface_hub import ModelCardData

    inputs = results.provenance.get("inputs", {})
    datasets = [found["hub"] for name, found in inputs.items() if name.startswith("training set ") and "hub" in found]
    found = list(_eval_results(results))
    return ModelCardData(
        base_model=base,
        datasets=datasets or None,
        eval_results=found or None,
        language=["code"],
        library_name="peft",
        license=license,
        model_name=(repo.rpartition("/")[2] if repo else results.path.resolve().name) if found else None,
        pipeline_tag="text-generation",
        tags=[*([f"base_model:adapter:{base}"] if base else []), "code", "flextune", "lora"],
    )


def _eval_results(results: Results) -> "Iterator[EvalResult]":
    """pass@1 of the adapter, for the header: what the format has no field for stands in the metric's name and args."""
    from huggingface_hub import EvalResult

    if results.recipe["evaluation"].get("scale", 1) != 1:
        return
    inputs = results.provenance.get("inputs", {})
    sources = {folder_name(name.removeprefix("benchmark ")): found for name, found in inputs.items()}
    for result in results.results:
        if result.variant == "base":
            continue
        score, source = result.scores["pass@1"], sources.get(result.benchmark, {})
        decoding = _decoding(results, result.decoding)
        yield EvalResult(
            task_type="text-generation",
            dataset_type=source.get("hub", result.benchmark),
            dataset_name=result.benchmark,
            # several benchmarks of one repository are told apart by this
            dataset_config=result.benchmark if "hub" in source else None,
            dataset_revision=source.get("revision"),
            dataset_args={key: source[key] for key in ("asked", "limit") if key in source} or None,
            metric_type="pass@1",
            metric_value=score["value"],
            metric_name=(
                f"pass@1, adapter {WAYS[result.variant]}, {decoding} ({score['problems']} problems, 95 % interval "
                f"{percent(score['low'])} to {percent(score['high'])})"
            ),
            metric_args={
                "variant": result.variant,
                "decoding": decoding,
                "problems": score["problems"],
                "samples": result.scores["samples"],
                "low": score["low"],
                "high": score["high"],
            },
        )


def _title(results: Results) -> str:
    training = results.recipe["training"]
    return f"{_model(results)}, tuned on {folder_name(training['dataset'])}" if training else _model(results)


def _model(results: Results) -> str:
    """The model as a recipe names it; of a folder only the last part."""
    name = results.recipe["model"]
    folder = "folder" in results.provenance.get("inputs", {}).get("model", {"folder": name})
    return str(_last(name) or "a local model") if folder else str(name)


def _last(path: str | None) -> str | None:
    """The folder's own name; of `runs/first/adapter` that of the run."""
    parts = [part for part in Path(path or "").parts if part != "adapter"]
    return parts[-1].strip("/") if parts else None


def _code(text: str | None) -> Markup | None:
    """A text as a literal in a block of Python, which Markdown shows as it is: nothing but its own fence ends one."""
    return None if text is None else Markup(json.dumps(text))  # noqa: S704


def _training(results: Results, config: Mapping[str, Any]) -> Iterator[tuple[str, str]]:
    """What an adapter is and what it has learned, as labels and values."""
    recipe, training = results.recipe, results.recipe["training"]
    inputs = results.provenance.get("inputs", {})
    if config.get("peft_type") == "LORA":
        modules = config["target_modules"] or ()
        shown = modules if isinstance(modules, str) else ", ".join(sorted(modules))
        dropout = config.get("lora_dropout", 0)
        yield "Adapter", f"LoRA of rank {config['r']}, α = {config['lora_alpha']:g}, dropout {dropout:g}, on {shown}"
    if training is None:
        yield "Training", "the run's recipe says nothing about it"
        return
    if start := recipe["adapter"].get("start"):
        yield "Started from", f"the adapter of {_last(start)}"
    if further := recipe["adapter"].get("peft"):
        yield "Further settings of PEFT", _settings(further)
    source = inputs.get(f"training set {training['dataset']}", {})
    data = [folder_name(training["dataset"])]
    data += [f"{source['rows']} rows"] if "rows" in source else []
    data += [f"{source['hub']} at revision {source['revision']}"] if "hub" in source else []
    yield "Data", ", ".join([*data, *(_said(training, ("template", "limit", "solutions")))])
    if recipe["evaluation"]["benchmarks"]:
        yield (
            "Examples that are also measured problems",
            {
                "refuse": "none: the run would have been refused",
                "drop": "left out",
                "keep": "kept, so what is measured here may have been learned by heart",
            }[training["overlap"]],
        )
    steps = f" (optimizer steps: {results.metrics[-1]['step']})" if results.metrics else ""
    validation = training.get("validation")
    kept = "that of the last step"
    if validation is not None:
        held_out = f"{validation} held-out examples" if isinstance(validation, int) else folder_name(validation)
        kept = f"that of the least loss on {held_out}"
    yield "Epochs", f"{training['epochs']:g}{steps}; the adapter is {kept}"
    size = "batch_tokens" if training.get("batch_tokens") else "batch_size"
    processes = {"processes": inputs.get("training processes", 1)}
    yield "Optimizer step", ", ".join([*_said(training, (size, "accumulation")), *_said(processes, processes)])
    keys = (
        "optimizer",
        "learning_rate",
        "schedule",
        "warmup",
        "weight_decay",
        "max_grad_norm",
        "max_length",
        "kl",
        "patience",
    )
    yield "Optimizer", ", ".join(_said(training, keys))
    penalty = recipe["penalty"]
    others = _settings({key: value for key, value in penalty.items() if key != "strength"})
    yield "Fourier penalty", f"λ = {penalty['strength']:g} ({others})" if penalty["strength"] else "none"
    yield "Base weights", recipe.get("quantization") or f"dtype {recipe['dtype']}"
    yield "Seed", str(recipe["seed"])


def _said(settings: Mapping[str, Any], keys: Iterable[str]) -> list[str]:
    return [f"{key} = {settings[key]}" for key in keys if settings.get(key) is not None]


def _settings(settings: Mapping[str, Any]) -> str:
    return ", ".join(_said(settings, settings))


def _decoding(results: Results, name: str) -> str:
    """`greedy`, or a decoding's name with what it is."""
    settings = results.recipe["evaluation"]["decodings"].get(name, {"kind": name})
    said = _said(settings, ("temperature", "top_p", "top_k", "beams", "length_penalty", "self_tests"))
    said += [f"samples = {settings['samples']}"] if settings.get("samples", 1) != 1 else []
    if not said:
        return str(settings["kind"])
    return f"{settings['kind']} with {', '.join(said)}"


def _row(results: Results, result: Result) -> dict[str, str]:
    """A measurement of the adapter beside that of the base model."""

    def value(scores: Mapping[str, Any]) -> str:
        score = scores["pass@1"]
        return f"{percent(score['value'])} ({100 * score['low']:.1f} to {100 * score['high']:.1f})"

    place = (result.benchmark, result.decoding)
    base = [r for r in results.results if r.variant == "base" and (r.benchmark, r.decoding) == place]
    compared = [
        row
        for row in results.comparisons
        if row["against"] == "base" and (row["benchmark"], row["decoding"], row["variant"]) == (*place, result.variant)
    ]
    difference = _difference(compared[0]) if compared else {"difference": "–", "p": "–", "detectable": "–", "words": ""}
    return {
        **difference,
        "benchmark": result.benchmark,
        "way": WAYS[result.variant],
        "decoding": _decoding(results, result.decoding),
        "problems": str(result.scores["pass@1"]["problems"]),
        "base": value(base[0].scores) if base else "not measured here",
        "tuned": value(result.scores),
        "words": (judgement(compared[0]) + form(results, compared[0])) if compared else "not compared",
    }


def _difference(row: Mapping[str, Any]) -> dict[str, str]:
    difference = row["difference"]
    p = f"{row['p_value']:.2g}"
    if row.get("comparisons", 1) > 1:
        p += f" ({row['p_adjusted']:.2g} as one of {row['comparisons']})"
    return {
        "benchmark": f"mean of {', '.join(row['benchmarks'])}" if "benchmarks" in row else row["benchmark"],
        "way": WAYS[row["variant"]],
        "decoding": row["decoding"],
        "problems": str(row["problems"]),
        "difference": f"{points(difference['value'])} ({points(difference['low'])} to {points(difference['high'])})",
        "p": p,
        "detectable": "none" if row["detectable"] is None else f"{100 * row['detectable']:.1f}",
        "words": judgement(row),
    }


def _sentences(results: Results) -> Iterator[str]:
    """What comparisons say beyond their rows; no path of a run stands in it."""
    for row in results.comparisons:
        place = f"{row['benchmark']}, {row['variant']} against {row['against']}, {row['decoding']}"
        if row["against"] != "base":
            yield f"{place}: {sentence(row)}"
        for line in row["unlike"]:
            yield f"{place}: not the same conditions: {line}"
        if row.get("unrecorded"):
            yield f"{place}: how it was judged is not recorded for both sides"


def _measuring(results: Results) -> Iterator[tuple[str, str]]:
    """How completions were made and judged."""
    settings = results.recipe["generation"]
    yield "Prompts", "through the model's chat template" if settings.get("chat") else "plain text to go on from"
    yield "Generation", ", ".join(_said(settings, ("backend", "max_new_tokens", "chain_of_thought", "strip_prompt")))
    judged = [found["execution"] for r in results.results if "execution" in (found := r.scores["provenance"])]
    if judged:
        yield "Sandbox", _each(found["sandbox"] for found in judged)
        compatible = any(found.get("compatible") for found in judged)
        yield "A program passes", "with exit status 0" if compatible else "if the end of its tests was reported"
        yield "Limits", _each(_settings(found["limits"]) for found in judged)
        yield "Toolchains", _each(version for found in judged for version in found["toolchains"].values())


def _versions(results: Results) -> dict[str, list[str]]:
    """By library, the versions of every start of the run."""
    found: dict[str, list[str]] = {}
    for start in results.provenance.get("starts", []):
        for name, version in start["versions"].items():
            if not name.startswith("toolchain "):
                found.setdefault(name, []).append(version)
    return found


def _each(values: Iterable[object]) -> str:
    return ", ".join(dict.fromkeys(str(value) for value in values))
