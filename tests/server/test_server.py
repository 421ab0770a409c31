"""The pack in a real server, over HTTP."""

import io
import json
import urllib.error
import urllib.request
from datetime import datetime
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from concept_erasure.erasure.files import load_erasure
from scripts import make_workflows
from scripts.client import ClientError, gui_to_api
from scripts.server import get_json
from tests.server.graphs import as_saved, node, picture, pixels, train

REPO = Path(__file__).resolve().parents[2]
SCHEMA = json.loads((REPO / "tests" / "host" / "schema.json").read_text())
WORKFLOWS = sorted((REPO / "workflows").glob("*.json"))


@pytest.fixture
def erasures(server):
    """The files in output/erasures, now."""
    return lambda: sorted((server.base / "output" / "erasures").glob("*.safetensors"))


def changed(before: np.ndarray, after: np.ndarray) -> bool:
    return not np.array_equal(before, after)


def test_the_server_has_our_nodes_and_loaded_without_complaint(server, info):
    assert set(SCHEMA) <= set(info)
    log = server.log.read_text(errors="replace")
    assert "IMPORT FAILED" not in log and "Cannot import" not in log


def test_learn_apply_recover_draw_and_save_in_one_graph(client, info, erasures):
    strong = {"weight_lr": 0.05, "prompt_lr": 0.3}
    base = pixels(client, picture(info, ["1", 0]))
    graph = picture(info, ["3", 0]) | {
        "2": train(info, **strong),
        "3": node(info, "ErasureApply", model=["1", 0], erasure=["2", 0]),
        "4": node(info, "ErasureSave", erasure=["2", 0], filename_prefix="erasures/graph"),
    }
    erased = pixels(client, graph)
    assert base.shape == (64, 64, 3) and changed(base, erased)
    recover = node(info, "ErasureRecover", model=["3", 0], erasure=["2", 0])
    recovered = pixels(client, graph | {"5": recover} | {"14": picture(info, ["5", 0])["14"]})
    assert changed(erased, recovered)
    [file] = [p for p in erasures() if p.name.startswith("graph")]
    assert load_erasure(file).metadata.concept == "circle"
    # What was saved can be chosen without a restart, and does the same.
    fresh = client.object_info()
    assert file.name in str(fresh["ErasureLoad"]["input"]["required"]["file"])
    loaded = picture(fresh, ["3", 0]) | {
        "2": node(fresh, "ErasureLoad", file=file.name),
        "3": node(fresh, "ErasureApply", model=["1", 0], erasure=["2", 0]),
    }
    assert np.array_equal(pixels(client, loaded), erased)
    # And the base model is what it was.
    assert np.array_equal(pixels(client, picture(info, ["1", 0])), base)


def test_a_control_branch_is_learned_saved_and_drawn_with(client, info, erasures):
    """The host holds its network beside the model's; prompts that do not say the concept give the very same pixels."""
    erased = {
        "2": train(info, method="dumo", weight_lr=0.01),
        "3": node(info, "ErasureApply", model=["1", 0], erasure=["2", 0]),
        "4": node(info, "ErasureSave", erasure=["2", 0], filename_prefix="erasures/branch"),
    }
    drawn = {text: pixels(client, picture(info, ["3", 0], text) | erased) for text in ("a red circle", "a blue star")}
    assert changed(pixels(client, picture(info, ["1", 0], "a red circle")), drawn["a red circle"])
    assert np.array_equal(pixels(client, picture(info, ["1", 0], "a blue star")), drawn["a blue star"])
    [file] = [p for p in erasures() if p.name.startswith("branch")]
    loaded = erased | {"2": node(client.object_info(), "ErasureLoad", file=file.name)}
    del loaded["4"]
    assert not changed(pixels(client, picture(info, ["3", 0], "a red circle") | loaded), drawn["a red circle"])


@pytest.mark.parametrize("how", ["strength 0", "bypassed"])
def test_switched_off_gives_the_very_pixels_of_the_base_model(client, info, how):
    graph = picture(info, ["3", 0]) | {
        "2": train(info, weight_lr=0.05),
        "3": node(info, "ErasureApply", model=["1", 0], erasure=["2", 0], strength=0.0 if how == "strength 0" else 1.0),
    }
    saved = as_saved(graph, info, {"3": 4} if how == "bypassed" else {})
    prompt = gui_to_api(saved, info)
    assert ("3" in prompt) == (how == "strength 0")
    assert np.array_equal(pixels(client, prompt), pixels(client, picture(info, ["1", 0])))


def test_a_saved_graph_converts_to_the_prompt_it_came_from(info):
    graph = picture(info, ["3", 0]) | {
        "2": train(info),
        "3": node(info, "ErasureApply", model=["1", 0], erasure=["2", 0]),
    }
    converted = gui_to_api(as_saved(graph, info), info)
    assert {k: v["inputs"] for k, v in converted.items()} == {k: v["inputs"] for k, v in graph.items()}


@pytest.mark.parametrize(
    ("changes", "words"),
    [
        ({"target": "anchor"}, "the anchor is empty"),
        ({"concept": "circle -> circle"}, "The target 'circle' is the concept itself"),
    ],
)
def test_bad_input_arrives_as_a_sentence(client, info, changes, words):
    graph = {
        "1": node(info, "CheckpointLoaderSimple", ckpt_name="toyworld.safetensors"),
        "2": train(info, **changes),
        "3": node(info, "ErasureSave", erasure=["2", 0], filename_prefix="erasures/bad"),
    }
    with pytest.raises(ClientError) as caught:
        client.wait(client.queue(graph), timeout=300)
    message = str(caught.value)
    assert message.startswith("Node 2 (ErasureTrain) failed: ") and words in message and message.endswith(".")


def test_a_damaged_file_arrives_as_a_sentence(client, server):
    folder = server.base / "models" / "erasures"
    folder.mkdir(parents=True, exist_ok=True)
    (folder / "broken.safetensors").write_bytes(b"no such thing")
    info = client.object_info()
    graph = {
        "2": node(info, "ErasureLoad", file="broken.safetensors"),
        "3": node(info, "ErasureSave", erasure=["2", 0], filename_prefix="erasures/bad"),
    }
    with pytest.raises(ClientError, match="'broken.safetensors' is damaged"):
        client.wait(client.queue(graph), timeout=300)


def test_an_interrupt_keeps_the_partial_erasure_and_the_server_goes_on(client, info, erasures):
    before = set(erasures())
    graph = {
        "1": node(info, "CheckpointLoaderSimple", ckpt_name="toyworld.safetensors"),
        "2": train(info, steps=100000, seed=9),
        "3": node(info, "ErasureSave", erasure=["2", 0], filename_prefix="erasures/never"),
    }
    pressed = []

    def press(message):
        if message["type"] == "progress" and message["data"]["value"] >= 250 and not pressed:
            pressed.append(message)
            client.interrupt()

    with pytest.raises(ClientError, match=r"interrupted at node 2 \(ErasureTrain\)"):
        client.wait(client.queue(graph), press, timeout=300)
    [partial] = set(erasures()) - before
    assert "interrupted" in partial.name
    kept = load_erasure(partial)
    assert int(kept.metadata.steps) >= 1
    fresh = client.object_info()
    resumed = picture(fresh, ["3", 0]) | {
        "2": node(fresh, "ErasureLoad", file=partial.name),
        "4": train(fresh, resume=["2", 0]),
        "3": node(fresh, "ErasureApply", model=["1", 0], erasure=["4", 0]),
        "5": node(fresh, "ErasureSave", erasure=["4", 0], filename_prefix="erasures/resumed"),
    }
    pixels(client, resumed)
    [file] = [p for p in erasures() if p.name.startswith("resumed")]
    assert int(load_erasure(file).metadata.steps) == int(kept.metadata.steps) + 3


def test_losses_go_to_the_stock_plot_node(client, info):
    graph = {
        "1": node(info, "CheckpointLoaderSimple", ckpt_name="toyworld.safetensors"),
        "2": train(info),
        "3": node(info, "LossGraphNode", loss=["2", 1], filename_prefix="loss"),
    }
    assert client.wait(client.queue(graph), timeout=300)["status"]["status_str"] == "success"


# ---------------------------------------------------------------- what the pack brings along


def test_a_workflow_opens(info):
    for path in WORKFLOWS:
        prompt = gui_to_api(json.loads(path.read_text()), info)
        assert prompt
        for key, entry in prompt.items():
            declared = info[entry["class_type"]]["input"]
            known = {**declared.get("required", {}), **declared.get("optional", {})}
            # Inputs that grow carry a dot: "group.name".
            assert {n.split(".")[0] for n in entry["inputs"]} <= set(known), (path.stem, key, entry["class_type"])
            assert set(declared.get("required", {})) <= set(entry["inputs"]), (path.stem, key, entry["class_type"])


def test_the_template_browser_lists_the_workflows(server):
    listed = get_json(server.address + "/workflow_templates")
    assert set(listed["concept-erasure"]) == {p.stem for p in WORKFLOWS}


def test_the_help_pages_are_served(server):
    opener = urllib.request.build_opener(urllib.request.ProxyHandler({}))
    for node_id in SCHEMA:
        try:
            with opener.open(f"{server.address}/extensions/concept-erasure/docs/{node_id}.md") as answer:
                assert answer.read().strip()
        except urllib.error.HTTPError as error:
            pytest.fail(f"{node_id}: {error}")


# ---------------------------------------------------------------- closed form


def test_typing_a_concept_erases_it(client, info):
    base = pixels(client, picture(info, ["1", 0]))
    for strength, differs in ((1.0, True), (0.0, False)):
        graph = picture(info, ["3", 0]) | {
            "3": node(info, "ErasureText", model=["1", 0], clip=["1", 1], concept="circle", strength=strength),
        }
        assert changed(base, pixels(client, graph)) == differs


def test_another_seed_solves_nothing_anew(client, info):
    """The host keeps what Instant Erasure made, and the node says what it did."""

    def graph(seed: int):
        return picture(info, ["3", 0], seed=seed) | {
            "2": node(info, "ErasureInstant", model=["1", 0], clip=["1", 1], concepts="circle\nstar"),
            "3": node(info, "ErasureApply", model=["1", 0], erasure=["2", 0]),
        }  # fmt: skip

    first = client.wait(client.queue(graph(91)), timeout=300)
    [said] = first["outputs"]["2"]["text"]
    assert said.startswith("✓ circle → ") and "\nPreserved " in said
    again = client.wait(client.queue(graph(92)), timeout=300)
    kept = next(m[1]["nodes"] for m in again["status"]["messages"] if m[0] == "execution_cached")
    assert {"2", "3"} <= set(kept) and "14" not in kept


def test_erasures_combine_in_a_graph(client, info):
    """Sockets that grow are sent as 'erasures.erasure0', …; the sum draws what two nodes in a row draw."""

    def instant(concept: str) -> dict:
        return node(info, "ErasureInstant", model=["1", 0], clip=["1", 1], concepts=concept, preserve="square\nred")

    two = {"2": instant("circle"), "4": instant("star")}
    parts = {"erasures.erasure0": ["2", 0], "erasures.erasure1": ["4", 0]}
    combined = picture(info, ["3", 0]) | two | {
        "5": {"class_type": "ErasureCombine", "inputs": {**parts, "how": "sum"}},
        "3": node(info, "ErasureApply", model=["1", 0], erasure=["5", 0]),
    }  # fmt: skip
    stacked = picture(info, ["6", 0]) | two | {
        "3": node(info, "ErasureApply", model=["1", 0], erasure=["2", 0]),
        "6": node(info, "ErasureApply", model=["3", 0], erasure=["4", 0]),
    }  # fmt: skip
    one, other = (pixels(client, graph).astype(int) for graph in (combined, stacked))
    assert abs(one - other).max() <= 1
    inputs = {**parts, "how": "solve jointly", "model": ["1", 0], "clip": ["1", 1]}
    joint = combined | {"5": {"class_type": "ErasureCombine", "inputs": inputs}}
    assert changed(pixels(client, picture(info, ["1", 0])), pixels(client, joint))


def test_the_stock_lora_loader_draws_our_picture(client, info):
    """The template as it ships: export once, then the stock loader's pictures beside ours."""
    prompt = make_workflows.toy_prompt("export_as_lora", info, everything=True)
    numbers = make_workflows.numbers_of(prompt)
    make_workflows.export_once(client, prompt, numbers["Export Erasure as LoRA"])
    loader = prompt[numbers["Load LoRA"]]["inputs"]["lora_name"]
    fresh = client.object_info()
    assert loader in str(fresh["LoraLoaderModelOnly"]["input"]["required"]["lora_name"])
    images = client.images(client.wait(client.queue(prompt), timeout=300))
    base, ours, stock = (
        np.stack([np.asarray(Image.open(io.BytesIO(png)), dtype=int)[..., :3] for png in images[numbers[title]]])
        for title in ("Base", "Erased", "Erased by Load LoRA")
    )
    assert abs(base - ours).max() > 50
    assert abs(ours - stock).max() <= 8 and abs(ours - stock).mean() < 0.5, "fp16 of the file is all that differs"


@pytest.mark.parametrize(
    ("prefix", "name"),
    [("erasures\\win", "win"), ("bare", "bare"), ("erasures/%date:yyyy%_of_%year%", "{0}_of_{0}")],
)
def test_whatever_the_prefix_what_is_saved_over_the_api_can_be_chosen(client, info, prefix, name):
    graph = {
        "1": node(info, "CheckpointLoaderSimple", ckpt_name="toyworld.safetensors"),
        "2": node(info, "ErasureInstant", model=["1", 0], clip=["1", 1], concepts="circle", preserve="square"),
        "3": node(info, "ErasureSave", erasure=["2", 0], filename_prefix=prefix),
    }
    client.wait(client.queue(graph), timeout=300)
    file = f"{name.format(datetime.now().year)}_00001.safetensors"
    assert file in client.object_info()["ErasureLoad"]["input"]["required"]["file"][1]["options"]


def test_an_exported_file_can_be_imported(client, info):
    make = {
        "1": node(info, "CheckpointLoaderSimple", ckpt_name="toyworld.safetensors"),
        "2": node(info, "ErasureInstant", model=["1", 0], clip=["1", 1], concepts="circle", preserve="square"),
    }
    export = make | {
        "3": node(info, "ErasureExportLora", model=["1", 0], erasure=["2", 0], filename_prefix="loras/again",
                  precision="fp32"),
    }  # fmt: skip
    client.wait(client.queue(export), timeout=300)
    fresh = client.object_info()
    ours, back = (
        pixels(client, picture(fresh, ["5", 0]) | make | extra | {
            "5": node(fresh, "ErasureApply", model=["1", 0], erasure=source),
        })
        for extra, source in (
            ({}, ["2", 0]),
            ({"4": node(fresh, "ErasureImport", model=["1", 0], file="again_00001.safetensors")}, ["4", 0]),
        )
    )  # fmt: skip
    assert abs(ours.astype(int) - back.astype(int)).max() <= 1


def test_a_report_shows_the_grid_and_keeps_the_scores(client, info, server):
    graph = {
        "1": node(info, "CheckpointLoaderSimple", ckpt_name="toyworld.safetensors"),
        "2": node(info, "ErasureText", model=["1", 0], clip=["1", 1], concept="circle", preserve="square\nred"),
        "3": node(
            info, "ErasureReport", model_before=["1", 0], model_after=["2", 0], clip=["1", 1], vae=["1", 2],
            erase="a red circle | circle", keep="a blue square | square", steps=12, cfg=3.0, width=64, height=64,
            judge=["4", 0],
        ),
        "4": node(info, "ToyWorldJudge"),
    }  # fmt: skip
    shown = client.wait(client.queue(graph), timeout=300)["outputs"]["3"]
    [said], [image] = shown["text"], shown["images"]
    first, few, judge, *_ = said.splitlines()
    assert first == "✓ Gone in 2 of 2 pictures; everything else kept in 2 of 2."
    assert few.startswith("⚠ Too few pictures") and judge.startswith("The judge is Toy World Judge:")
    assert said.index("after:") < said.index("before:") and "PSNR" in said and image["type"] == "temp"
    saved = json.loads((server.base / "output" / "erasures" / "report_00001.json").read_text())
    assert [row["name"] for row in saved["rows"]] == ["before", "after"]
    assert saved["rows"][1]["identical"]["count"] == 2
    assert [row["esr"]["1"]["value"] for row in saved["rows"]] == [0, 1]
    assert [row["psr"]["1"]["value"] for row in saved["rows"]] == [1, 1]


def test_the_measuring_workflow_shows_what_attacks_bring_back(client, info, server):
    prompt = make_workflows.toy_prompt("measure_an_erasure", info, everything=True)
    numbers = {entry["class_type"]: number for number, entry in prompt.items()}
    prompt[numbers["ErasureReport"]]["inputs"] |= {"pictures": 1, "steps": 2}
    prompt[numbers["ErasureStressTest"]]["inputs"] |= {
        "pictures": 1, "steps": 2, "search_tried": 64, "search_generations": 1, "learned_steps": 2,
        "relearning_steps": 1,
    }  # fmt: skip
    outputs = client.wait(client.queue(prompt), timeout=300)["outputs"]
    [said] = outputs[numbers["ErasureStressTest"]]["text"]
    assert "Retraining the model: " in said and "Budget: steps: 1. Back in " in said
    assert len(outputs[numbers["ErasureReport"]]["images"]) == 1
    saved = json.loads((server.base / "output" / "erasures" / "stress_00001.json").read_text())
    assert [trial["attack"] for trial in saved["trials"]][-2:] == ["soft prompt", "relearning"]
    assert saved["trials"][1]["prompts"] == ["a red disc"]
