"""README and docs against the code and the logs: links, commands, options, quotes, numbers."""
import json
import re
import shlex
from collections import Counter
from fnmatch import filter as matching
from itertools import product
from statistics import mean

import pytest

import analysis.__main__ as analysis
import curriculum
import data
import sample
from analysis.runs import comparison, rows_of_table
from conftest import ROOT
from curriculum import METHODS
from harness.settings import Settings, complete, parse

pytestmark = pytest.mark.house
PAGES = {path.name: path.read_text() for path in [ROOT / "README.md", *ROOT.glob("docs/*.md")]}
TEXT, README, LOGS = "\n".join(PAGES.values()), PAGES["README.md"], f"{ROOT}/results/runs.jsonl"
RUNS, MEASURES = ({line["name"]: line for line in map(json.loads, open(ROOT / "results" / file))}
                  for file in ("runs.jsonl", "measures.jsonl"))


def test_the_readme_has_the_lines_of_every_file_and_all_are_short():
    lines = Counter()
    for path in [*ROOT.glob("*.py"), *ROOT.glob("*/*.py")]:
        code = path.read_text().splitlines()
        assert max(map(len, code)) <= 100, path
        lines[path.name if path.parent == ROOT else f"{path.parent.name}/"] += len(code)
    del lines["tests/"], lines["docs/"]
    told = re.findall(r"^\| `(\w+(?:\.py|/))` \| (\d+) \|", README, flags=re.M)
    assert {name: int(number) for name, number in told} == lines
    assert len(README.splitlines()) <= 160


def test_every_link_leads_somewhere_and_every_page_and_picture_is_linked():
    targets = set()
    for page, text in PAGES.items():
        folder = ROOT if page == "README.md" else ROOT / "docs"
        for target, anchor in re.findall(r"\]\((?!https?:)([^)#]*)(?:#([^)]*))?\)", text):
            path = (folder / (target or page)).resolve()
            targets.add(path)
            title = rf"^#+ {anchor.replace('-', '[^a-z0-9]+')}\W*$"
            assert path.exists(), (page, target)
            assert not anchor or re.search(title, path.read_text(), re.M | re.I), (page, anchor)
    assert {*ROOT.glob("docs/*.md"), *ROOT.glob("docs/*.png")} <= targets


@pytest.mark.parametrize("command", re.findall(r"^python train\.py (.*?)(?: +#.*)?$", TEXT, re.M))
def test_a_training_command_is_accepted_and_is_that_of_its_log(command):
    given = parse(shlex.split(re.sub(r"out/\S+\.pt", "gpt2", command)))  # not made yet
    s = complete(given)
    if run := re.search(r"--out_dir out/(first|second)-(\w+)", command):  # of official sizes
        logged = RUNS[f"official/{run[2]}-{run[1]}-{s.method}-seed{s.seed}"]["settings"]
        told = vars(s) if run[1] == "first" else given  # the rest is the first run's
        for name in told.keys() - {"out_dir", "init", "resume", "device", "save_every"}:
            assert told[name] == logged.get(name, told[name]), name


def test_pages_name_only_commands_options_and_runs_that_exist(capsys):
    for main, command in [(sample.main, []), (data.main, []), *(
            (analysis.main, [name]) for name in {*re.findall(r"-m analysis ([a-z]+)", TEXT)})]:
        with pytest.raises(SystemExit, match="^0$"):
            main([*command, "--help"])
    known = {*re.findall(r"--([\w-]+)", capsys.readouterr().out), *Settings.__dataclass_fields__}
    assert {*re.findall(r"--(?:no-)?([a-zA-Z][\w-]*)", TEXT)} <= known | {"nproc_per_node"}
    for name in re.findall(r"runs\.jsonl:([\w/*?-]+)", TEXT):
        assert name == "NAME" or matching(RUNS, name + "*" * name.endswith("/")), name


def test_the_readme_quotes_the_curriculum_and_the_thoughts_that_the_code_has(capsys):
    shown = re.findall(r"^stage (\d)   (Q .*?)(?: {6,}.*)?$", README, re.M)
    assert shown == re.findall(r"^    stage (\d)   (Q .*)$", curriculum.__doc__, re.M)
    sample.main(["--index", "1", "--device", "cpu"])
    assert re.search(r"^question.*\n(.*\n){5}", capsys.readouterr().out, re.M)[0] in README


def row(*cells):
    return f"| {' | '.join(map(str, cells))} |"


def percent(*shares):
    return " ".join(f"{100 * share:.1f}" for share in shares)


def accuracies(pattern):
    return [RUNS[name]["test"]["test_accuracy"] for name in matching(RUNS, pattern)]


def measured(pattern):
    """The rows of what analysis measured, or what it printed, of each measure that matches."""
    return [MEASURES[name].get("printed") or MEASURES[name]["result"]["rows"]
            for name in matching(MEASURES, pattern)]


def retried(pattern, tries):
    """Means over runs of what `python -m analysis retry` found after so many tries more."""
    return [mean(rows[tries][what] for rows in measured(pattern))
            for what in ("accuracy", "neither", "with a coin", "tokens")]


def about_the_methods():
    """Pairs of a page and what it has to say by the logs; ".." stands for what they do not have."""
    table = rows_of_table([f"{LOGS}:*"])
    yield "results.md", "\n".join(["| --- |", *(row(*cells) for cells in table), "\n"])
    whole = {(*cells[:3],): cells[5] + (cells[6] and f" ± {cells[6]}") for cells in table}
    columns = [*product(("generated", "balanced"), ("`prontoqa`", "`prosqa`"))]
    for name in (f"`{method}`" for method in METHODS):
        cells = [whole.get((task, data, name), "") for data, task in columns]
        for page in ["results.md", *["README.md"] * (f"| {name} |" in README)]:
            yield page, row(name, "..", *cells)
    kinds = "coconut", "cot", "eot-coconut", "no_cot", "pause_as_thought", "sentences-coconut"
    compared = [row(name, task, *cells) for task in ("ProntoQA", "ProsQA") for name, *cells in
                comparison([f"{LOGS}:{task.lower()}-balanced-{kind}-seed[012]" for kind in kinds])]
    yield "results.md", "\n".join(["| --- |", *compared, "\n"])
    tasks = "prontoqa-balanced", "prosqa-balanced", "prontoqa"
    for label, kind in (("ours", ""), ("names", "-eot"), ("the paper", "-sentences")):
        cells = [percent(*accuracies(f"{task}{kind}-coconut-seed[012]")) for task in tasks]
        yield "format.md", row(f"{label}..", *cells)
    names = re.findall(r"`(\S+seed\*)` \|$", PAGES["records.md"], re.M)
    assert {*matching(RUNS, "records/*")} <= {run for name in names for run in matching(RUNS, name)}
    for name in names:
        runs, tests = [RUNS[run] for run in matching(RUNS, name)], accuracies(name)
        step, seconds = (mean(run["test"][what] for run in runs) for what in ("step", "seconds"))
        yield "records.md", row("`{task}` | {data}".format(**runs[0]["settings"]), "..", len(runs),
                                f"{step:.0f}", f"{seconds / 60:.1f}", percent(mean(tests)),
                                percent(min(tests)), f"`{name}`")
    run = RUNS["records/plain-prontoqa-balanced-seed0"]
    line = run["settings"] | run["epochs"][-1] | {"minutes": run["epochs"][-1]["seconds"] / 60}
    yield "README.md", (
        "epoch {epoch}/{epochs}  stage {stage}  train loss {train_loss:.4f}  valid loss "
        "{val_loss:.4f}  accuracy {val_accuracy:.1%}  tokens {val_tokens:.1f}  {minutes:.1f} min"
    ).format(**line)


def about_thoughts_and_words():
    for layers, nodes in product((2, 4), (8, 12, 16, 20, 28)):
        kind = f"nodes{nodes}{'-layers4' * (layers == 4)}"
        words, thoughts = (f"{kind}-{method}-seed?" for method in ("cot", "coconut"))
        logs = [f"{LOGS}:words/{words}", f"{LOGS}:words/{thoughts}"]
        table, (_, (*_, difference, interval)) = rows_of_table(logs), comparison(logs)
        pairs = zip(accuracies(f"words/{thoughts}"), accuracies(f"words/{words}"))
        _, neither, coin, _ = retried(f"words/retry/{words}", 0)
        right, _, coin_again, tokens_again = retried(f"words/retry/{words}", 4)
        *_, coin_of_thoughts, tokens = retried(f"words/retry/{thoughts}", 0)
        yield "words.md", row(
            layers, nodes, *(f"{cells[5]} ± {cells[6]}" for cells in table), difference, interval,
            " ".join(f"{100 * (a - b):+.1f}" for a, b in pairs),
            f"{100 * (coin_of_thoughts - coin):+.1f}", table[0][7])
        shares = map(percent, (coin_of_thoughts, coin, neither, right, coin_again))
        yield "why.md", row(layers, nodes, *shares, f"{tokens:.1f}", f"{tokens_again:.1f}")
        found = "\n".join(measured(f"words/accuracy/{words}"))
        yield "why.md", row(layers, nodes, *(
            f"{mean(map(float, re.findall(f'([0-9.]+)%  {way}$', found, re.M))):.1f}"
            for way in ("correct path", "longer path", "wrong target", "hallucination")))
    for (kind, *size), folder in product([("nodes20", 2, 20), ("nodes28-layers4", 4, 28)],
                                         ["words/", "words/double/"]):
        names = [f"{kind}-{method}-seed0" for method in ("coconut", "cot")]
        step, = {RUNS[folder + name]["test"]["step"] for name in names}
        shares = [accuracies(folder + name)[0] for name in names]
        coins = [retried(f"{folder}retry/{name}", 0)[2] for name in names]
        yield "words.md", row(f"{step:,}", *size, *map(percent, shares + coins))
    chance = accuracies("words/*-pause_as_thought-seed?") + accuracies("words/*-no_cot-seed?")
    yield "words.md", f"runs get between {100 * min(chance):.0f} and {100 * max(chance):.0f} %"
    kinds = "prontoqa-balanced", "prosqa-balanced", "prontoqa", "prosqa", "gsm8k"
    by_row = [*zip(*(zip(*measured(f"intervene/{kind}-seed?")) for kind in kinds))]
    lines = [row(cells[0][0]["thoughts"], *(percent(*(line["accuracy"] for line in cell))
                                            for cell in cells)) for cells in by_row]
    yield "thoughts.md", "\n".join(["| --- |", *lines, "\n"])
    told = [percent(rows[i]["accuracy"]) for rows in measured("intervene/*-balanced-seed0")
            for i in (0, 4)]  # intact, of another problem
    yield "README.md", "balanced ProntoQA from {} to {} %, ProsQA from {} to {},".format(*told)


def about_official_sizes():
    for model, kind in product(("prontoqa-5hops", "prosqa-28nodes"),
                               ("balanced", "generated", "official")):
        names = [f"official/{turn}/{model}{method}-{kind}"
                 for method in ("", "-cot") for turn in ("first", "second")]
        found = [re.search(r"^the model: (\S+)%", "".join(measured(name))) for name in names]
        guesses = re.findall(r"^\| [^|]*[a-z] \| (\S+)%", measured(names[1])[0], re.M)
        yield "official.md", row("..", *(match[1] if match else "stopped" for match in found),
                                 max(guesses, key=float))
    right, neither, coin, _ = retried("official/first/prosqa-28nodes-cot-retry", 0)
    words, thoughts = (RUNS[f"official/prosqa-second-{of}-seed1"] for of in ("cot", "coconut"))
    last, step = words["epochs"][-1], thoughts["test"]["step"]
    then, = (line for line in thoughts["epochs"] if line["step"] == last["step"])
    yield "official.md", (
        f"They get {percent(1 - right)} % of the balanced problems wrong, and in "
        f"{percent(neither)} % their answer names neither option. If a .. decides these, words get "
        f"{percent(coin)} %")
    yield "official.md", (
        f"after {last['step']:,} of its {step:,} training steps. By then thoughts had got "
        f"{percent(then['val_accuracy'])} % of {then['val_n']} validation problems in their second "
        f"run, and words {percent(last['val_accuracy'])} %.")


def test_the_pages_say_what_the_logs_say_and_no_fewer_numbers_than_before():
    claims = [*about_the_methods(), *about_thoughts_and_words(), *about_official_sizes()]
    assert not [(page, text) for page, text in claims if not re.search(
        re.sub(r"(\\ )+", r"\\s+", re.escape(text)).replace(r"\.\.", ".*?"), PAGES[page])]
    numbers = re.findall(r"\d[\d,]*(?:\.\d+)?", " ".join(text for _, text in claims))
    prose = re.sub(r"```.*?```|`[^`]*`|\(http[^)]*\)|(torch|Python) [\d.]+", "", README, flags=re.S)
    decimals = re.findall(r"\d+\.\d+", prose)
    assert {*decimals} <= {*numbers, "0.3", "1.1"}  # million parameters
    assert len(numbers) + len(decimals) >= 1242
