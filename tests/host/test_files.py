"""Save Erasure and Load Erasure, in the host's own folders."""

import errno
import os
import re
from dataclasses import replace
from datetime import datetime

import folder_paths
import pytest
import torch

from concept_erasure.erasure.artifact import ErasureError
from concept_erasure.erasure.files import load_erasure
from concept_erasure.erasure.parts.prompt import PromptTensors
from concept_erasure.nodes import files
from concept_erasure.nodes.files import KEY_PLACES, ErasureLoad, ErasureSave, new_path
from tests.host.test_fit import sentence
from tests.host.tools import make_erasure


@pytest.fixture
def erasure(model, clip):
    """A delta and a key."""
    return make_erasure(model, clip, role="key")


def saved(output) -> dict:
    return {p.name: load_erasure(p) for p in sorted((output / "erasures").iterdir())}


def text(result) -> str:
    return str(result.ui.as_dict())


def test_what_is_saved_can_be_loaded_at_once(output, erasure):
    said = text(ErasureSave.execute(erasure, "erasures/circle", KEY_PLACES[0]))
    [name] = folder_paths.get_filename_list("erasures")
    assert name in said.replace("\\\\", "\\")
    result = ErasureLoad.execute(name)
    assert result.result[0].identity() == erasure.identity()
    assert all(word in text(result) for word in ("circle", "ToyWorld", "a key"))


def test_whoever_saves_a_key_is_told_so(output, erasure):
    inside, apart = (text(ErasureSave.execute(erasure, "erasures/circle", place)) for place in KEY_PLACES[:2])
    assert "The key is inside: whoever has the file can bring the concept back." in inside
    assert "The key is inside" not in apart


def test_the_verdict_comes_first_for_little_may_be_shown(erasure):
    judged = replace(erasure, metadata=replace(erasure.metadata, verdict='[["✓", "circle is gone."]]'))
    assert files.describe(judged).startswith("✓ circle is gone.")


def test_the_card_says_how_well_it_was_learned_where_that_is_known(erasure):
    known = replace(erasure, metadata=replace(erasure.metadata, loss="first 0.1, last 0.02", gate_gap="7.2"))
    assert "Learned: loss first 0.1, last 0.02; gap of the text gate 7.2" in files.describe(known).splitlines()
    unknown = replace(erasure, metadata=replace(erasure.metadata, loss="", gate_gap=""))
    assert "Learned" not in files.describe(unknown)


def test_nothing_is_overwritten(output, erasure):
    for _ in range(3):
        ErasureSave.execute(erasure, "erasures/circle", KEY_PLACES[0])
    assert list(saved(output)) == [f"circle_{i:05}.safetensors" for i in (1, 2, 3)]


def test_the_key_in_a_file_of_its_own(output, erasure):
    ErasureSave.execute(erasure, "erasures/circle", KEY_PLACES[1])
    public, key = saved(output).values()
    assert public.delta and not public.of(PromptTensors)
    assert key.key and not key.delta
    assert list(saved(output)) == ["circle_00001.safetensors", "circle_00001_key.safetensors"]
    ErasureSave.execute(erasure, "erasures/circle", KEY_PLACES[1])
    assert list(saved(output))[2:] == ["circle_00002.safetensors", "circle_00002_key.safetensors"]


def test_a_number_is_taken_when_any_of_its_files_is(output, erasure):
    folder = output / "erasures"
    folder.mkdir(parents=True)
    (folder / "circle_00001.safetensors").touch()
    assert new_path("erasures/circle", "_key.safetensors", ".safetensors")[1].endswith("circle_00002")


def test_the_key_left_out(output, erasure):
    ErasureSave.execute(erasure, "erasures/circle", KEY_PLACES[2])
    [public] = saved(output).values()
    assert public.delta and not public.of(PromptTensors)


def test_an_erasure_that_is_all_key_is_not_saved_without_it(output, model, clip):
    with pytest.raises(ErasureError) as caught:
        ErasureSave.execute(make_erasure(model, clip, role="key", delta=False), "erasures/x", KEY_PLACES[2])
    assert "key" in sentence(caught)


def test_only_safetensors_are_listed_from_both_folders(output, tmp_path):
    for folder in (tmp_path / "models" / "erasures", output / "erasures"):
        folder.mkdir(parents=True, exist_ok=True)
        for name in (f"{folder.parent.name}.safetensors", "put_here.txt", "evil.pt"):
            (folder / name).write_bytes(b"")
    assert sorted(folder_paths.get_filename_list("erasures")) == ["models.safetensors", "output.safetensors"]


def test_folders_the_user_has_configured_are_kept(output, tmp_path):
    mine = str(tmp_path / "mine")
    folder_paths.add_model_folder_path("erasures", mine)
    files.register_folders()
    files.register_folders()
    paths, endings = folder_paths.folder_names_and_paths["erasures"]
    assert mine in paths and len(paths) == len(set(paths)) == 3
    assert endings == {".safetensors"}


def test_a_changed_file_is_read_again(output, erasure):
    ErasureSave.execute(erasure, "erasures/circle", KEY_PLACES[0])
    [name] = folder_paths.get_filename_list("erasures")
    before = ErasureLoad.fingerprint_inputs(name)
    assert ErasureLoad.fingerprint_inputs(name) == before
    os.utime(output / "erasures" / name, ns=(1, 1))
    assert ErasureLoad.fingerprint_inputs(name) != before


def test_a_full_disk_is_one_sentence(output, erasure, monkeypatch):
    def full(*_):
        raise OSError(errno.ENOSPC, "No space left on device")

    monkeypatch.setattr(files.os, "fsync", full)
    with pytest.raises(ErasureError) as caught:
        ErasureSave.execute(erasure, "erasures/circle", KEY_PLACES[0])
    assert "the disk is full" in str(caught.value)
    assert not list((output / "erasures").iterdir())


def test_a_prefix_outside_the_output_folder_is_one_sentence(output, erasure):
    with pytest.raises(ErasureError) as caught:
        ErasureSave.execute(erasure, "../circle", KEY_PLACES[0])
    assert "not in the output folder" in sentence(caught)


def test_a_folder_that_cannot_be_made_is_one_sentence(output, erasure):
    output.mkdir(parents=True, exist_ok=True)
    (output / "erasures").write_text("a file where the folder should be")
    with pytest.raises(ErasureError) as caught:
        ErasureSave.execute(erasure, "erasures/circle", KEY_PLACES[0])
    assert "another filename_prefix" in sentence(caught)


def test_a_name_that_another_folder_holds_is_not_given_again(output, tmp_path, erasure):
    """Load Erasure would read the other file."""
    ErasureSave.execute(erasure, "erasures/circle", KEY_PLACES[0])
    moved = tmp_path / "models" / "erasures" / "circle_00001.safetensors"
    os.rename(output / "erasures" / moved.name, moved)
    assert "circle_00002" in text(ErasureSave.execute(erasure, "erasures/circle", KEY_PLACES[0]))


def test_models_that_cannot_be_written_to_are_no_obstacle(output, tmp_path, monkeypatch):
    (tmp_path / "file").touch()
    monkeypatch.setattr(folder_paths, "models_dir", str(tmp_path / "file"))
    files.register_folders()
    assert folder_paths.get_filename_list("erasures") == []


def test_saving_works_in_inference_mode(output, erasure):
    with torch.inference_mode():
        ErasureSave.execute(erasure, "erasures/circle", KEY_PLACES[0])
    assert len(saved(output)) == 1


def listed(output, erasure, prefix: str) -> str:
    """The name under which Load Erasure lists what is saved with a prefix."""
    ErasureSave.execute(erasure, prefix, KEY_PLACES[0])
    [name] = folder_paths.get_filename_list("erasures")
    assert ErasureLoad.execute(name).result[0].identity() == erasure.identity()
    assert not [p for p in output.rglob("*") if p.is_file() and not p.is_relative_to(output / "erasures")]
    return name.replace(os.sep, "/")


@pytest.mark.parametrize(
    ("prefix", "name"),
    [
        ("circle", "circle"),
        ("styles/monet", "styles/monet"),
        ("erasures\\win", "win"),
        ("erasures\\2026\\win", "2026/win"),
        ("Erasures/circle", "circle"),
        ("loras/circle", "loras/circle"),
        ("./erasures/./circle", "circle"),
        ("styles/../erasures/circle", "circle"),
        ("erasures/", "erasure"),
        ("erasures\\styles\\", "styles/erasure"),
        ("", "erasure"),
        (" erasures/circle\n", "circle"),
        ('erasures/a<b>c:d"e|f?g*h\ti', "a_b_c_d_e_f_g_h_i"),
        ("erasures/styles. /con/circle", "styles/_con/circle"),
        ("erasures/.git/circle", "_.git/circle"),
        ("erasures/…/circle", "…/circle"),
        ("erasures/100%_sure", "100%_sure"),
        ("erasures/サークル", "サークル"),
    ],
)
def test_what_is_saved_is_in_the_list_of_load_erasure(output, erasure, prefix, name):
    assert listed(output, erasure, prefix) == f"{name}_00001.safetensors"


def test_a_whole_path_into_the_output_folder_is_understood(output, erasure):
    assert listed(output, erasure, str(output / "erasures" / "circle")) == "circle_00001.safetensors"


def test_a_folder_of_erasures_elsewhere_in_the_output_folder_is_kept(output, erasure):
    folder_paths.add_model_folder_path("erasures", str(output / "mine"))
    ErasureSave.execute(erasure, "mine/circle", KEY_PLACES[0])
    assert (output / "mine" / "circle_00001.safetensors").is_file()


def test_the_date_is_written_as_the_editor_writes_it():
    now = datetime(2026, 3, 7, 4, 5, 9)
    for form, text in {
        "yyyy-MM-dd": "2026-03-07",
        "yy.M.d": "26.3.7",
        "yyyyMMddhhmmss": "20260307040509",
        "h_m_s": "4_5_9",
        "yyy y": "yyy y",
        "Week": "Week",
        "": "",
    }.items():
        assert files.expand_dates(f"a%date:{form}%b", now) == f"a{text}b"
    assert files.expand_dates("%date:yyyy%/%date:MM%_%year%_%date%", now) == "2026/03_%year%_%date%"


def test_dates_and_the_tokens_of_the_host_are_filled_in(output, erasure):
    year = str(datetime.now().year)
    name = listed(output, erasure, "erasures/%date:yyyy/'y'%_%year%_%date:hh:mm%_%Node.widget%")
    assert re.fullmatch(rf"{year}/'y'_{year}_\d\d_\d\d_%Node\.widget%_00001\.safetensors", name)


def test_numbers_go_on_whatever_way_a_prefix_is_written(output, erasure):
    for prefix in ("circle", "erasures\\circle", "erasures/circle", "Erasures/circle"):
        ErasureSave.execute(erasure, prefix, KEY_PLACES[0])
    assert list(saved(output)) == [f"circle_{i:05}.safetensors" for i in (1, 2, 3, 4)]


@pytest.mark.parametrize(
    "prefix",
    ["..\\circle", "erasures/../../circle", "erasures\\..\\..\\circle", "/circle", "\\circle", "C:circle", "C:\\circle",
     "c:/erasures/circle", "\\\\server\\share\\circle", ".. /../../circle", "%date:../..%/../circle"],
)  # fmt: skip
def test_no_prefix_leads_out_of_the_output_folder(output, tmp_path, erasure, prefix):
    with pytest.raises(ErasureError) as caught:
        ErasureSave.execute(erasure, prefix, KEY_PLACES[0])
    assert "not in the output folder" in sentence(caught)
    assert not list(tmp_path.rglob("*.safetensors"))


def test_other_files_stay_where_their_prefix_says(output):
    path, shown = new_path("reports\\%date:yyyy%_circle", ".json")
    assert shown.replace(os.sep, "/") == f"reports/{datetime.now().year}_circle_00001"
    assert path == os.path.join(output, shown)
    assert new_path("circle", ".json")[1] == "circle_00001"
