"""The examples in CONTRIBUTING.md fit the code: everything they use is there. Read, not run."""

import ast
import builtins
import re
from pathlib import Path

import pytest

REPO = Path(__file__).resolve().parents[2]
PAGE = (REPO / "CONTRIBUTING.md").read_text(encoding="utf-8")
BLOCKS = dict(re.findall(r"^```python\n# (\S+)\n(.*?)^```", PAGE, re.MULTILINE | re.DOTALL))
"""Each example by the file that it says it is, or belongs into."""
LEARNED, TEST, CLOSED_FORM = BLOCKS


def parsed(path: Path) -> ast.Module:
    return ast.parse(path.read_text(encoding="utf-8"))


def imports(tree: ast.Module, place: str) -> dict[str, Path | None]:
    """Imported name -> the file of the pack it comes from, None for what is not ours."""
    found: dict[str, Path | None] = {}
    for statement in tree.body:
        for alias in getattr(statement, "names", []):
            found[alias.asname or alias.name] = None
            if isinstance(statement, ast.ImportFrom) and statement.level:
                folder = (REPO / place).parents[statement.level - 1]
                found[alias.name] = (folder / statement.module.replace(".", "/")).with_suffix(".py")
    return found


def defined(tree: ast.AST) -> dict[str, ast.stmt]:
    """What a module or a class gives a name to at its top level."""
    found: dict[str, ast.stmt] = {}
    for statement in tree.body:
        targets = getattr(statement, "targets", [getattr(statement, "target", None)])
        names = [n.id for t in targets if t is not None for n in ast.walk(t) if isinstance(n, ast.Name)]
        names += [alias.asname or alias.name for alias in getattr(statement, "names", [])]
        found |= dict.fromkeys([*names, *([statement.name] if hasattr(statement, "name") else [])], statement)
    return found


def members(cls: ast.ClassDef) -> set[str]:
    """Names that an object of a class has: what its body defines, and what it sets on ``self``."""
    own = {
        node.attr
        for node in ast.walk(cls)
        if isinstance(node, ast.Attribute) and isinstance(node.ctx, ast.Store) and ast.unparse(node.value) == "self"
    }
    return own | set(defined(cls))


def source(block: str, name: str) -> ast.stmt:
    """The definition, in the pack, of a name that an example imports."""
    return defined(parsed(imports(ast.parse(BLOCKS[block]), block)[name]))[name]


def test_examples_are_the_ones_that_are_checked_here():
    assert len(BLOCKS) == PAGE.count("```python") == 3
    assert Path(LEARNED).parent == Path("erasure/methods")
    assert Path(CLOSED_FORM).parent == Path("erasure/closed_form")
    assert (REPO / TEST).is_file()


@pytest.mark.parametrize("block", BLOCKS)
def test_what_is_imported_exists(block):
    for name, file in imports(ast.parse(BLOCKS[block]), block).items():
        assert file is None or name in defined(parsed(file)), f"{name} is not in {file}"


@pytest.mark.parametrize("block", BLOCKS)
def test_no_name_comes_from_nowhere(block):
    tree = ast.parse(BLOCKS[block])
    known = {*dir(builtins), *defined(tree)}
    known |= set(defined(parsed(REPO / block))) if (REPO / block).is_file() else set()
    known |= {node.arg for node in ast.walk(tree) if isinstance(node, ast.arg)}
    known |= {node.id for node in ast.walk(tree) if isinstance(node, ast.Name) and isinstance(node.ctx, ast.Store)}
    used = {node.id for node in ast.walk(tree) if isinstance(node, ast.Name)}
    assert used <= known, used - known


@pytest.mark.parametrize("block", [LEARNED, CLOSED_FORM])
def test_what_is_asked_of_an_argument_is_something_it_has(block):
    tree = ast.parse(BLOCKS[block])
    asked = 0
    for function in (node for node in ast.walk(tree) if isinstance(node, ast.FunctionDef)):
        types = {a.arg: a.annotation.id for a in function.args.args if isinstance(a.annotation, ast.Name)}
        for node in ast.walk(function):
            if isinstance(node, ast.Attribute) and isinstance(node.value, ast.Name) and node.value.id in types:
                asked += 1
                assert node.attr in members(source(block, types[node.value.id])), ast.unparse(node)
    assert asked >= 3


def test_the_learned_example_is_a_method():
    own = next(node for node in ast.parse(BLOCKS[LEARNED]).body if isinstance(node, ast.ClassDef))
    assert [base.id for base in own.bases] == ["Method"]
    method, overridden = defined(source(LEARNED, "Method")), defined(own)
    assert set(overridden) <= set(method), "it sets something that no method has"
    assert ast.unparse(overridden["phases"].args) == ast.unparse(method["phases"].args)
    assert set(ast.literal_eval(overridden["settings"].value)) <= members(source(LEARNED, "Settings"))
    assert f"{Path(LEARNED).stem}.{own.name}()," in PAGE, "the line in LEARNED"


def test_the_closed_form_example_is_a_function_like_the_others():
    example, uce = ast.parse(BLOCKS[CLOSED_FORM]), parsed(REPO / "erasure" / "closed_form" / "uce.py")
    own, uce = (defined(tree)["edit"] for tree in (example, uce))
    assert ast.unparse(own.args) == ast.unparse(uce.args) and ast.unparse(own.returns) == ast.unparse(uce.returns)
    assert f"{Path(CLOSED_FORM).stem}.edit," in PAGE, "the line in CLOSED_FORM"
