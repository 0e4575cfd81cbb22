"""The verb `push`: a run's adapter on the Hub, with its model card.

push("runs/first", "me/smollm2-python", license="apache-2.0", base_model="HuggingFaceTB/SmolLM2-135M-Instruct")
"""

import json
import re
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from flextune import hub
from flextune.errors import FlextuneError, UsageError
from flextune.files import read_json
from flextune.report.card import CONFIG, base_on_hub, card
from flextune.report.results import read_results
from flextune.rundir import RunDirectory

WEIGHTS = "adapter_model.safetensors"
LICENSES = "https://huggingface.co/docs/hub/repositories-licenses"


def push(
    run: str | Path, repo: str, *, license: str | None = None, base_model: str | None = None, private: bool = False
) -> str:
    """Publish the adapter that a run has trained: weights, configuration and model card, in one commit.

    All is checked first, the card by the Hub itself; the commit is whole or not there, and pushing again replaces the
    files. The run stays as it is. `base_model_name_or_path` of the published configuration is the model's name on the
    Hub, never a local path.

    Args:
        run: The run directory.
        repo: `user/name` on the Hub; made if it is not there.
        license: What others may do with the adapter, as one of the Hub's identifiers, such as `apache-2.0`.
        base_model: The base model's name on the Hub; by default the one that the run took from there.
        private: Make a private repository; a public one that is there is refused.

    Returns:
        The address of the repository.

    Raises:
        UsageError: There is no licence, no adapter, or no name of the base model; a name is none of the Hub's.
        FlextuneError: The Hub cannot be reached, knows no user here, or refuses.
    """
    if not license or not re.fullmatch(r"[a-z0-9][a-z0-9.-]*", license):
        raise UsageError(
            f"--license {'is missing' if not license else f'{license!r}'}: without a licence nobody may use what is "
            f"published; give one of the Hub's identifiers, such as --license apache-2.0 ({LICENSES}), which the "
            "licences of the base model and of the data have to allow"
        )
    _check_name("REPO", repo, r"[^/]+/[^/]+", "user/name")
    if base_model is not None:
        _check_name("--base-model", base_model, r"[^/]+(/[^/]+)?", "a name such as codellama/CodeLlama-7b-hf")
    results, adapter = read_results(run), RunDirectory(run).adapter
    if missing := [name for name in (CONFIG, WEIGHTS) if not (adapter / name).exists()]:
        measured = results.recipe["evaluation"].get("adapter")
        raise UsageError(
            f"{run} has no {adapter.name}/{missing[0]}: "
            + (f"it measured {measured}; push the run that trained it" if measured else "train it with `flextune run`")
        )
    base = base_model or base_on_hub(results)
    if base is None:
        below = results.recipe.get("merge_first")
        raise UsageError(
            f"--base-model is missing: {run} was trained on "
            + (
                f"weights with the adapter {below} merged in; publish those (`flextune merge {below}`) and give their "
                "name on the Hub"
                if below
                else f"{results.recipe['model']}, which is no name on the Hub; give the one that others find it by"
            )
        )
    config = {**read_json(adapter / CONFIG), "base_model_name_or_path": base}
    files: dict[str, bytes | Path] = {
        "README.md": card(run, repo=repo, license=license, base_model=base_model).encode(),
        CONFIG: (json.dumps(config, indent=2, sort_keys=True) + "\n").encode(),
        WEIGHTS: adapter / WEIGHTS,
    }
    return _upload(files, repo, base, private)


def _upload(files: dict[str, bytes | Path], repo: str, base: str, private: bool) -> str:
    if not hub.online():
        raise FlextuneError(f"{repo}: the Hub cannot be reached, nothing was published; call it again with a network")
    from huggingface_hub import CommitOperationAdd, HfApi, ModelCard, get_token

    if get_token() is None:
        raise FlextuneError(f"{repo}: nobody is logged in to the Hub here: run `hf auth login`, or set HF_TOKEN")
    api = HfApi()
    content = files["README.md"]
    assert isinstance(content, bytes)
    with _explained("logging in to the Hub", "run `hf auth login`, or set HF_TOKEN to a token that may write"):
        api.whoami()
    with _explained(f"--base-model {base}", "give the name of a model on the Hub that you can read"):
        api.model_info(base)
    with _explained(f"{repo}: the card", "mend what the Hub says of it, such as another --license"):
        ModelCard(content.decode()).validate()
    with _explained(repo, "nothing was published; the same command tries again"):
        made = api.create_repo(repo, private=private or None, exist_ok=True)
        if private and not api.model_info(repo).private:
            raise UsageError(
                f"--private: {repo} is there and public; make it private on the Hub, or leave --private out"
            )
        operations = [CommitOperationAdd(path_in_repo=name, path_or_fileobj=file) for name, file in files.items()]
        api.create_commit(repo, operations, commit_message="Adapter and model card")
    return str(made)


def _check_name(argument: str, name: str, form: str, expected: str) -> None:
    from huggingface_hub.errors import HFValidationError
    from huggingface_hub.utils import validate_repo_id  # type: ignore[attr-defined]  # public by its documentation

    try:
        validate_repo_id(name)
    except HFValidationError as error:
        raise UsageError(f"{argument} = {name!r} is no name on the Hub: {error}") from None
    if not re.fullmatch(form, name):
        raise UsageError(f"{argument} = {name!r}: expected {expected}")


@contextmanager
def _explained(what: str, do: str) -> Iterator[None]:
    """What goes wrong on the Hub as one sentence."""
    try:
        yield
    except FlextuneError:
        raise
    except Exception as error:  # huggingface_hub, httpx, OSErrors and the uploader's RuntimeErrors alike
        raise FlextuneError(f"{what}: {hub.reason(error)}; {do}") from None
