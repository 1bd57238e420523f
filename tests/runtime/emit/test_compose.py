"""What is emitted for Docker Compose: by its published schema, and by starting what its services would."""

from __future__ import annotations

import json
import re
import shutil

import numpy as np
import pytest
import yaml

pytest.importorskip("zenoh")
pytest.importorskip("aiohttp")
pytest.importorskip("onnxruntime")

from edgevit.pruning.split import read_split
from edgevit.runtime.emit.compose import project_name
from edgevit.runtime.keys import make_authority, make_device
from tests.runtime.conftest import images
from tests.runtime.emit.served import ANY, free_ports, infer, started

OPTIONS = {"image": "registry.example/edgevit:1", "http": 8123}
NAMES = ["w-1", "w-2", "w-3", "coordinator"]


def document(folder):
    return yaml.safe_load((folder / "compose.yaml").read_text())


def on_this_machine(folder, services, tmp_path):
    """The words of each service, with addresses and folders that this machine has."""
    ports = dict(zip(NAMES, map(str, free_ports(len(NAMES))), strict=True))
    (http,) = map(str, free_ports(1))

    def replaced(name, word):
        word = {ANY: "127.0.0.1", "8123": http, "/keys": str(folder / "keys" / name)}.get(word, word)
        word = word.replace(f"{ANY}:7447", f"127.0.0.1:{ports[name]}")
        word = re.sub(r"^([\w-]+):7447$", lambda found: f"127.0.0.1:{ports[found[1]]}", word)
        word = word.replace("/plan/", f"{folder}/plan/")
        return str(tmp_path / name) if word == "/cache" else word

    words = {name: [replaced(name, word) for word in each["command"]] for name, each in services.items()}
    return {name: each[1:] for name, each in words.items()}, int(http)


@pytest.mark.skipif(shutil.which("openssl") is None, reason="openssl, which makes keys, is not installed")
def test_what_its_services_start_answers_over_tls(make_plan, emitted, tiny_program, tmp_path):
    folder = emitted(make_plan("pipeline"), "compose", **OPTIONS)
    services = document(folder)["services"]
    assert [*services] == NAMES
    make_authority(tmp_path / "authority")
    for name in NAMES:
        assert f"./keys/{name}:/keys:ro" in services[name]["volumes"]
        make_device(name, tmp_path / "authority", folder / "keys" / name)
    words, port = on_this_machine(folder, services, tmp_path)
    *workers, serve = words.values()
    # Nothing may be exported there: the folder is mounted read-only, and holds all that is needed.
    before = sorted(path for path in (folder / "plan").rglob("*"))
    with started(workers, serve):
        for image in images(3):
            np.testing.assert_allclose(infer(port, "tiny", image), tiny_program.run(image)[0], atol=1e-5)
    assert sorted(path for path in (folder / "plan").rglob("*")) == before


@pytest.mark.slow
def test_an_ensemble_is_started_without_keys(ensemble, emitted, tmp_path):
    folder = emitted(ensemble, "compose", insecure=True, name="patterns", **OPTIONS)
    services = document(folder)["services"]
    assert not any("/keys" in str(service["volumes"]) for service in services.values())
    words, port = on_this_machine(folder, services, tmp_path)
    *workers, serve = words.values()
    split = read_split(ensemble.parent / "split")
    with started(workers, serve):
        for image in images(3, (1, *split.parts[0].input_shape[1:])):
            np.testing.assert_allclose(infer(port, "patterns", image), split.predict(image), atol=1e-4)


def test_services_have_no_more_rights_than_they_need_and_are_told_apart(make_plan, emitted):
    found = document(emitted(make_plan("pipeline"), "compose", **OPTIONS))
    for name, service in found["services"].items():
        assert service["image"] == OPTIONS["image"]
        assert service["cap_drop"] == ["ALL"]
        assert service["read_only"] is True
        assert service["restart"] == "unless-stopped"
        assert service["networks"] == [*found["networks"]]
        kind, program, flag, code = service["healthcheck"]["test"]
        assert (kind, program, flag) == ("CMD", "python", "-c")
        compile(code, name, "exec")
    named = [volume.split(":")[0] for each in found["services"].values() for volume in each["volumes"]]
    assert {volume for volume in named if not volume.startswith("./")} == {*found["volumes"]}
    # Clients come in on the host alone.
    assert found["services"]["coordinator"]["ports"] == ["127.0.0.1:8123:8123"]


@pytest.mark.parametrize(("name", "project"), [("tiny", "tiny"), ("ViT.b_16", "vit-b_16")])
def test_a_project_is_called_as_compose_allows(name, project):
    assert project_name(name) == project


@pytest.mark.parametrize("mode", ["single", "replicas", "pipeline", "ensemble"])
def test_it_is_valid_by_the_published_schema(mode, request, make_plan, emitted, published):
    jsonschema = pytest.importorskip("jsonschema")
    path = request.getfixturevalue(mode) if mode == "ensemble" else make_plan(mode)
    options = OPTIONS | ({"insecure": True, "name": "patterns"} if mode == "ensemble" else {})
    schema = json.loads((published / "compose-spec.json").read_text())
    check = jsonschema.Draft7Validator(schema)
    found = document(emitted(path, "compose", **options))
    check.validate(found)
    found["services"]["coordinator"]["unheard"] = 1
    assert not check.is_valid(found)
