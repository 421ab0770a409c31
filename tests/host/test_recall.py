"""What is remembered of text encoders and solved erasures: never wrong, bounded, and worth it."""

import pytest
import torch

from concept_erasure.erasure import instant, phrased, solved
from concept_erasure.erasure.instant import Instant, erase_instantly
from concept_erasure.erasure.texts import identity, neighbours, recall
from concept_erasure.erasure.texts.encoder import Encoder
from concept_erasure.nodes.instant import ErasureText


@pytest.fixture
def fresh(tmp_path, monkeypatch):
    """Nothing is remembered yet, and the folder of lists is empty."""
    monkeypatch.setattr(recall, "ROWS", recall.Memory(1 << 28))
    monkeypatch.setattr(recall.SHELF, "folder", tmp_path)
    monkeypatch.setattr(solved, "_solved", {})
    return tmp_path


@pytest.fixture
def reads(monkeypatch):
    """How many texts text encoders have read."""
    counts, run = [], Encoder._run
    monkeypatch.setattr(Encoder, "_run", lambda self, texts: counts.append(len(texts)) or run(self, texts))
    return counts


def test_an_erasure_is_the_same_to_the_bit_whatever_was_remembered(model, clip, fresh, reads, monkeypatch):
    def erase(concept="circle"):
        solved.forget()
        reads.clear()
        with torch.inference_mode():
            erasure = erase_instantly(model, clip, concept, "", Instant())
        return erasure.identity(), erasure.metadata, sum(reads)

    cold, warm = erase(), erase()
    assert warm[:2] == cold[:2] and warm[2] == 0 < cold[2]
    recall.ROWS.clear()
    from_disk = erase()
    lists = len(neighbours.LISTS[0]) + len(phrased.everyday_texts()) / 2
    assert from_disk[:2] == cold[:2] and from_disk[2] < cold[2] - lists
    monkeypatch.setattr(recall, "identity", lambda clip: None)
    without = erase()
    assert without[:2] == cold[:2] and without[2] >= cold[2]


def test_another_strength_solves_nothing_again(model, clip, fresh, reads, monkeypatch):
    def erase(strength, clip=clip, preserve="square\nstar"):
        with torch.inference_mode():
            return ErasureText.execute(model, clip, "circle", strength, "nearest neighbour", "", preserve, "").args[0]

    erase(1.0)
    reads.clear()
    real = instant.solve_texts
    monkeypatch.setattr(instant, "solve_texts", None)
    erase(0.5)
    assert not reads
    monkeypatch.setattr(instant, "solve_texts", lambda *arguments: reads.append("solved") or real(*arguments))
    erase(0.5, preserve="square\nmoon")
    other = clip.clone()
    other.clip_layer(-2)
    erase(0.5, other)
    assert reads.count("solved") == 2


def changed(clip, change):
    other = clip.clone()
    change(other)
    return identity.identity(other)


def patch(strength):
    def add(clip):
        name, weight = next((n, w) for n, w in clip.patcher.model.named_parameters() if w.dim() == 2)
        clip.add_patches({name: ("diff", (torch.ones_like(weight),))}, strength)

    return add


def test_a_text_encoder_is_known_by_all_that_changes_its_encodings(clip):
    own = identity.identity(clip)
    Encoder(clip)("a text")  # loads it
    assert own and identity.identity(clip) == own == identity.identity(clip.clone())
    others = [changed(clip, change) for change in (patch(1.0), patch(0.5), lambda one: one.clip_layer(-2))]
    weight = next(weight for weight in clip.cond_stage_model.parameters() if weight.dim() == 2)
    with torch.inference_mode():
        clip.cond_stage_model.clip_l.transformer.text_projection.weight.add_(1)  # chance, in checkpoints that lack it
    assert identity.identity(clip) == own
    before = weight.detach().clone()
    with torch.inference_mode():
        weight[0] += 1
        others.append(identity.identity(clip))
        weight.copy_(before)
    assert len({own, *others}) == 5 and None not in others
    assert changed(clip, patch(1.0)) == others[0]


def test_what_may_change_encodings_unseen_is_not_remembered(clip, monkeypatch):
    def hook(one):
        one.patcher.forced_hooks = object()

    def wrapper(one):
        one.patcher.add_wrapper("any", lambda *_: None)

    def method(one):
        one.encode_from_tokens = lambda *_, **__: None

    assert {changed(clip, change) for change in (hook, wrapper, method)} == {None}
    handle = clip.cond_stage_model.register_forward_hook(lambda *_: None)
    assert identity.identity(clip) is None
    handle.remove()
    assert identity.identity(clip)
    part = type(next(m for m in clip.cond_stage_model.modules() if hasattr(m, "process_tokens")))
    monkeypatch.setattr(part, "encode_token_weights", lambda *_: None, raising=False)
    assert identity.identity(clip) is None


def test_places_are_bounded_and_files_that_are_damaged_are_made_anew(tmp_path):
    rows = recall.Memory(100)
    for i in range(5):
        rows.put(str(i), torch.full((10,), float(i)))
        rows.get("0")
    assert [rows.get(str(i)) is not None for i in range(5)] == [True, False, False, False, True] and rows.size == 80
    shelf = recall.Shelf(tmp_path, 3000)
    lists = {name: {f"{name}{i}": torch.randn(10, 10) for i in range(3)} for name in "abc"}
    for name, part in lists.items():
        shelf.save(name, part)
    assert [bool(shelf.load(name, list(part))) for name, part in lists.items()] == [False, True, True]
    assert torch.equal(shelf.load("c", ["c0", "c1", "c2"])["c1"], lists["c"]["c1"])
    assert not shelf.load("c", ["c0", "c1", "other"])
    path = tmp_path / "c.safetensors"
    data = bytearray(path.read_bytes())
    data[-1] ^= 1
    path.write_bytes(data)
    assert not shelf.load("c", list(lists["c"]))
    shelf.save("c", lists["c"])
    assert shelf.load("c", list(lists["c"]))
    assert not list(tmp_path.glob("*.part"))


def test_lists_of_texts_of_different_lengths_are_kept_on_disk(tmp_path):
    shelf, rows = recall.Shelf(tmp_path), {str(n): torch.randn(n, 4) for n in (3, 5, 1)}
    shelf.save("list", rows)
    again = shelf.load("list", list(rows))
    assert list(again) == list(rows) and all(torch.equal(again[key], row) for key, row in rows.items())
    assert not shelf.load("list", list(rows)[:2])
