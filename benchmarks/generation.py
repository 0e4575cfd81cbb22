"""Completions a second beside the usual evaluation loop, lm-evaluation-harness, and what the machine allows at least.

    pip install --target /tmp/lmeval --no-deps lm-eval==0.4.13
    python benchmarks/generation.py --model FOLDER --data DATA --lm-eval-path /tmp/lmeval [--vllm-python PATH]

DATA has humaneval.jsonl and multipl-e/. One task for all: problems spread over HumanEval and its Java version, greedy,
one limit of tokens, one precision, all cores. What counts is what is judged: the completion, cut at the benchmark's
stop strings, in tokens of one tokenizer. Each contestant runs in a process of its own; loading the model and a short
text to warm up are not counted. With `--rounds` they take turns, and the least time counts.

- ours: what `flextune generate` does, with the transformers backend and its 64 texts at a time; no text is cached;
- ours-16: the same with 16 at a time, as the others have;
- ours-vllm: the same with the vLLM backend, by the interpreter that `--vllm-python` names;
- usual: what MultiPL-E's own script does: `model.generate` on batches of 16, padded on the left, in the benchmark's
  order, to the end of text or the limit; cut afterwards;
- stop-strings: as good as `model.generate` can be: sorted by length, and a text ends at its `stop_strings`;
- one-by-one: one prompt a call, ended by a stop string, as bigcode-evaluation-harness does greedily;
- lm-eval: `HFLM.generate_until` of lm-evaluation-harness with `until`, in batches of 16.

`--sampling N` draws 10 samples at temperature 0.8 of N problems of HumanEval (the loops with num_return_sequences; not
lm-eval, which has one text a request). `--batch-differences N` counts completions of ours that differ between batches
of 1 and 64, in bfloat16 and in float32. Prints the tables and writes them to benchmarks/results/generation.md.
"""

import argparse
import json
import os
import resource
import shlex
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

from flextune.models import find_model, load_model
from flextune.rundir import machine
from flextune.tasks import Problem, load_benchmark, truncate

RESULTS = Path(__file__).parent / "results" / "generation.md"
BENCHMARKS = ("humaneval", "humaneval-java")
CONTESTANTS = ("ours", "ours-16", "ours-vllm", "usual", "stop-strings", "one-by-one", "lm-eval")
BATCH, SAMPLES, TEMPERATURE = 16, 10, 0.8
WARM_UP = "def add(a, b):\n"
Writer = Callable[[list[Problem], int], dict[str, list[str]]]  # problems and a limit become completions of each


def problems_of(benchmark: str, data: str, count: int) -> list[Problem]:
    """So many problems, spread over the benchmark."""
    problems = load_benchmark(benchmark, data).problems
    count = min(count, len(problems))
    return [problems[number * len(problems) // count] for number in range(count)]


def ours(options: argparse.Namespace, backend: str, concurrency: int) -> Writer:
    """The stage `generate` itself."""
    from flextune.files import read_jsonl
    from flextune.generation.backend import Request
    from flextune.generation.engine import Engine
    from flextune.generation.generate import generate
    from flextune.generation.settings import Decoding, Generation

    generation = Generation(backend=backend, concurrency=concurrency, max_new_tokens=options.limit)
    engine = Engine(find_model(options.model), generation, options.dtype)
    draws = {"kind": "sampling", "samples": options.samples, "temperature": TEMPERATURE}
    decoding = Decoding(**draws if options.samples > 1 else {})
    list(engine.write([[Request(WARM_UP)]], (None, False), decoding, 8))

    def write(problems: list[Problem], limit: int) -> dict[str, list[str]]:
        with tempfile.TemporaryDirectory() as folder:
            os.environ["FLEXTUNE_CACHE"] = folder
            path = Path(folder) / "completions.jsonl"
            generate(engine, problems, path, decoding=decoding)
            rows = list(read_jsonl(path))
        return {p.task_id: [row["completion"] for row in rows if row["task_id"] == p.task_id] for p in problems}

    return write


def loop(options: argparse.Namespace, batch_size: int, stops: bool = False) -> Writer:
    """`model.generate` over batches; with stop strings also sorted by length."""
    model, tokenizer = load_model(find_model(options.model), options.dtype)
    tokenizer.padding_side = "left"
    how: dict[str, Any] = {"do_sample": False}
    if options.samples > 1:
        batch_size, how = 1, {"do_sample": True, "temperature": TEMPERATURE, "top_k": 0, "top_p": 1.0}
        how["num_return_sequences"] = options.samples

    def write(problems: list[Problem], limit: int) -> dict[str, list[str]]:
        if stops:
            problems = sorted(problems, key=lambda problem: -len(tokenizer(problem.prompt)["input_ids"]))
        texts: dict[str, list[str]] = {}
        for start in range(0, len(problems), batch_size):
            batch = problems[start : start + batch_size]
            inputs = tokenizer([problem.prompt for problem in batch], padding=True, return_tensors="pt")
            settings = {**how, "max_new_tokens": limit, "pad_token_id": tokenizer.pad_token_id}
            if stops and batch[0].stop:  # one benchmark's problems have the same
                settings |= {"stop_strings": list(batch[0].stop), "tokenizer": tokenizer}
            out = model.generate(**inputs.to(model.device), **settings)
            for number, row in enumerate(out):
                problem = batch[number // options.samples]
                text = tokenizer.decode(row, skip_special_tokens=True)[len(problem.prompt) :]
                texts.setdefault(problem.task_id, []).append(truncate(text, problem.stop))
        return texts

    write([Problem("", "python", WARM_UP, "")], 8)
    return write


def lm_eval(options: argparse.Namespace) -> Writer:
    """lm-evaluation-harness, its backend for transformers."""
    if options.lm_eval_path:
        sys.path.append(options.lm_eval_path)
    import torch
    from lm_eval.api.instance import Instance
    from lm_eval.models.huggingface import HFLM

    device = "cuda" if torch.cuda.is_available() else "cpu"
    model = HFLM(pretrained=str(find_model(options.model).path), dtype=options.dtype, device=device, batch_size=BATCH)

    def write(problems: list[Problem], limit: int) -> dict[str, list[str]]:
        how = {"until": list(problems[0].stop), "max_gen_toks": limit, "do_sample": False}
        requests = [Instance("generate_until", {}, (p.prompt, how), number) for number, p in enumerate(problems)]
        texts = model.generate_until(requests, disable_tqdm=True)
        return {p.task_id: [truncate(text, p.stop)] for p, text in zip(problems, texts, strict=True)}

    write([Problem("", "python", WARM_UP, "")], 8)
    return write


def writer_of(name: str, options: argparse.Namespace) -> Writer:
    """The contestant of this name, loaded and warm."""
    if name == "lm-eval":
        return lm_eval(options)
    if name.startswith("ours"):
        rest = name.removeprefix("ours").removeprefix("-")
        return ours(options, "vllm" if rest == "vllm" else "transformers", int(rest) if rest.isdigit() else 64)
    return loop(options, 1 if name == "one-by-one" else BATCH, stops=name != "usual")


def run_one(name: str, options: argparse.Namespace) -> dict[str, Any]:
    """Seconds, cores, memory and completions of one contestant, for a process of its own."""
    import torch

    problems = problems_of(options.benchmark, options.data, options.problems)
    torch.manual_seed(0)
    write = writer_of(name, options)
    started = time.perf_counter(), time.process_time()
    texts = write(problems, options.limit)
    seconds, worked = time.perf_counter() - started[0], time.process_time() - started[1]
    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024
    if torch.cuda.is_available():
        peak = torch.cuda.max_memory_allocated()  # 0 for vLLM, which has processes of its own there
    imported = [
        sys.modules[package] for package in ("torch", "transformers", "vllm", "lm_eval") if package in sys.modules
    ]
    versions = {module.__name__: module.__version__ for module in imported}
    return {"seconds": seconds, "cores": worked / seconds, "peak": peak, "texts": texts, "versions": versions}


def speed_of_machine(options: argparse.Namespace) -> dict[str, float]:
    """What the model's weights are, and what the machine does with such: the most of several tries."""
    import torch
    from transformers import AutoConfig, AutoModelForCausalLM

    config = AutoConfig.from_pretrained(find_model(options.model).path)
    with torch.device("meta"):
        model = AutoModelForCausalLM.from_config(config)
    head = model.get_output_embeddings().weight.numel()
    body = sum(module.weight.numel() for module in model.modules() if isinstance(module, torch.nn.Linear)) - head
    device = "cuda" if torch.cuda.is_available() else "cpu"
    dtype = getattr(torch, options.dtype)
    hidden, inner, rows = config.hidden_size, config.intermediate_size, 2048
    x, w = (torch.randn(size, hidden, device=device, dtype=dtype) for size in (rows, inner))
    large = torch.ones(2**28, device=device)

    def best(work: Callable[[], Any]) -> float:
        times = []
        for _ in range(10):
            started = time.perf_counter()
            work()
            (torch.cuda if device == "cuda" else torch.cpu).synchronize()
            times.append(time.perf_counter() - started)
        return min(times)

    return {
        "body": body,
        "head": head,
        "itemsize": dtype.itemsize,
        "flops": 2 * rows * hidden * inner / best(lambda: torch.nn.functional.linear(x, w)),
        "bandwidth": 4 * 2**28 / best(large.sum),
    }


def in_its_own_process(name: str, options: argparse.Namespace, **others: object) -> Any:
    """What `run_one` or `speed_of_machine` returns."""
    given = {key: getattr(options, key) for key in ("model", "data", "problems", "limit", "dtype", "lm_eval_path")}
    python = options.vllm_python if name == "ours-vllm" else sys.executable
    command = [python, __file__, "--only", name]
    for key, value in {**given, **others}.items():
        command += [f"--{key.replace('_', '-')}", str(value)] if value else []
    environment = os.environ | {"OMP_NUM_THREADS": str(os.cpu_count()), "TOKENIZERS_PARALLELISM": "false"}
    done = subprocess.run(command, capture_output=True, text=True, env=environment)
    found = [line for line in done.stdout.splitlines() if line.startswith("{")]
    if done.returncode or not found:
        raise SystemExit(f"{name} failed:\n{done.stderr[-3000:]}")
    result = json.loads(found[-1])
    options.versions |= set(result.pop("versions", {}).items())
    print(f"  {name} {others}: { {key: value for key, value in result.items() if key != 'texts'} }", flush=True)
    return result


def compare(benchmark: str, names: list[str], options: argparse.Namespace, samples: int = 1) -> list[str]:
    """The table of one benchmark."""
    from transformers import AutoTokenizer

    speed, count = options.speed, options.sampling if samples > 1 else options.problems
    problems = problems_of(benchmark, options.data, count)
    found: dict[str, list[Any]] = {name: [] for name in names}
    for turn in range(options.rounds):
        for name in names[:: 1 if turn % 2 == 0 else -1]:
            run = in_its_own_process(name, options, benchmark=benchmark, samples=samples, problems=count)
            found[name].append(run)
    tokenizer = AutoTokenizer.from_pretrained(find_model(options.model).path)

    def sizes(texts: list[str]) -> list[int]:
        return [len(tokens) for tokens in tokenizer(texts, add_special_tokens=False)["input_ids"]]

    read = sum(sizes([problem.prompt for problem in problems]))
    reference = "usual" if "usual" in names else names[0]
    texts = {name: runs[0]["texts"] for name, runs in found.items()}
    useful = {name: sizes([text for several in texts[name].values() for text in several]) for name in names}
    written = useful[reference]
    work = 2 * (speed["body"] * (read + sum(written)) + speed["head"] * sum(written)) / speed["flops"]
    weights = (speed["body"] + speed["head"]) * speed["itemsize"]
    steps = max(written) * weights / speed["bandwidth"]
    least = max(work, steps)
    seconds = {name: min(run["seconds"] for run in runs) for name, runs in found.items()}
    rows = []
    for name, runs in found.items():
        same = sum(texts[name][problem.task_id] == texts[reference][problem.task_id] for problem in problems)
        rows.append([name, f"{seconds[name]:.1f}", f"{len(written) / seconds[name]:.2f}"])
        rows[-1] += [f"{sum(useful[name]) / seconds[name]:.1f}", f"**{seconds[name] / seconds[names[0]]:.2f}**"]
        rows[-1] += [f"{seconds[name] / least:.1f}", f"{min(run['peak'] for run in runs) / 2**30:.2f}"]
        rows[-1] += [f"{max(run['cores'] for run in runs):.2f}", "drawn" if samples > 1 else f"{same} of {count}"]
    head = ["", "seconds", "completions/s", "useful tokens/s", f"{names[0]} is × as fast", "× the least time"]
    head += ["peak GiB", "cores busy", f"same as {reference}"]
    how = f"{samples} samples at temperature {TEMPERATURE}" if samples > 1 else "greedy"
    return [
        f"## {count} problems of {benchmark}, {how}",
        table(head, rows),
        f"Prompts have {read} tokens, the completions of {reference} {sum(written)}, the longest has {max(written)}. "
        f"So the least time is **{least:.1f} s**: {work:.1f} s of multiplications, or {steps:.1f} s to read the "
        f"weights {max(written)} times, whichever is longer; attention and the tokens that end texts are left out.",
    ]


def batch_differences(options: argparse.Namespace) -> list[str]:
    """How many of our completions depend on the size of the batch, in both precisions."""
    rows = []
    for dtype in ("bfloat16", "float32"):
        for benchmark in BENCHMARKS:
            settings = {"benchmark": benchmark, "problems": options.batch_differences, "dtype": dtype}
            one, many = (in_its_own_process(name, options, **settings)["texts"] for name in ("ours-1", "ours"))
            differ = sum(one[task] != many[task] for task in one)
            rows.append([dtype, benchmark, f"{differ} of {len(one)}", f"{differ / len(one):.1%}"])
    return [
        "## Batches of 1 and of 64",
        "Greedy completions of ours that differ between them. Sums are rounded otherwise in other batches, and now and "
        "then another token is the likeliest.",
        table(["precision", "benchmark", "differ", "share"], rows),
    ]


def main() -> None:
    """Measure and write the tables."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--model", required=True, help="a folder")
    parser.add_argument("--data", required=True)
    parser.add_argument("--contestants", default=",".join(CONTESTANTS), help="the first is compared with the others")
    parser.add_argument("--dtype", choices=["bfloat16", "float32"], default="bfloat16")
    for name, number in (("problems", 48), ("limit", 512), ("rounds", 1), ("sampling", 0), ("batch-differences", 0)):
        parser.add_argument(f"--{name}", type=int, default=number)
    parser.add_argument("--lm-eval-path", default="", help="where lm-eval is installed, if not beside flextune")
    parser.add_argument("--vllm-python", default=sys.executable, help="an interpreter with flextune and vLLM")
    for hidden, kind, default in (("only", str, ""), ("benchmark", str, ""), ("samples", int, 1)):
        parser.add_argument(f"--{hidden}", type=kind, default=default, help=argparse.SUPPRESS)
    options = parser.parse_args()
    if options.only:
        print(json.dumps(speed_of_machine(options) if options.only == "machine" else run_one(options.only, options)))
        return
    options.versions = set()
    names = options.contestants.split(",")
    tries = [in_its_own_process("machine", options) for _ in range(3)]
    options.speed = speed = {key: max(found[key] for found in tries) for key in tries[0]}
    text = []
    for benchmark in BENCHMARKS:
        text += compare(benchmark, names, options)
    if options.sampling:
        drawing = [name for name in names if name in ("ours", "ours-vllm", "usual", "stop-strings")]
        text += compare("humaneval", drawing, options, SAMPLES)
    if options.batch_differences:
        text += batch_differences(options)
    versions = sorted(f"{package} {version}" for package, version in options.versions)
    text[:0] = [
        "# Completions beside the usual loop, lm-evaluation-harness and the machine",
        f"`{shlex.join(['python', 'benchmarks/generation.py', *sys.argv[1:]])}`",
        f"{json.dumps(machine())}, {', '.join(versions)}, {Path(options.model).name} in {options.dtype}, "
        f"at most {options.limit} tokens, {options.rounds} rounds. Loading and warm-up are not in the times; useful "
        "tokens are those of the completions as they are judged.",
        f"The machine multiplies at {speed['flops'] / 1e9:.0f} GFLOP/s (the model's MLP, 2048 rows) and reads "
        f"{speed['bandwidth'] / 1e9:.1f} GB/s (a sum over 1 GiB); the model's matrices have "
        f"{(speed['body'] + speed['head']) / 1e6:.0f} million weights.",
    ]
    print("\n\n".join(text))
    RESULTS.write_text("\n\n".join(text) + "\n")
    print(f"written to {RESULTS}")


def table(head: list[str], rows: list[list[Any]]) -> str:
    """A table in Markdown."""
    lines = [head, ["---"] * len(head), *rows]
    return "\n".join("| " + " | ".join(map(str, cells)) + " |" for cells in lines)


if __name__ == "__main__":
    main()
