"""The repository's packages and the host's modules side by side in one process."""

import subprocess
import sys
from pathlib import Path

from tests.unit.tools import make_tree

REPO = Path(__file__).resolve().parents[2]

BOOTSTRAPPED = """
import runpy, sys
from pathlib import Path
bootstrap = runpy.run_path(sys.argv[1])
repo, root = Path(sys.argv[2]), Path(sys.argv[3])
sys.path.insert(0, "")
bootstrap["install"](repo, root)
sys.path.append(str(repo))
import nodes
import benchmarks.thing
import concept_erasure.nodes.extra
print(nodes.WHO, benchmarks.thing.WHO, concept_erasure.nodes.extra.WHO)
"""


def test_bootstrap_keeps_both_trees_apart(tmp_path):
    repo, root = tmp_path / "pack", make_tree(tmp_path / "ComfyUI")
    (root / "nodes.py").write_text("WHO = 'host'")
    for folder in ("nodes", "benchmarks", "erasure"):
        (repo / folder).mkdir(parents=True)
    (repo / "__init__.py").write_text("raise RuntimeError('the pack was started')")
    (repo / "nodes" / "__init__.py").write_text("")
    (repo / "nodes" / "extra.py").write_text("from ..erasure.core import WHO")
    (repo / "erasure" / "core.py").write_text("WHO = 'pack'")
    (repo / "benchmarks" / "thing.py").write_text("WHO = 'benchmark'")
    arguments = [sys.executable, "-c", BOOTSTRAPPED, REPO / "scripts" / "bootstrap.py", repo, root]
    done = subprocess.run(arguments, capture_output=True, text=True, cwd=repo)
    assert done.stdout.split() == ["host", "benchmark", "pack"], done.stderr
