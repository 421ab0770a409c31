"""What nodes do around the library: they write on themselves what they did, and switch off cleanly."""

import asyncio
from types import SimpleNamespace

import comfy.model_management
import comfy.utils
import pytest
from execution import full_type_name
from server import PromptServer

from concept_erasure.erasure import learning, solved
from concept_erasure.erasure.artifact import Erasure, ErasureError, Metadata
from concept_erasure.erasure.texts import recall
from concept_erasure.erasure.texts.encoder import BATCH, Encoder
from concept_erasure.nodes import ConceptErasureExtension, instant, types, watch
from concept_erasure.nodes.combine import ErasureCombine
from concept_erasure.nodes.instant import ErasureInstant, ErasureText
from concept_erasure.nodes.learn_old import ErasureTrain
from concept_erasure.nodes.types import show
from concept_erasure.nodes.use import ErasureApply, ErasureRecover
from tests.host import test_schema, tools

TEXT = {"strength": 1.0, "target": "anchor", "anchor": "square", "preserve": "square\nred"}


@pytest.fixture
def sent(monkeypatch):
    """Texts that reach the editor, as (text, node id)."""
    found = []
    server = SimpleNamespace(send_progress_text=lambda text, node: found.append((text, node)))
    monkeypatch.setattr(PromptServer, "instance", server, raising=False)
    return found


def test_what_a_node_did_is_written_on_it(sent, monkeypatch):
    node = SimpleNamespace(hidden=SimpleNamespace(unique_id="7"))
    assert show(node, "Done.").as_dict()["text"] == ("Done.",)
    assert sent == [("Done.", "7")]


def test_outside_a_server_nothing_is_sent(sent):
    show(SimpleNamespace(hidden=None), "Done.")
    show(SimpleNamespace(hidden=SimpleNamespace(unique_id=None)), "Done.")
    assert not sent


def test_every_node_asks_for_its_number(output):
    """Without it what it says would go nowhere."""
    for node in test_schema.nodes():
        assert "UNIQUE_ID" in [hidden.value for hidden in node.define_schema().hidden], node


def on_canvas(node):
    """A node as the server calls it, which then knows its number."""
    return type("Node", (node,), {"hidden": SimpleNamespace(unique_id="7")})


def test_what_is_wrong_is_written_on_the_node_and_named_without_a_path(sent, model, clip):
    with pytest.raises(ErasureError) as raised:
        on_canvas(ErasureText).execute(model, clip, " ", **TEXT)
    assert sent[-1] == (str(raised.value), "7") and str(raised.value).startswith("The concept is empty")
    assert full_type_name(raised.type) == "concept_erasure.ErasureError"


@pytest.mark.parametrize(
    ("node", "inputs", "advice"),
    [
        (ErasureText, {"model": "a text", "clip": None, "concept": "circle"}, "'model' takes MODEL and was given str"),
        (ErasureApply, {"model": None, "erasure": 5}, "'erasure' takes ERASURE and was given int"),
        (ErasureCombine, {"erasures": {"erasure0": [1]}}, "'erasure0' takes ERASURE and was given list"),
    ],
)
def test_what_does_not_belong_in_a_socket_is_refused(node, inputs, advice):
    with pytest.raises(ErasureError, match=advice):
        node.execute(**inputs)


def test_every_node_says_on_itself_what_is_wrong(sent):
    for node in test_schema.nodes():
        assert node.execute.__func__.__code__ is ErasureText.execute.__func__.__code__, f"{node} is not @telling"


def test_what_is_applied_and_recovered_is_written_on_the_node(sent, model):
    both = tools.make_erasure(model, concept="red\norange", gate=False)
    key = tools.make_erasure(model, concept="red\norange", gate=False, role="key", delta=False)
    [erased] = on_canvas(ErasureApply).execute(model, both, 1.0).args
    on_canvas(ErasureRecover).execute(erased, key, 1.0)
    on_canvas(ErasureApply).execute(model, both, 0.0)
    on_canvas(ErasureApply).execute(model, both, 1.0, 0.5, 0.5)
    on_canvas(ErasureApply).execute(model, tools.only_delta(both), 1.0)
    on_canvas(ErasureApply).execute(model, tools.only_delta(both), 1.0, 0.0, 0.5)
    took = "✓ 14 of 14 text weights changed, by 11 % of their norm.\nErasure of red, orange."
    drawing = "\nActs while drawing only: a saved or merged checkpoint comes without it."
    assert [text for text, _ in sent] == [
        took + drawing, "The key for red, orange is on, at strength 1." + drawing, "Off: strength is 0.",
        "Off: end_percent is not above start_percent.", took, took + drawing,
    ]  # fmt: skip


def test_erasing_by_text_is_erasing_with_an_instant_erasure(model, clip):
    out = ErasureText.execute(model, clip, "circle", **TEXT)
    changed = out.args[0]
    assert changed is not model and changed.patches and not model.patches
    assert out.ui.as_dict()["text"][0] == (
        "✓ circle → square: moved 90 % of the way. Others moved at most 8 % (square). 14 of 14 text "
        "weights changed, by 49 % of their norm.\n"
        'Read 1 name: "circle".\nPreserved 2 texts: "square", "red".'
    )


def test_strength_0_gives_the_model_back_without_reading_anything(model):
    out = ErasureText.execute(model, None, "", **{**TEXT, "strength": 0})
    assert out.args[0] is model and out.ui.as_dict()["text"] == ("Off: strength is 0.",)


@pytest.mark.parametrize("concept", ["#off circle", "circle : 0\n#off star"])
def test_all_concepts_switched_off_is_off(model, concept):
    out = ErasureText.execute(model, None, concept, **TEXT)
    assert out.args[0] is model and out.ui.as_dict()["text"][0].startswith("Off: no concept is switched on.")


def test_reading_many_texts_is_shown_and_can_be_cancelled(model, clip, monkeypatch):
    said, bars = [], []
    monkeypatch.setattr(types.Reading, "SECONDS", 0.0)
    monkeypatch.setattr(types, "show", lambda node, text: said.append(text))
    monkeypatch.setattr(comfy.utils.ProgressBar, "update_absolute", lambda bar, now: bars.append(now))
    reading = types.Reading(ErasureText)
    assert said == ["Reading texts …"]  # and no longer what it said of its last run
    encode = Encoder(clip, reading)
    reading.begin("Reading texts", 0.5)
    encode.read([f"a {i}" for i in range(150)])
    encode.read(["few", "texts"])
    reading.begin("Solving", 0.9)
    assert bars == [0, 213, 427, 500, 500]
    parts = [text.split(",")[0] for text in said[2:]]
    assert parts == [*(f"Reading texts: {done} of 150" for done in (64, 128, 150)), "Solving …"]
    comfy.model_management.interrupt_current_processing()
    with pytest.raises(comfy.model_management.InterruptProcessingException):
        encode.read([f"the {i}" for i in range(150)])


@pytest.mark.parametrize("node", [ErasureText, ErasureInstant, ErasureTrain])
def test_nodes_that_read_many_texts_show_it(model, clip, node, monkeypatch):
    told = []
    for kind, method in ((types.Reading, "__call__"), (watch.Watch, "reading")):
        monkeypatch.setattr(kind, method, lambda self, done, total: told.append(total))
    learning.MEMORY.forget()
    recall.ROWS.clear()
    solved.forget()
    if node is ErasureTrain:
        tools.execute(model, clip, steps=1)
    else:
        values = {i.id: getattr(i, "default", None) for i in node.define_schema().inputs}
        values |= {"model": model, "clip": clip, "preserve": tools.KEPT}
        node.execute(**values | {name: "circle" for name in ("concept", "concepts") if name in values})
    assert told and min(told) > BATCH


def test_the_advanced_inputs_arrive(model, clip, monkeypatch):
    seen = []

    def remember(model, clip, concepts, preserve, settings, on_read, only_in, open_file):
        seen.append((concepts, preserve, settings))
        return Erasure(Metadata(concept="a", target="b", preserve="c"))

    monkeypatch.setattr(instant, "erase_instantly", remember)
    chosen = ("speed", "last of the name", "values", 2, 5, 0.1, 3, 9)
    ErasureInstant.execute(model, clip, "a\nb", "anchor", "x", "c", *chosen)
    [(concepts, preserve, settings)] = seen
    assert (concepts, preserve) == ("a\nb", "c")
    assert (settings.method, settings.target, settings.anchor, settings.tokens) == (
        "speed", "anchor", "x", "last of the name",
    )  # fmt: skip
    scales = settings.scales
    assert (settings.weights, settings.rank) == ("values", 3)
    assert (scales.erase, scales.preserve, scales.ridge, scales.balance) == (2, 5, 0.1, 9)


def test_every_text_box_says_what_belongs_there(output):
    nodes = asyncio.run(ConceptErasureExtension().get_node_list())
    boxes = [one for node in nodes for one in node.define_schema().inputs if getattr(one, "multiline", False)]
    assert boxes and [one.id for one in boxes if not one.placeholder] == []
