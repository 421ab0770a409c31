"""The file an erasure lives in: nothing is lost, and nothing bad gets in or out."""

import errno
import json
import math
import pickle
from dataclasses import dataclass, replace
from pathlib import Path

import pytest
import torch
from safetensors import safe_open
from safetensors.torch import load_file, save_file

from concept_erasure.erasure import files, library
from concept_erasure.erasure.artifact import (
    Erasure,
    ErasureError,
    Full,
    LowRank,
    Metadata,
    Probe,
    to_tensors,
)
from concept_erasure.erasure.files import load_erasure, save_erasure
from concept_erasure.erasure.parts import PARTS
from concept_erasure.erasure.parts.delta import DeltaTensors, changing
from concept_erasure.erasure.parts.gate import GateTensors
from concept_erasure.erasure.parts.part import Part
from concept_erasure.erasure.parts.prompt import PromptTensors

FILES = Path(__file__).parents[1] / "data" / "files"


def make(seed: int = 0) -> Erasure:
    g = torch.Generator().manual_seed(seed)

    def r(*shape):
        return torch.randn(*shape, generator=g)

    gate = GateTensors(r(8), r(8), 0.75)
    return Erasure(
        Metadata(method="kpop", role="key", concept="cat\nkitten", family="SD15", context_dim="8", steps="7"),
        (
            PromptTensors(r(4, 8), r(4, 8), "all", "key", 77, gate),
            PromptTensors(r(2, 8), r(2, 8), "middle", "eraser", 77),
            DeltaTensors({"a.to_k.weight": LowRank(r(6, 2), r(2, 8)), "a.to_out.0.bias": Full(r(6))}),
        ),
    )


@pytest.fixture
def saved(tmp_path):
    path = tmp_path / "cat.safetensors"
    save_erasure(make(), path)
    return path


def rewritten(path, tensors=None, **strings):
    """The file with some tensors and strings changed."""
    with files.safe_open(path, framework="pt") as file:
        old = file.metadata()
    save_file({**load_file(path), **(tensors or {})}, path, metadata={**old, **strings})
    return path


def one_sentence(message: str, *words: str) -> None:
    assert all(word in message for word in words), message
    assert message.endswith(".") and "\n" not in message and "Error" not in message


def test_a_file_gives_back_every_bit(saved):
    before, after = make(), load_erasure(saved)
    assert after.metadata == before.metadata
    assert all(torch.equal(a, to_tensors(after)[n]) for n, a in to_tensors(before).items())
    first, second = after.of(PromptTensors)
    assert (first.blocks, first.role, first.chunk) == ("all", "key", 77)
    assert (second.blocks, second.role, second.chunk) == ("middle", "eraser", 77)
    assert first.gate.threshold == 0.75 and second.gate is None
    assert after.identity() == before.identity()


def test_identity_tells_other_tensors_apart():
    assert make(0).identity() == make(0).identity() != make(1).identity()


def test_identity_is_that_of_what_erases():
    assert make().without_key().identity() == make().identity()


def test_a_file_is_as_readable_as_any_other(saved):
    (saved.parent / "other").write_text("")
    assert saved.stat().st_mode == (saved.parent / "other").stat().st_mode


def test_bfloat16_and_half_survive(tmp_path):
    e = Erasure(Metadata(), changing({"w": LowRank(torch.ones(2, 1, dtype=torch.bfloat16), torch.ones(1, 3).half())}))
    save_erasure(e, tmp_path / "x.safetensors")
    change = load_erasure(tmp_path / "x.safetensors").delta["w"]
    assert (change.up.dtype, change.down.dtype) == (torch.bfloat16, torch.float16)
    assert change.dense().dtype == torch.float32


def test_low_rank_is_the_product():
    up, down = torch.tensor([[1.0], [2.0]]), torch.tensor([[3.0, 4.0]])
    assert torch.equal(LowRank(up, down).dense(), torch.tensor([[3.0, 4.0], [6.0, 8.0]]))


def test_the_key_can_be_kept_apart():
    e = make()
    assert [p.kind for p in e.without_key().parts] == ["prompt", "delta"] and e.without_key().delta == e.delta
    assert [p.role for p in e.key_only().parts] == ["key"] and not e.key_only().delta
    assert not any("prompt.1" in n for n in to_tensors(e.key_only()))


def test_tensors_that_share_memory_can_be_saved(tmp_path):
    shared = torch.randn(2, 8)
    e = replace(make(), parts=(PromptTensors(shared, shared, "all", "key", 77),))
    save_erasure(e, tmp_path / "x.safetensors")
    assert torch.equal(load_erasure(tmp_path / "x.safetensors").of(PromptTensors)[0].values, shared)


# ---------------------------------------------------------------- bad files


def test_a_pickle_is_never_opened(tmp_path):
    class Trap:
        def __reduce__(self):
            return (pytest.fail, ("the pickle was run",))

    for name in ("x.pt", "x.ckpt", "x.safetensors"):
        (tmp_path / name).write_bytes(pickle.dumps(Trap()))
        with pytest.raises(ErasureError) as caught:
            load_erasure(tmp_path / name)
        one_sentence(str(caught.value), name)
    assert "pickle" in str(pytest.raises(ErasureError, load_erasure, tmp_path / "x.pt").value)


@pytest.mark.parametrize("kept", [0, 4, 8, 200, -1])
def test_a_file_cut_short_is_refused(saved, kept):
    saved.write_bytes(saved.read_bytes()[:kept])
    with pytest.raises(ErasureError) as caught:
        load_erasure(saved)
    one_sentence(str(caught.value), "cat.safetensors", "damaged", "again")


def test_a_damaged_header_is_refused(saved):
    data = bytearray(saved.read_bytes())
    data[8:40] = b"\xff" * 32
    saved.write_bytes(data)
    with pytest.raises(ErasureError, match="damaged"):
        load_erasure(saved)


def test_a_missing_file_is_named(tmp_path):
    with pytest.raises(ErasureError) as caught:
        load_erasure(tmp_path / "gone.safetensors")
    one_sentence(str(caught.value), "gone.safetensors", "does not exist")


def test_a_lora_is_no_erasure(tmp_path):
    save_file({"lora_unet_x.lora_up.weight": torch.ones(1)}, tmp_path / "lora.safetensors", metadata={"ss_steps": "1"})
    with pytest.raises(ErasureError) as caught:
        load_erasure(tmp_path / "lora.safetensors")
    one_sentence(str(caught.value), "lora.safetensors", "no erasure")


def test_a_file_of_a_newer_pack_is_refused(saved):
    with pytest.raises(ErasureError, match="newer version of this pack"):
        load_erasure(rewritten(saved, format_version="5"))


@pytest.mark.parametrize(
    "strings", [{"format_version": "one"}, {"prompts": "[{}]"}, {"prompts": "{"}, {"prompts": "7"}, {"prompts": "[1]"}]
)
def test_nonsense_in_the_metadata_is_refused(saved, strings):
    with pytest.raises(ErasureError) as caught:
        load_erasure(rewritten(saved, **strings))
    one_sentence(str(caught.value), "cat.safetensors")


@pytest.mark.parametrize("part", ["blocks", "role"])
def test_words_the_pack_does_not_know_are_refused(saved, part):
    facts = [{"blocks": "all", "role": "key", "chunk": 77, "threshold": None} | {part: "everywhere"}]
    with pytest.raises(ErasureError) as caught:
        load_erasure(rewritten(saved, prompts=json.dumps(facts)))
    one_sentence(str(caught.value), "cat.safetensors")


@pytest.mark.parametrize("part", ["prompt.0.values", "prompt.0.gate.centre", "delta.a.to_k.weight.down"])
def test_a_missing_tensor_is_noticed(saved, part):
    with files.safe_open(saved, framework="pt") as file:
        strings = file.metadata()
    save_file({k: v for k, v in load_file(saved).items() if k != part}, saved, metadata=strings)
    with pytest.raises(ErasureError) as caught:
        load_erasure(saved)
    one_sentence(str(caught.value), "cat.safetensors", "lacks a part")


def test_numbers_that_are_not_finite_are_refused(saved):
    with pytest.raises(ErasureError, match="not finite"):
        load_erasure(rewritten(saved, {"prompt.0.keys": torch.full((4, 8), float("nan"))}))


# ---------------------------------------------------------------- failing writes


@pytest.mark.parametrize("step", ["write", "fsync", "replace"])
def test_a_full_disk_leaves_the_old_file_whole(saved, monkeypatch, step):
    before = saved.read_bytes()

    def full(*_, **__):
        raise OSError(errno.ENOSPC, "No space left on device")

    if step == "write":
        real = files.Path.open

        def opened(path, mode):
            file = real(path, mode, buffering=0)

            class Full:
                __enter__ = lambda self: self  # noqa: E731
                __exit__ = lambda self, *_: file.close()  # noqa: E731
                write = full

            return Full()

        monkeypatch.setattr(files.Path, "open", opened)
    else:
        monkeypatch.setattr(files.os, step, full)
    with pytest.raises(ErasureError) as caught:
        save_erasure(make(1), saved)
    monkeypatch.undo()
    one_sentence(str(caught.value), "cat.safetensors", "the disk is full", "unchanged")
    assert saved.read_bytes() == before
    assert [p.name for p in saved.parent.iterdir()] == ["cat.safetensors"]  # and nothing half-written lies about


def test_a_folder_that_cannot_be_made_is_one_sentence(tmp_path):
    (tmp_path / "file").write_text("")
    with pytest.raises(ErasureError) as caught:
        save_erasure(make(), tmp_path / "file" / "cat.safetensors")
    one_sentence(str(caught.value), "could not be saved")


def test_what_earlier_packs_cannot_read_makes_a_file_that_they_refuse_and_this_one_reads(tmp_path):
    gate = GateTensors(torch.randn(8, 2), torch.randn(8), 0.5)
    prompt = PromptTensors(torch.randn(4, 8), torch.randn(4, 8), "all", "key", 77, gate)
    pooled = replace(prompt, pooled=torch.randn(6))
    turning = replace(pooled, turn=LowRank(torch.randn(8, 2), torch.randn(2, 8)))
    given = (((prompt,), "2"), ((replace(prompt, gate=None),), "1"), ((pooled,), "3"), ((turning,), "4"))
    for prompts, version in given:
        save_erasure(Erasure(Metadata(concept="cat"), prompts), tmp_path / "x.safetensors")
        with safe_open(tmp_path / "x.safetensors", framework="pt") as file:
            assert file.metadata()["format_version"] == version
        after = load_erasure(tmp_path / "x.safetensors").of(PromptTensors)[0]
        assert after.gate is None or torch.equal(after.gate.direction, gate.direction)
        assert (after.pooled is None) == (version < "3") and (after.turn is None) == (version != "4")
    assert torch.equal(after.pooled, pooled.pooled) and torch.equal(after.turn.dense(), turning.turn.dense())


def test_a_map_of_other_tokens_is_refused(tmp_path):
    prompt = PromptTensors(torch.randn(4, 8), torch.randn(4, 8), "all", "key", 77)
    turning = replace(prompt, turn=LowRank(torch.ones(6, 2), torch.ones(2, 8)))
    save_erasure(Erasure(Metadata(), (turning,)), tmp_path / "x.safetensors")
    with pytest.raises(ErasureError) as caught:
        load_erasure(tmp_path / "x.safetensors")
    one_sentence(str(caught.value), "x.safetensors", "again")


def test_a_key_turns_each_token_by_its_map():
    prompt = PromptTensors(torch.randn(4, 8), torch.randn(4, 8), "all", "key", 77)
    turn, tokens = LowRank(torch.randn(8, 2), torch.randn(2, 8)), torch.randn(3, 5, 8)
    assert prompt.turned(tokens) is tokens
    turned = replace(prompt, turn=turn).turned(tokens)
    torch.testing.assert_close(turned[1, 2], tokens[1, 2] + turn.dense() @ tokens[1, 2])
    assert replace(prompt, turn=turn).turned(tokens.half()).dtype == torch.float16


@pytest.mark.parametrize("version", ["1", "2", "3"])
def test_a_file_of_every_version_is_read_for_ever(version):
    """Version 1 was written by version 0.1.0 of this pack; see tests/data/README.md."""
    erasure = load_erasure(FILES / f"version_{version}.safetensors")
    assert erasure.metadata.format_version == version
    assert (erasure.names, erasure.targets) == (["cat", "kitten"], ["dog", "dog"])
    key, eraser = erasure.of(PromptTensors)
    assert (key.role, key.blocks, key.chunk, eraser.role, eraser.blocks) == ("key", "all", 77, "eraser", "middle")
    assert torch.equal(key.keys, ramp(4, 8)) and torch.equal(key.values, -ramp(4, 8))
    assert torch.equal(key.gate.direction, ramp(8) if version == "1" else ramp(8, 2)) and key.gate.threshold == 0.75
    assert torch.equal(key.pooled, ramp(6)) if version == "3" else key.pooled is None
    assert torch.equal(erasure.delta["a.to_k.weight"].dense(), ramp(6, 2) @ ramp(2, 8))
    assert torch.equal(erasure.delta["a.to_out.0.bias"].dense(), ramp(6))
    assert [probe.text for probe in erasure.probes] == ([] if version == "1" else ["cat", "dog"])


def ramp(*shape: int) -> torch.Tensor:
    return torch.arange(math.prod(shape)).float().view(shape) / 8


@dataclass(frozen=True)
class Note(Part):
    """A part of another kind."""

    numbers: torch.Tensor
    words: str
    kind = "note"

    def tensors(self):
        return {"numbers": self.numbers}

    def facts(self):
        return {"words": self.words}

    @classmethod
    def read(cls, tensors, facts):
        return cls(tensors["numbers"], facts["words"])


@pytest.fixture
def annotated(saved, monkeypatch):
    """A file with two parts of a kind that is in no release, among others, and what is in it."""
    monkeypatch.setitem(PARTS, "note", Note)
    erasure = make()
    erasure = replace(erasure, parts=(Note(ramp(2), "first"), *erasure.parts, Note(ramp(3), "second")))
    save_erasure(erasure, saved)
    return saved, erasure


def test_a_part_of_any_kind_comes_back_in_its_place(annotated):
    path, before = annotated
    after = load_erasure(path)
    assert [part.kind for part in after.parts] == ["note", "prompt", "prompt", "delta", "note"]
    assert [part.words for part in after.of(Note)] == ["first", "second"]
    assert all(torch.equal(tensor, to_tensors(after)[name]) for name, tensor in to_tensors(before).items())
    assert after.identity() == before.identity() != make().identity()
    assert library.read_card(path).has_key


def test_a_part_of_a_kind_that_is_not_known_is_refused(annotated, monkeypatch):
    path, _ = annotated
    monkeypatch.delitem(PARTS, "note")
    with pytest.raises(ErasureError) as caught:
        load_erasure(path)
    one_sentence(str(caught.value), "cat.safetensors", "note", "update the pack")


def test_probes_come_back_and_do_not_count_for_the_identity(tmp_path):
    probes = (Probe("cat", torch.ones(2, 8).half(), torch.zeros(2, 8).half()), Probe("dog", torch.ones(1, 8).half()))
    erasure = Erasure(Metadata(concept="cat"), changing({"w": Full(torch.ones(2, 8))}), probes)
    save_erasure(erasure, tmp_path / "x.safetensors")
    after = load_erasure(tmp_path / "x.safetensors")
    assert [probe.text for probe in after.probes] == ["cat", "dog"] and after.probes[1].goal is None
    assert torch.equal(after.probes[0].goal, probes[0].goal)
    assert after.identity() == erasure.identity() == replace(erasure, probes=()).identity()
