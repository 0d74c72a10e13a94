"""README and docs against code and logs: lines, commands, links, quoted output, numbers."""
import json
import re
import shlex
from statistics import mean, stdev

import pytest

import curriculum
import sample
from analysis.runs import (COMPARISON, TABLE, best_guess, comparison, read_metrics,
                           rows_of_table)
from conftest import ROOT
from curriculum import METHODS
from harness.settings import Settings, complete, parse

pytestmark = pytest.mark.house
README = (ROOT / "README.md").read_text()
PAGES = {path: path.read_text() for path in [ROOT / "README.md", *(ROOT / "docs").glob("*.md")]}
LINES = dict(re.findall(r"^\| `(\w+(?:\.py|/))` \| (\d+) \|", README, flags=re.M))


def cells(text):
    """The rows of a page's tables, those between the names of columns and the next text."""
    return [[cell.strip(" `") for cell in line.strip("|").split(" | ")]
            for line in text.splitlines() if line.startswith("| `")]


def test_the_readme_is_short_and_shows_a_picture_early():
    lines = README.splitlines()
    assert len(lines) <= 160 and any(".png" in line for line in lines[:40])


def test_the_table_of_files_has_every_file_and_its_lines():
    def lines(paths):
        return sum(len(path.read_text().splitlines()) for path in paths)

    files = {path.name: lines([path]) for path in ROOT.glob("*.py")}
    wings = {f"{path.parent.name}/" for path in ROOT.glob("*/*.py")} - {"tests/"}
    files |= {wing: lines((ROOT / wing).glob("*.py")) for wing in wings}
    assert {name: int(lines) for name, lines in LINES.items()} == files


def test_no_line_of_code_is_wider_than_100_columns():
    wide = [f"{path.name}:{number}" for path in [*ROOT.glob("*.py"), *ROOT.glob("*/*.py")]
            for number, line in enumerate(path.read_text().splitlines(), start=1)
            if len(line) > 100]
    assert not wide


@pytest.mark.parametrize("page", PAGES, ids=lambda page: page.name)
def test_every_link_leads_somewhere(page):
    for target, anchor in re.findall(r"\]\((?!https?:)([^)#]*)(?:#([^)]*))?\)", PAGES[page]):
        path = (page.parent / target).resolve() if target else page
        assert path.exists(), target
        if anchor:
            titles = re.findall(r"^#+ (.*)$", path.read_text(), re.M)
            slugs = [re.sub(r"[^\w -]", "", title.lower()).replace(" ", "-") for title in titles]
            assert anchor in slugs, anchor


def test_every_page_and_every_picture_is_linked():
    targets = {(page.parent / target).resolve() for page, text in PAGES.items()
               for target in re.findall(r"\]\((?!https?:)([^)#]+)", text)}
    assert set(PAGES) - targets <= {ROOT / "README.md"}
    assert {*(ROOT / "docs").glob("*.png")} <= targets


LOGS = [*(ROOT / "results").glob("*.jsonl")]


@pytest.fixture(scope="module")
def rows():
    """Those of the table of all runs, as texts."""
    return [[str(cell).strip("`") for cell in row] for row in rows_of_table(map(str, LOGS))]


def test_the_table_of_all_runs_is_that_of_the_logs(rows):
    told = [row for row in cells(PAGES[ROOT / "docs" / "results.md"]) if len(row) == len(TABLE)]
    assert told == rows


@pytest.mark.parametrize("page, methods", [
    ("README.md", ["coconut", "cot", "pause_as_thought", "no_cot"]), ("docs/results.md", METHODS)])
def test_a_short_table_has_the_numbers_of_the_whole_one(page, methods):
    whole = {tuple(row[:3]): row[5] + (row[6] and f" ± {row[6]}")
             for row in cells(PAGES[ROOT / "docs" / "results.md"]) if len(row) == len(TABLE)}
    told = {row[0]: row[2:6] for row in cells(PAGES[ROOT / page])
            if row[0] in METHODS and len(row) in (6, 8)}
    columns = [("prontoqa", "generated"), ("prosqa", "generated"),
               ("prontoqa", "balanced"), ("prosqa", "balanced")]
    assert told == {method: [whole.get((*column, method), "") for column in columns]
                    for method in methods}


@pytest.mark.parametrize("task, name", [("prontoqa", "ProntoQA"), ("prosqa", "ProsQA")])
def test_the_table_of_paired_differences_is_that_of_the_logs(task, name):
    told = [row for row in cells(PAGES[ROOT / "docs" / "results.md"])
            if len(row) == len(COMPARISON) + 1 and row[1] == name]
    methods, seeds = {row[0] for row in told}, int(told[0][2])
    logs = [path for path in sorted(map(str, LOGS)) for seed in range(seeds)
            if f"{task}-balanced-" in path and f"seed{seed}." in path and "layers4" not in path]
    rows = [[str(cell).strip("`") for cell in row] for row in comparison(logs)]
    assert len(methods) == 6 and [[row[0], *row[2:]] for row in told] == rows


@pytest.mark.parametrize("row, name", [
    ("ours", ""), ("names and", "-eot"), ("the paper", "-sentences")])
def test_the_table_of_formats_is_that_of_the_logs(row, name):
    line, = re.findall(rf"^\| {row}.*", PAGES[ROOT / "docs" / "format.md"], re.M)
    for cell, task in zip(line.strip("| ").split(" | ")[1:],
                          ["prontoqa-balanced", "prosqa-balanced", "prontoqa"]):
        logs = [ROOT / "results" / f"{task}{name}-coconut-seed{seed}.jsonl" for seed in range(3)]
        tests = [json.loads(log.read_text().splitlines()[-1])["test_accuracy"] for log in logs]
        assert cell == " ".join(f"{100 * test:.1f}" for test in tests)


WORDS = ROOT / "results" / "words"


def share_of(kind, text):
    """In %, as `python -m analysis accuracy` has it for a kind of answer."""
    return float(re.search(rf"(\d+\.\d)%  {kind}$", text, re.M)[1])


def tries_of(path):
    """What `python -m analysis retry` wrote: a dict for each number of tries more, from 0."""
    return json.loads(path.read_text())["retry"]["rows"]


@pytest.mark.parametrize("layers, nodes", sorted(
    (4 if "layers4" in log.name else 2, int(re.match(r"nodes(\d+)", log.name)[1]))
    for log in WORDS.glob("*-coconut-seed0.jsonl")))
def test_the_tables_of_thoughts_against_words_have_what_was_measured(layers, nodes):
    pages = PAGES[ROOT / "docs" / "words.md"] + PAGES[ROOT / "docs" / "why.md"]
    rows = re.findall(rf"^\| {layers} \| {nodes} \| (.*) \|$", pages, re.M)
    (*means, difference, interval, by_seed, lead, guess), again, kinds = (
        row.split(" | ") for row in rows)
    depth = "-layers4" if layers == 4 else ""
    names = {method: [log.stem for log in WORDS.glob(f"nodes{nodes}{depth}-{method}-seed?.jsonl")]
             for method in ("coconut", "cot")}
    coconut, cot = ([str(WORDS / f"{name}.jsonl") for name in names[m]] for m in names)
    tests = [[100 * read_metrics(log)[2]["test_accuracy"] for log in sorted(logs)]
             for logs in (coconut, cot)]
    assert [len(seeds) for seeds in tests] == [3, 3]
    assert means == [f"{mean(seeds):.1f} ± {stdev(seeds):.1f}" for seeds in tests]
    assert [difference, interval] == comparison([*cot, *coconut])[1][-2:]
    assert by_seed == " ".join(f"{a - b:+.1f}" for a, b in zip(*tests))
    if nodes != 20:  # to draw these problems anew takes seconds
        guesses = [best_guess(s, result) for s, _, result in map(read_metrics, cot)]
        assert guess == f"{100 * mean(guesses):.1f}"

    def measured(method, tries, what):
        return mean(tries_of(WORDS / "retry" / f"{name}.json")[tries][what]
                    for name in names[method])

    coin = "with a coin"
    assert lead == f"{100 * (measured('coconut', 0, coin) - measured('cot', 0, coin)):+.1f}"
    shares = [("coconut", 0, coin), ("cot", 0, coin), ("cot", 0, "neither"),
              ("cot", 4, "accuracy"), ("cot", 4, coin)]
    tokens = [("coconut", 0, "tokens"), ("cot", 4, "tokens")]
    assert again == [*(f"{100 * measured(*share):.1f}" for share in shares),
                     *(f"{measured(*count):.1f}" for count in tokens)]
    written = [(WORDS / "accuracy" / f"{name}.txt").read_text() for name in names["cot"]]
    assert kinds == [f"{mean(share_of(kind, text) for text in written):.1f}" for kind in
                     ("correct path", "longer path", "wrong target", "hallucination")]


def test_the_table_of_longer_runs_has_what_was_measured():
    told = re.findall(r"^\| \d+,\d+ \| .* \|$", PAGES[ROOT / "docs" / "words.md"], re.M)
    measured = []
    for name, size in (("nodes20-{}-seed0", "2 | 20"), ("nodes28-layers4-{}-seed0", "4 | 28")):
        for logs, retries in ((WORDS, "retry/"), (WORDS / "double", "double/retry-")):
            results, with_a_coin = [], []
            for method in ("coconut", "cot"):
                run = name.format(method)
                results.append(read_metrics(str(logs / f"{run}.jsonl"))[2])
                with_a_coin.append(tries_of(WORDS / f"{retries}{run}.json")[0]["with a coin"])
            shares = [result["test_accuracy"] for result in results] + with_a_coin
            row = " | ".join(f"{100 * share:.1f}" for share in shares)
            measured.append(f"| {results[0]['step']:,} | {size} | {row} |")
            assert results[0]["step"] == results[1]["step"]
    assert told == measured


def test_the_range_of_models_without_thoughts_or_words_is_the_measured_one():
    logs = [log for method in ("pause_as_thought", "no_cot")
            for log in WORDS.glob(f"*-{method}-*.jsonl")]
    tests = [100 * read_metrics(str(log))[2]["test_accuracy"] for log in logs]
    assert len(logs) == 30 and (f"get between {min(tests):.0f} and {max(tests):.0f} %"
                                in PAGES[ROOT / "docs" / "words.md"])


OFFICIAL = ROOT / "results" / "official"


def accuracies(path):
    """[the model's, those of the rules alone] in %, as `python -m analysis accuracy` has them."""
    text = path.read_text()
    rules = re.findall(r"^\| [^|]*[a-z] \| (\d+\.\d)%", text, re.M)
    return [re.match(r"the model: (\d+\.\d)%", text)[1], *rules]


def test_the_page_on_official_sizes_has_the_accuracies_that_were_measured():
    page = PAGES[ROOT / "docs" / "official.md"]
    rows = re.findall(r"^\| (?:\w+: )?\d00 .*", page, re.M)
    told = [row.strip("| ").split(" | ")[1:6] for row in rows]
    measured = []
    for model in ("prontoqa-5hops", "prosqa-28nodes"):
        for kind in ("balanced", "generated", "official"):
            files = [OFFICIAL / run / f"{model}{method}-{kind}.txt"
                     for method in ("", "-cot") for run in ("first", "second")]
            cells = [accuracies(file) if file.exists() else ["stopped"] for file in files]
            measured.append([cell[0] for cell in cells] + [max(cells[1][1:], key=float)])
    assert told == measured
    for task in ("prontoqa", "prosqa"):
        s, _, result = read_metrics(str(OFFICIAL / f"{task}-second-coconut-seed1.jsonl"))
        row, = (row for row in told if row[1] == f"{100 * result['test_accuracy']:.1f}")
        assert row[-1] == f"{100 * best_guess(s, result):.1f}"


def test_the_page_on_official_sizes_tells_of_words_on_prosqa_what_was_measured():
    page = " ".join(PAGES[ROOT / "docs" / "official.md"].split())
    once = tries_of(OFFICIAL / "first" / "prosqa-28nodes-cot-retry.json")[0]
    assert (f"They get {100 - 100 * once['accuracy']:.1f} % of the balanced problems wrong, and in "
            f"{100 * once['neither']:.1f} % their answer names neither option.") in page
    assert f"words get {100 * once['with a coin']:.1f} %" in page
    words, thoughts = ([json.loads(line) for line in (
        OFFICIAL / f"prosqa-second-{method}-seed1.jsonl").read_text().splitlines()[1:]]
        for method in ("cot", "coconut"))
    then, = (line for line in thoughts[:-1] if line["step"] == words[-1]["step"])
    assert (f"after {words[-1]['step']:,} of its {thoughts[-1]['step']:,} training steps. By then "
            f"thoughts had got {100 * then['val_accuracy']:.1f} % of {then['val_n']} validation "
            f"problems in their second run, and words {100 * words[-1]['val_accuracy']:.1f} %."
            ) in page


def test_the_readme_quotes_a_line_that_the_log_has():
    log = ROOT / "results" / "records" / "plain-prontoqa-balanced-seed0.jsonl"
    with open(log) as file:
        header, *lines = map(json.loads, file)
    settings, line = header["settings"], lines[-2]  # the last is of the test split
    assert (f"epoch {line['epoch']}/{settings['epochs']}  stage {line['stage']}  train loss "
            f"{line['train_loss']:.4f}  valid loss {line['val_loss']:.4f}  accuracy "
            f"{line['val_accuracy']:.1%}  tokens {line['val_tokens']:.1f}  "
            f"{line['seconds'] / 60:.1f} min\n") in README


def test_the_readme_quotes_the_thoughts_that_the_model_has(capsys):
    sample.main(["--index", "1", "--device", "cpu"])
    printed = capsys.readouterr().out.splitlines()
    first, = (i for i, line in enumerate(printed) if line.startswith("question"))
    assert "\n".join(printed[first:first + 6]) in README


@pytest.mark.parametrize("name", ["prontoqa-balanced", "prosqa-balanced"])
def test_the_readme_tells_the_interventions_that_were_measured(name):
    with open(ROOT / "docs" / f"intervene-{name}.json") as file:
        rows = {row["thoughts"]: row["accuracy"] for row in json.load(file)["intervene"]["rows"]}
    own, other = (f"{100 * rows[key]:.1f}" for key in ("intact", "of another problem"))
    told = re.search(r"Do\s+the\s+answers\s+depend.*?More:", README, re.S)[0]
    assert own in told and other in told


def test_the_interventions_in_three_seeds_are_those_that_were_measured():
    page = PAGES[ROOT / "docs" / "thoughts.md"]
    lines = [line.strip("| ").split(" | ") for line in page.splitlines() if line.startswith("| ")]
    told = {name: row for name, *row in lines if len(row) == 5 and len(row[0].split()) == 3}
    kinds = ["prontoqa-balanced", "prosqa-balanced", "prontoqa", "prosqa", "gsm8k"]
    measured = {}
    for kind in kinds:
        for file in (f"docs/intervene-{kind}.json", f"results/interventions/{kind}-seed1.json",
                     f"results/interventions/{kind}-seed2.json"):
            for row in json.loads((ROOT / file).read_text())["intervene"]["rows"]:
                cell = measured.setdefault(row["thoughts"], {}).setdefault(kind, [])
                cell.append(f"{100 * row['accuracy']:.1f}")
    assert told == {name: [" ".join(row.get(kind, "-")) for kind in kinds]
                    for name, row in measured.items()}


def test_every_number_of_the_readme_stands_in_a_log(rows):
    """Every number with a decimal, outside code: of a run, of a row of runs, of an intervention."""
    known = {"0.3", "1.1"}  # million parameters
    for row in rows:
        known |= {row[TABLE.index(name)] for name in ("test", "sd", "best guess", "tokens")}
    shares = [json.loads(path.read_text().splitlines()[-1])["test_accuracy"] for path in LOGS]
    for path in (ROOT / "docs").glob("intervene-*.json"):
        trials = json.loads(path.read_text())["intervene"]["rows"]
        shares += [trial["accuracy"] for trial in trials]
    known |= {f"{100 * accuracy:.1f}" for accuracy in shares}
    known |= {number for path in OFFICIAL.glob("*/*.txt") for number in accuracies(path)}
    prose = re.sub(r"```.*?```|`[^`]*`|\(http[^)]*\)", "", README, flags=re.S)
    prose = re.sub(r"(Python|torch|arXiv:?) ?\d+\.\d+", "", prose)
    assert set(re.findall(r"\d+\.\d+", prose)) <= known


def test_every_record_is_that_of_its_logs():
    told = [row for row in cells(PAGES[ROOT / "docs" / "records.md"]) if ".jsonl" in row[-1]]
    shown = set()
    for task, data, *_, seeds, steps, minutes, average, worst, pattern in told:
        logs = sorted((ROOT / "results").glob(pattern))
        runs = [[json.loads(line) for line in path.read_text().splitlines()] for path in logs]
        assert {(run[0]["settings"]["task"], run[0]["settings"]["data"]) for run in runs} == {
            (task, data)}
        assert [seeds, steps] == [str(len(runs)), f"{mean(run[-1]['step'] for run in runs):.0f}"]
        assert minutes == f"{mean(run[-1]['seconds'] for run in runs) / 60:.1f}"
        accuracies = [100 * run[-1]["test_accuracy"] for run in runs]
        assert [average, worst] == [f"{mean(accuracies):.1f}", f"{min(accuracies):.1f}"]
        shown |= {*logs}
    assert {*(ROOT / "results" / "records").glob("*.jsonl")} <= shown


COMMANDS = [command for text in PAGES.values()
            for command in re.findall(r"^python train\.py (.*?)(?: {3,}#.*)?$", text, flags=re.M)]


@pytest.mark.parametrize("command", COMMANDS)
def test_every_training_command_is_accepted(command):
    given = parse(shlex.split(command))
    if given.get("init", "scratch").endswith(".pt"):  # made by the command before it
        given["init"] = "gpt2"
    complete(given)


@pytest.mark.parametrize("run", ["first", "second"])
@pytest.mark.parametrize("task", ["prontoqa", "prosqa"])
@pytest.mark.parametrize("method", ["coconut", "cot"])
def test_a_command_of_an_official_size_has_the_settings_of_its_run(method, task, run):
    name = f"out/{run}-{task}" + ("" if method == "coconut" else f"-{method}")
    command, = [command for command in COMMANDS if command.endswith(name)]
    given = parse(shlex.split(command))
    log, = OFFICIAL.glob(f"{task}-{run}-{method}-*.jsonl")
    logged = vars(read_metrics(str(log))[0])
    if run == "first":  # the second takes from the first what is left out
        given = vars(complete(given))
    told = given.keys() - {"out_dir", "init", "resume", "device", "save_every"}
    assert {name: given[name] for name in told} == {name: logged[name] for name in told}


def test_the_readmes_curriculum_is_that_of_the_code():
    shown = re.findall(r"^stage (\d)   (Q .*?)(?: {6,}.*)?$", README, re.M)
    assert shown == re.findall(r"^    stage (\d)   (Q .*)$", curriculum.__doc__, re.M)


@pytest.mark.parametrize("page", PAGES, ids=lambda page: page.name)
def test_a_page_names_only_options_that_exist(page):
    sources = "".join((ROOT / name).read_text() for name in (
        "sample.py", "data.py", "analysis/__main__.py", "analysis/bench.py"))
    known = set(re.findall(r'"--(\w+)"', sources)) | set(Settings.__dataclass_fields__)
    known |= {"no-" + name for name in known} | {"help", "nproc_per_node"}
    known |= {name for name, _ in re.findall(r'\("(\w+)", (\d+)\)', sources)}  # the bench's sizes
    elsewhere = ("--model-name --model-size --ordering --num-trials --few-shot-examples --ontology "
                 "--min-hops --max-hops --hops-skip")  # ProntoQA's generator
    told = set(re.findall(r"--([a-zA-Z][\w-]*)", PAGES[page]))
    assert told - {name.strip("-") for name in elsewhere.split()} <= known
