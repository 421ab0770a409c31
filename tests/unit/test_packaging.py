"""What a registry, a fresh machine and a newcomer rely on."""

import ast
import json
import os
import re
import subprocess
import sys
from pathlib import Path

import pytest

from concept_erasure.erasure.version import VERSION

REPO = Path(__file__).resolve().parents[2]
HOST = os.environ.get("CONCEPT_ERASURE_HOST_ROOT")
NOT_SHIPPED = ("tests", "benchmarks", "clients", "drawnworld", "toyworld", "scripts", "docs", "output", ".ci")


def project(key: str) -> str:
    """A value of pyproject.toml; tomllib is not in Python 3.10."""
    return re.search(rf"^{key} = (.+)$", (REPO / "pyproject.toml").read_text(), re.MULTILINE).group(1)


def names(requirements: str) -> list[str]:
    lines = (line.split("#")[0].strip() for line in requirements.splitlines())
    return [line for line in lines if line]


def test_version_is_the_same_everywhere():
    assert project("version").strip('"') == VERSION
    assert f"## {VERSION}" in (REPO / "CHANGELOG.md").read_text()


def test_requirements_are_bare_names_and_the_same_twice():
    required = names((REPO / "requirements.txt").read_text())
    assert required == ast.literal_eval(project("dependencies"))
    assert all(re.fullmatch(r"[a-z0-9-]+", name) for name in required)
    assert not {"torch", "numpy"} & set(required)


@pytest.mark.skipif(not HOST, reason="needs the host's tree")
def test_every_requirement_is_one_of_the_hosts():
    host = {re.split(r"[<>=!~ \[]", name)[0] for name in names((Path(HOST) / "requirements.txt").read_text())}
    assert set(names((REPO / "requirements.txt").read_text())) <= host


def test_the_registry_gets_a_name_it_accepts():
    name = project("name").strip('"')
    assert re.fullmatch(r"[a-z](?:[-._]?[a-z0-9])*", name) and "comfyui" not in name
    assert re.fullmatch(r'">=\d+\.\d+\.\d+"', project("requires-comfyui"))


def test_the_license_is_whole():
    text = (REPO / "LICENSE").read_text()
    assert "Apache License" in text and "END OF TERMS AND CONDITIONS" in text


def test_what_is_not_shipped_is_named_from_the_root():
    # "docs" without a slash in front would take web/docs, the help pages, out as well.
    ignored = names((REPO / ".comfyignore").read_text())
    assert {f"/{name}/" for name in NOT_SHIPPED} <= set(ignored)
    assert all(line.startswith("/") for line in ignored)


def test_the_library_core_needs_torch_and_no_host():
    code = (
        "import runpy, sys; from pathlib import Path;"
        "runpy.run_path(sys.argv[1])['install'](Path(sys.argv[2]));"
        "from concept_erasure.erasure import artifact, files, verdict, version;"
        "from concept_erasure.erasure.parts import gate, prompt;"
        "from concept_erasure.erasure.closed_form import CLOSED_FORM;"
        "from concept_erasure.erasure.training import objectives;"
        "print([m for m in sys.modules if m.split('.')[0] in ('comfy', 'comfy_api', 'folder_paths', 'nodes')])"
    )
    environ = {k: v for k, v in os.environ.items() if k != "CONCEPT_ERASURE_HOST_ROOT"}
    arguments = [sys.executable, "-c", code, str(REPO / "scripts" / "bootstrap.py"), str(REPO)]
    done = subprocess.run(arguments, capture_output=True, text=True, env=environ)
    assert done.stdout.strip() == "[]", done.stderr


def test_nothing_in_the_library_imports_the_nodes():
    for path in (REPO / "erasure").rglob("*.py"):
        for statement in ast.walk(ast.parse(path.read_text())):
            if isinstance(statement, ast.ImportFrom):
                assert (statement.module or "").split(".")[0] != "nodes", path


def test_the_pack_offers_the_host_one_way_in():
    tree = ast.parse((REPO / "__init__.py").read_text())
    defined = {n.id for s in tree.body if isinstance(s, ast.Assign) for n in s.targets}
    assert "NODE_CLASS_MAPPINGS" not in defined  # the host would then never look at comfy_entrypoint
    assert any(isinstance(s, ast.AsyncFunctionDef) and s.name == "comfy_entrypoint" for s in tree.body)


def node_ids(tree: ast.Module) -> set[str]:
    """What the Manager's scanner takes for a node: a literal id in the schema of a direct subclass of ComfyNode."""
    bases = ("ComfyNode", "io.ComfyNode")
    classes = [node for node in ast.walk(tree) if isinstance(node, ast.ClassDef)]
    return {
        keyword.value.value
        for found in classes if any(ast.unparse(base) in bases for base in found.bases)
        for call in ast.walk(found) if isinstance(call, ast.Call) and ast.unparse(call.func).endswith("Schema")
        for keyword in call.keywords if keyword.arg == "node_id" and isinstance(keyword.value, ast.Constant)
    }  # fmt: skip


def test_a_scanner_finds_every_node_without_running_anything():
    # It reads every file of the repository, so that what only tests use must not look like a node.
    folders = ("clients", "drawnworld", "erasure", "nodes", "scripts", "tests", "toyworld")
    files = [path for folder in folders for path in sorted((REPO / folder).rglob("*.py"))]
    found = [name for path in files for name in sorted(node_ids(ast.parse(path.read_text(encoding="utf-8"))))]
    assert sorted(found) == sorted(json.loads((REPO / "tests" / "host" / "schema.json").read_text()))
