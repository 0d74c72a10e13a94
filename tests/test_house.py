"""The layout: five files, three wings, imports that run one way, a task that is one file."""
import ast
import os
import shutil
import subprocess
import sys
from graphlib import TopologicalSorter
from importlib import import_module

import pytest

from conftest import ROOT

pytestmark = pytest.mark.house
ORDER = ["tasks", "curriculum", "data", "model", "harness", "sample", "train", "analysis"]
LIMITS = {"model.py": 240, "curriculum.py": 150, "data.py": 200, "train.py": 200, "sample.py": 150}


def python_files():
    """{module name: path} of all Python but the tests."""
    files = [*ROOT.glob("*.py"), *(path for wing in ("tasks", "harness", "analysis")
                                   for path in (ROOT / wing).glob("*.py"))]
    return {".".join(path.relative_to(ROOT).with_suffix("").parts).removesuffix(".__init__"): path
            for path in files}


def imported(path, modules):
    """Which of our modules a file imports, anywhere in it."""
    found = set()
    for node in ast.walk(ast.parse(path.read_text())):
        if isinstance(node, ast.Import):
            found |= {alias.name for alias in node.names}
        elif isinstance(node, ast.ImportFrom):
            found |= {node.module, *(f"{node.module}.{alias.name}" for alias in node.names)}
    return found & modules.keys()


def test_imports_run_one_way():
    modules = python_files()
    graph = {name: imported(path, modules) for name, path in modules.items()}
    graph["tasks"] = {f"tasks.{task}" for task in ("prontoqa", "prosqa", "gsm8k")}  # by their names
    list(TopologicalSorter(graph).static_order())  # raises CycleError
    for name, others in graph.items():
        own = ORDER.index(name.split(".")[0])
        for other in others:
            assert ORDER.index(other.split(".")[0]) <= own, f"{name} imports {other}"
    assert not graph["model"] and not graph["curriculum"]


def test_the_top_level_holds_five_files_that_one_reads_in_a_sitting():
    assert {path.name for path in ROOT.glob("*.py")} == LIMITS.keys()
    lines = {name: len((ROOT / name).read_text().splitlines()) for name in LIMITS}
    assert sum(lines.values()) <= 940
    assert not {name: n for name, n in lines.items() if n > LIMITS[name]}


def body_of(source, name):
    """The lines of a function, without its signature and docstring."""
    node, = [node for node in ast.walk(ast.parse(source))
             if isinstance(node, ast.FunctionDef) and node.name == name]
    first = node.body[ast.get_docstring(node) is not None]
    return source.splitlines()[first.lineno - 1:node.end_lineno]


def test_the_feedback_loop_fits_on_a_slide():
    assert len(body_of((ROOT / "model.py").read_text(), "think")) <= 30


def test_the_training_loop_tells_its_story_in_order():
    lines = body_of((ROOT / "train.py").read_text(), "train")
    told = ["stage_at(", "build(", "collate(", "think(", "supervised_loss(", ".backward()",
            "optimizer.step()", "evaluate("]
    places = [next(i for i, line in enumerate(lines) if word in line) for word in told]
    assert places == sorted(places)


TOY = '''"""Which of two numbers is the larger?"""
from tasks.record import Size

SIZES = {"largest": Size(99, range(10, 1000), "10..999")}
SCRATCH = {"max_latent_stage": 2, "epochs_stage_0": 1, "epochs_per_stage": 1}


def draw(rng, largest):
    return rng.sample(range(largest), 2)


def word(rng, a, b):
    return {"question": f"{a} or {b}?", "steps": [str(a), str(b)], "answer": str(max(a, b))}
'''


def test_a_fourth_task_takes_a_new_file_and_one_line(tmp_path):
    for wing in ("tasks", "harness"):
        shutil.copytree(ROOT / wing, tmp_path / wing, ignore=shutil.ignore_patterns("__pycache__"))
    for name in LIMITS:
        shutil.copy(ROOT / name, tmp_path)
    (tmp_path / "tasks" / "toy.py").write_text(TOY)
    registry = (tmp_path / "tasks" / "__init__.py").read_text()
    line = next(line for line in registry.splitlines() if line.startswith("TASKS = "))
    registry = registry.replace(line, line.replace('"gsm8k"', '"gsm8k", "toy"'))
    (tmp_path / "tasks" / "__init__.py").write_text(registry)

    def begin(*command):
        return subprocess.Popen([sys.executable, *command], cwd=tmp_path, text=True,
                                stdout=subprocess.PIPE, stderr=subprocess.PIPE,
                                env={**os.environ, "OMP_NUM_THREADS": "1"})

    def end(process):
        out, err = process.communicate()
        assert process.returncode == 0, err
        return out

    data = begin("data.py", "toy", "toy.json", "--n", "5", "--largest", "20")  # meanwhile
    train = begin("train.py", *"--task toy --largest 50 --device cpu --n_layer 1 --n_head 2 "
                  "--n_embd 16 --n_train 8 --n_valid 4 --n_test 4 --batch_size 4 --epochs 3 "
                  "--max_steps 5 --max_new_tokens 8 --out_dir run".split())
    out = end(train)
    assert "stage 2 of coconut: 2 thoughts" in out and "test accuracy" in out
    assert "thought 2" in end(begin("sample.py", "--ckpt", "run/ckpt.pt", "--index", "0"))
    assert "wrote 5 problems" in end(data)


@pytest.mark.parametrize("command", ["train", "sample", "data", "analysis.__main__"])
def test_every_command_explains_itself(capsys, command):
    with pytest.raises(SystemExit) as end:
        import_module(command).main(["--help"])
    assert "usage" in capsys.readouterr().out and end.value.code == 0
