"""Graphs that were saved before go on working: what they lack has the schema's default, and what they have is taken."""

import asyncio
import inspect
import json
from types import SimpleNamespace

import execution
import pytest
from comfy_api.latest import io

import nodes as host_nodes
from concept_erasure.erasure.artifact import ErasureError
from concept_erasure.nodes import dictionaries, files
from concept_erasure.nodes.instant import ErasureText
from concept_erasure.nodes.types import ABILITIES, telling
from concept_erasure.nodes.use import ErasureApply
from scripts.client import WIDGET_TYPES, gui_to_api
from tests.host import test_schema

OLD = test_schema.REPO / "tests" / "data" / "0.1.0"
OLD_NODES = json.loads((OLD / "nodes.json").read_text(encoding="utf-8"))
PROMPTS = sorted((OLD / "api").glob("*.json"))
WORKFLOWS = sorted((OLD / "workflows").glob("*.json"))
NODES = {node.__name__: node for node in test_schema.nodes()}
SOCKET = ["0", 0]


class Anything:
    """A node of somebody else, whose outputs fit every socket."""

    RETURN_TYPES = ("*",) * 8

    @classmethod
    def INPUT_TYPES(cls):
        return {"required": {}}


@pytest.fixture(autouse=True)
def host(output, monkeypatch):
    """The host knows our nodes, and finds the files that graphs load."""
    for kind in (files.KIND, dictionaries.KIND, "loras"):
        monkeypatch.setitem(files.folder_paths.folder_names_and_paths, kind, ([str(output / kind)], {files.FILE}))
        (output / kind).mkdir(parents=True)
        (output / kind / "circle.safetensors").touch()
    monkeypatch.setattr(host_nodes, "NODE_CLASS_MAPPINGS", {**NODES, "Anything": Anything})


def inputs_of(name: str) -> list[io.Input]:
    return NODES[name].define_schema().inputs


def defaults_of(name: str) -> dict:
    return {i.id: i.default for i in inputs_of(name) if getattr(i, "default", None) is not None}


def filled(name: str) -> dict:
    """Every input of a node, as an API prompt has it."""
    given = defaults_of(name)
    for one in inputs_of(name):
        if isinstance(one, io.Autogrow.Input):
            given |= {f"{one.id}.{one.template.prefix}{i}": SOCKET for i in range(one.template.min)}
        elif one.id not in given:
            given[one.id] = one.options[0] if isinstance(one, io.Combo.Input) else SOCKET
    return given | {name: "circle" for name in ("concept", "concepts", "erase") if name in given}


def refusals(prompt: dict, number: str) -> list:
    """What the host has against a node of a prompt."""
    return asyncio.run(execution.validate_inputs("", prompt, number, {}))[1]


def refused(name: str, inputs: dict) -> list[str]:
    """The same for a node by itself, as 'message: input'."""
    prompt = {"0": {"class_type": "Anything", "inputs": {}}, "1": {"class_type": name, "inputs": dict(inputs)}}
    return [f"{error['message']}: {error['details']}" for error in refusals(prompt, "1")]


def received(name: str, inputs: dict) -> dict:
    """What ``execute`` gets when the host runs a node with some inputs of a prompt."""
    seen = {}

    def execute(cls, **given) -> io.NodeOutput:
        seen.update(given)
        return io.NodeOutput()

    probe = type(name, (NODES[name],), {"execute": classmethod(telling(execute))})
    linked = SimpleNamespace(**dict.fromkeys(ABILITIES.values()))
    values = {key: linked if value == SOCKET else value for key, value in inputs.items()}
    taken, _, v3 = execution.get_input_data(values, probe, "1")
    asyncio.run(execution._async_map_node_over_list("", "1", probe, taken, probe.FUNCTION, v3_data=v3))
    return seen


@pytest.mark.parametrize("name", NODES)
def test_each_input_with_a_default_may_be_missing_and_is_the_default_then(name):
    whole, defaults = filled(name), defaults_of(name)
    assert refused(name, whole) == []
    for missing in defaults:
        rest = {key: value for key, value in whole.items() if key != missing}
        assert refused(name, rest) == []
        # every other default is given another value, so that only the missing one can have come from the schema
        others = {key: f"given {key}" if key in defaults else value for key, value in rest.items()}
        got = received(name, others)
        assert got[missing] == defaults[missing] and type(got[missing]) is type(defaults[missing])
        assert {key: got[key] for key in defaults if key != missing} == {
            key: f"given {key}" for key in defaults if key != missing
        }


@pytest.mark.parametrize("name", NODES)
def test_all_inputs_with_a_default_may_be_missing_at_once(name):
    rest = {key: value for key, value in filled(name).items() if key not in defaults_of(name)}
    assert refused(name, rest) == []
    got = received(name, rest)
    assert {key: got[key] for key in defaults_of(name)} == defaults_of(name)


@pytest.mark.parametrize("name", NODES)
def test_necessary_sockets_and_files_stay_required(name):
    whole = filled(name)
    needed = [i.id for i in inputs_of(name) if not i.optional]
    assert (needed or name == "ErasureTrainingSettings") and not set(needed) & set(defaults_of(name))
    for missing in needed:
        rest = {key: value for key, value in whole.items() if key.split(".")[0] != missing}
        assert any(text.startswith("Required input is missing") for text in refused(name, rest)), missing


@pytest.mark.parametrize("name", NODES)
def test_execute_takes_every_input_and_has_no_defaults_of_its_own(name):
    """The schema is where a default stands; a socket that is not connected is None."""
    signature = inspect.signature(NODES[name].execute)
    signature.bind(**dict.fromkeys(i.id for i in inputs_of(name)))
    own = {p.name: p.default for p in signature.parameters.values() if p.default is not p.empty}
    assert set(own.values()) <= {None}


def test_an_input_may_be_missing_when_a_node_is_called_directly(model, clip):
    whole = ErasureText.execute(model, clip, "circle", 1.0, "nearest neighbour", "", "square\nred")
    short = ErasureText.execute(model, clip, "circle", preserve="square\nred")
    assert short.ui.as_dict() == whole.ui.as_dict()
    with pytest.raises(ErasureError, match="The concept is empty"):
        ErasureText.execute(model, clip)
    with pytest.raises(TypeError, match="'erasure'"):
        ErasureApply.execute(model)


# ---------------------------------------------------------------- what is refused before anything runs


@pytest.mark.parametrize(
    ("name", "changes", "words"),
    [
        *(
            (name, {"concept": "  "}, "The concept is empty")
            for name in ("ErasureText", "ErasureLearn", "ErasureTrain")
        ),
        ("ErasureText", {"concept": "file: nowhere.txt"}, "The file 'nowhere.txt' cannot be read"),
        ("ErasureInstant", {"concepts": "# circle"}, "The concept is empty"),
        ("ErasureStressTest", {"concept": ""}, "The concept is empty"),
        ("ErasureReport", {"erase": ""}, "There are no prompts"),
        ("ErasureCompare", {"erase": ""}, "There are no prompts"),
        ("ErasureFindStrength", {"erase": "", "keep": "# later"}, "There are no prompts"),
        ("ErasureLoad", {"file": "cirkle"}, "Did you mean 'circle.safetensors'?"),
    ],
)
def test_what_is_wrong_with_a_text_is_said_before_anything_runs(name, changes, words):
    found = refused(name, filled(name) | changes)
    assert found and all(words in text for text in found)
    assert len(found) == 1 or {text.split(": ")[1].split(" - ")[0] for text in found} == {"erase", "keep"}


def test_texts_that_come_by_a_link_or_are_switched_off_are_not_refused():
    assert refused("ErasureText", filled("ErasureText") | {"concept": SOCKET}) == []
    assert refused("ErasureText", filled("ErasureText") | {"concept": "#off circle"}) == []


# ---------------------------------------------------------------- what is there and not known


def test_a_value_for_an_input_that_does_not_exist_is_passed_over():
    inputs = {**filled("ErasureApply"), "no_such_thing": 3}
    assert refused("ErasureApply", inputs) == [] and "no_such_thing" not in received("ErasureApply", inputs)


def test_a_link_to_an_input_that_does_not_exist_is_refused_in_a_sentence(model, gated):
    """The host hands links on whatever they are called."""
    with pytest.raises(ErasureError, match=r"^Apply Erasure has no input 'mask'.*update.*\.$"):
        ErasureApply.execute(model=model, erasure=gated, mask="linked")


# ---------------------------------------------------------------- 0.1.0


def foreign_as_anything(prompt: dict) -> dict:
    """A prompt in which all nodes but ours are stand-ins."""
    ours = {number for number, node in prompt.items() if node["class_type"] in NODES}
    return {
        number: node if number in ours else {"class_type": "Anything", "inputs": {}} for number, node in prompt.items()
    }


@pytest.mark.parametrize("path", PROMPTS, ids=lambda path: path.stem)
def test_a_prompt_of_0_1_0_is_taken(path):
    prompt = foreign_as_anything(json.loads(path.read_text(encoding="utf-8")))
    for number, node in prompt.items():
        assert refusals(prompt, number) == [], node["class_type"]


@pytest.mark.parametrize("path", WORKFLOWS, ids=lambda path: path.stem)
def test_every_value_of_a_workflow_of_0_1_0_is_still_on_its_widget(path):
    """A file has values by position alone; its twin for the API, written then, has them by name."""
    workflow = json.loads(path.read_text(encoding="utf-8"))
    workflow["nodes"] = [node for node in workflow["nodes"] if node["type"] in NODES]
    info = {name: node.GET_NODE_INFO_V1() for name, node in NODES.items()}
    twin = json.loads((OLD / "api" / path.name).read_text(encoding="utf-8"))
    for number, node in gui_to_api(workflow, info).items():
        was, now = values_in(twin[number]), values_in(node)
        added = {key: value for key, value in defaults_of(node["class_type"]).items() if key in set(now) - set(was)}
        assert now == {**was, **added}, node["class_type"]


def values_in(node: dict) -> dict:
    """The inputs of a node of a prompt that are no links."""
    return {key: value for key, value in node["inputs"].items() if not isinstance(value, list)}


def in_order(info: dict) -> dict:
    """A node's inputs as the editor shows them: what is required comes first."""
    return {**info["input"]["required"], **info["input"].get("optional", {})}


@pytest.mark.parametrize("name", OLD_NODES)
@pytest.mark.parametrize("widgets", [True, False], ids=["widgets", "sockets"])
def test_what_a_node_of_0_1_0_had_is_where_it_was(name, widgets):
    """The editor saves widgets by position, and new ones come behind."""
    old, now = (
        [key for key, (kind, _) in in_order(info).items() if (kind in WIDGET_TYPES) == widgets]
        for info in (OLD_NODES[name], NODES[name].GET_NODE_INFO_V1())
    )
    assert now[: len(old)] == old


@pytest.mark.parametrize("name", OLD_NODES)
def test_every_value_that_0_1_0_took_is_taken(name):
    """No range is narrower, no choice is gone, and no output."""
    info = NODES[name].GET_NODE_INFO_V1()
    assert info["output"][: len(OLD_NODES[name]["output"])] == OLD_NODES[name]["output"]
    for key, (kind, old) in in_order(OLD_NODES[name]).items():
        now, new = in_order(info)[key]
        was, has = old.get("template", old), new.get("template", new)
        assert now == kind and was.get("prefix") == has.get("prefix"), key
        assert set(old.get("options", [])) <= set(new.get("options", [])), key
        if "min" in was:
            assert has["min"] <= was["min"] and was["max"] <= has["max"], key
