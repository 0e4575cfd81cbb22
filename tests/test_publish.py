"""Adapters on the Hub, seen by a server on this machine that answers as the Hub does."""

import base64
import json
import threading
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer

import pytest
import torch
import yaml
from huggingface_hub import ModelCard, constants
from made_run import make_run
from peft import LoraConfig, get_peft_model
from transformers import AutoModelForCausalLM

from flextune import hub
from flextune.errors import UsageError
from flextune.files import read_json, sha256, write_json
from flextune.publish import push
from flextune.report.card import write_card


class Hub(BaseHTTPRequestHandler):
    """Keeps what it was asked; `answers` has a status and content where it is not to agree."""

    def do_GET(self):
        self.answer(self.path, None)

    def do_POST(self):
        body = self.rfile.read(int(self.headers["Content-Length"]))
        lines = [json.loads(line) for line in body.splitlines() if line.strip()]
        self.answer(self.path, lines if self.path.endswith("/commit/main") else lines[0])

    def answer(self, path, body):
        self.server.asked.append((path, body))
        status, content = self.server.answers.get(path, (200, None))
        if content is None:
            content = {
                "url": "https://huggingface.co/me/tuned",
                "id": path.removeprefix("/api/models/"),
                "private": False,
            }
            if path.endswith("/preupload/main"):
                names = [file["path"] for file in body["files"]]
                content = {"files": [{"path": n, "uploadMode": "regular", "shouldIgnore": False} for n in names]}
            elif path.endswith("/commit/main"):
                content |= {"commitUrl": "https://huggingface.co/me/tuned/commit/1", "commitOid": "1"}
        data = json.dumps(content).encode()
        self.send_response(status)
        self.send_header("Content-Type", "application/json")
        self.send_header("Content-Length", str(len(data)))
        self.end_headers()
        self.wfile.write(data)

    def log_message(self, *arguments):
        pass


@pytest.fixture
def server(monkeypatch, tmp_path):
    server = ThreadingHTTPServer(("127.0.0.1", 0), Hub)
    server.asked, server.answers = [], {}
    thread = threading.Thread(target=server.serve_forever)
    thread.start()
    address = f"http://127.0.0.1:{server.server_port}"
    for name, value in (("HF_ENDPOINT", address), ("HF_TOKEN", "hf_test"), ("NO_PROXY", "*"), ("HF_HUB_OFFLINE", "0")):
        monkeypatch.setenv(name, value)
    monkeypatch.setattr(constants, "ENDPOINT", address)
    monkeypatch.setattr(constants, "HF_HUB_OFFLINE", False)
    monkeypatch.setattr(constants, "HF_TOKEN_PATH", str(tmp_path / "no-token"))
    hub.online.cache_clear()
    yield server
    server.shutdown()
    server.server_close()
    thread.join()
    hub.online.cache_clear()


@pytest.fixture(scope="module")
def trained(tiny_model, tmp_path_factory):
    """A measured run with an adapter of PEFT's own making, and things beside it that are nobody's business."""
    run = make_run(tmp_path_factory.mktemp("trained") / "run")
    torch.manual_seed(1)
    lora = LoraConfig(r=2, target_modules=["up_proj"], init_lora_weights=False)
    get_peft_model(AutoModelForCausalLM.from_pretrained(tiny_model), lora).save_pretrained(run.adapter)
    for name in ("optimizer.pt", "training_args.bin", "notes.txt"):
        (run.adapter / name).write_text("private")
    write_card(run.path)
    return run


@pytest.fixture
def run(trained, tmp_path):
    """A copy of its recipe and record that a test may change."""

    def run(**keys):
        recipe = yaml.safe_load(trained.recipe.read_text())
        recipe["merge_first"] = keys.get("merge_first")
        recipe["evaluation"]["adapter"] = keys.get("adapter")
        trained.recipe.write_text(yaml.safe_dump(recipe, sort_keys=False))
        record = read_json(trained.provenance)
        record["inputs"]["model"] = keys.get("model", {"folder": "m"})
        write_json(trained.provenance, record)
        return trained

    return run


def paths(server):
    return [path for path, _ in server.asked]


def committed(server):
    (lines,) = [body for path, body in server.asked if path.endswith("/commit/main")]
    files = [line["value"] for line in lines if line["key"] == "file"]
    assert {line["key"] for line in lines} == {"header", "file"}
    return {file["path"]: base64.b64decode(file["content"]) for file in files}


def test_the_hub_gets_the_adapter_and_its_card_and_nothing_else(server, run, call, monkeypatch, tiny_model):
    monkeypatch.setenv("HF_HUB_OFFLINE", "0")  # which `call` has set
    done = run()
    before = {path: sha256(path) for path in done.path.rglob("*") if path.is_file()}
    code, out, err = call("push", done.path, "me/tuned", "--license", "apache-2.0", "--base-model", "org/base")
    assert code == 0, err
    assert out == f"Published: {constants.ENDPOINT}/me/tuned\n"
    files = committed(server)
    assert set(files) == {"README.md", "adapter_config.json", "adapter_model.safetensors"}
    assert files["adapter_model.safetensors"] == (done.adapter / "adapter_model.safetensors").read_bytes()
    config = read_json(done.adapter / "adapter_config.json")
    assert config["base_model_name_or_path"] == str(tiny_model)
    assert json.loads(files["adapter_config.json"]) == config | {"base_model_name_or_path": "org/base"}
    assert not any(str(tiny_model.parent).encode() in content for content in files.values())
    card = ModelCard(files["README.md"].decode())
    assert (card.data.license, card.data.base_model, card.data.model_name) == ("apache-2.0", "org/base", "tuned")
    assert 'adapter = "me/tuned"' in card.text
    assert {path: sha256(path) for path in done.path.rglob("*") if path.is_file()} == before
    made = next(body for path, body in server.asked if path == "/api/repos/create")
    assert (made["name"], made["organization"], "visibility" in made) == ("tuned", "me", False)
    assert paths(server).index("/api/validate-yaml") < paths(server).index("/api/repos/create")


def test_a_model_of_the_hub_needs_no_name(server, run):
    push(run(model={"hub": "org/known", "revision": "abc"}).path, "me/tuned", license="mit")
    files = committed(server)
    assert ModelCard(files["README.md"].decode()).data.base_model == "org/known"
    assert json.loads(files["adapter_config.json"])["base_model_name_or_path"] == "org/known"


@pytest.mark.parametrize(
    ("options", "keys", "message"),
    [
        ({"license": None}, {}, "--license is missing: without a licence nobody may use .* such as --license apache-2"),
        ({"license": "Apache 2"}, {}, "--license 'Apache 2'.* such as --license apache-2.0"),
        ({"repo": "tuned"}, {}, "REPO = 'tuned': expected user/name"),
        ({"repo": "a/b/c"}, {}, "REPO = 'a/b/c' is no name on the Hub"),
        ({"base_model": "/a/folder"}, {}, "--base-model = '/a/folder' is no name on the Hub"),
        ({"base_model": None}, {}, "--base-model is missing: .* trained on m, which is no name on the Hub"),
        (
            {"base_model": None},
            {"model": {"hub": "org/known"}, "merge_first": "runs/one"},
            "--base-model is missing: .* the adapter runs/one merged in; publish those .`flextune merge runs/one`",
        ),
    ],
)
def test_what_is_missing_is_said_before_anything_is_sent(server, run, options, keys, message):
    given = {"repo": "me/tuned", "license": "mit", "base_model": "org/base"} | options
    with pytest.raises(UsageError, match=message):
        push(run(**keys).path, **given)
    assert server.asked == []


def test_a_run_without_an_adapter_has_nothing_to_publish(server, tmp_path):
    done = make_run(tmp_path, ("base",), training=False)
    with pytest.raises(UsageError, match=r"has no adapter/adapter_config\.json: train it with `flextune run`"):
        push(done.path, "me/tuned", license="mit", base_model="org/base")
    recipe = yaml.safe_load(done.recipe.read_text())
    recipe["evaluation"]["adapter"] = "runs/other"
    done.recipe.write_text(yaml.safe_dump(recipe))
    with pytest.raises(UsageError, match="it measured runs/other; push the run that trained it"):
        push(done.path, "me/tuned", license="mit", base_model="org/base")
    with pytest.raises(UsageError, match="is not a run directory"):
        push(tmp_path / "none", "me/tuned", license="mit", base_model="org/base")
    assert server.asked == []


def refused(call, monkeypatch, done, *options):
    monkeypatch.setenv("HF_HUB_OFFLINE", "0")
    code, out, err = call("push", done.path, "me/tuned", "--license", "mit", "--base-model", "org/base", *options)
    assert (code in (1, 2), out, err.count("\n")) == (True, "", 1), err
    return err


def test_nobody_logged_in(server, run, call, monkeypatch):
    monkeypatch.delenv("HF_TOKEN")
    assert "nobody is logged in to the Hub here: run `hf auth login`" in refused(call, monkeypatch, run())
    assert server.asked == []
    monkeypatch.setenv("HF_TOKEN", "hf_wrong")
    server.answers["/api/whoami-v2"] = (401, {"error": "Invalid username or password."})
    assert "run `hf auth login`, or set HF_TOKEN" in refused(call, monkeypatch, run())
    assert paths(server) == ["/api/whoami-v2"]


def test_the_network_is_cut(server, run, call, monkeypatch):
    monkeypatch.setenv("HF_ENDPOINT", "http://127.0.0.1:9")
    error = refused(call, monkeypatch, run())
    assert (
        error == "flextune: me/tuned: the Hub cannot be reached, nothing was published; call it again with a network\n"
    )
    assert server.asked == []


@pytest.mark.parametrize(
    ("path", "status", "content", "message"),
    [
        ("/api/models/org/base", 404, {"error": "Repository not found"}, "--base-model org/base: "),
        ("/api/validate-yaml", 400, {"errors": [{"message": '"license" must be one of'}]}, '"license" must be one of'),
        ("/api/repos/create", 403, {"error": "You don't have the rights"}, "You don't have the rights"),
        ("/api/models/me/tuned/preupload/main", 403, {"error": "read-only token"}, "read-only token"),
    ],
)
def test_what_the_hub_refuses_is_not_published(server, run, call, monkeypatch, path, status, content, message):
    server.answers["/api/models/me/tuned"] = (404, {"error": "not there yet"})
    server.answers[path] = (status, content)
    assert message in refused(call, monkeypatch, run()).replace("\\", "")
    assert path in paths(server)
    assert ("/api/repos/create" in paths(server)) == ("me/tuned" in path or "create" in path)
    assert not any(path.endswith("/commit/main") for path in paths(server))


def test_what_is_to_be_private_is_not_put_where_it_is_public(server, run, call, monkeypatch):
    assert "--private: me/tuned is there and public" in refused(call, monkeypatch, run(), "--private")
    assert not any("commit" in path for path in paths(server))
    server.answers["/api/models/me/tuned"] = (200, {"id": "me/tuned", "private": True})
    push(run().path, "me/tuned", license="mit", base_model="org/base", private=True)
    assert len(committed(server)) == 3
    assert {body["visibility"] for path, body in server.asked if path == "/api/repos/create"} == {"private"}
