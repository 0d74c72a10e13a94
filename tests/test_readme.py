"""README and docs against the code and the logs: links, commands, options, quotes, numbers."""
import json
import re
import shlex
from collections import Counter
from fnmatch import filter as matching
from itertools import product
from statistics import mean, stdev

import pytest

import analysis.__main__ as analysis
import curriculum
import data
import sample
from analysis.runs import best_guess, comparison, runs_of, shortcuts_on
from conftest import ROOT
from curriculum import METHODS
from harness.settings import Settings, complete, parse
from tasks.common import read_examples, shortcut_accuracy

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
    assert len(README.splitlines()) <= 150


def test_six_pages_have_twelve_thousand_words_without_code():
    pages = [re.sub(r"```.*?```", "", text, flags=re.S) for page, text in PAGES.items()
             if page != "README.md"]
    assert len(pages) == 6
    assert sum(word != "|" for text in pages for word in text.split()) <= 12_000


def test_every_link_leads_somewhere_and_every_page_and_picture_is_linked():
    targets = set()
    for page, text in PAGES.items():
        folder = ROOT if page == "README.md" else ROOT / "docs"
        for target, anchor in re.findall(r"\]\((?!https?:)([^)#]*)(?:#([^)]*))?\)", text):
            path = (folder / (target or page)).resolve()
            targets.add(path)
            assert path.exists(), (page, target)
            titles = re.findall(r"^#+ (.*)$", path.read_text(), re.M) if anchor else []
            anchors = [re.sub(r"[^\w -]", "", title.lower()).replace(" ", "-") for title in titles]
            assert not anchor or anchor in anchors, (page, anchor)
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
    without_eot = curriculum.__doc__.replace(" <eot>", "")
    assert shown == re.findall(r"^    stage (\d)   (Q .*)$", without_eot, re.M)[:len(shown)]
    assert len(shown) == 4
    sample.main(["--index", "1", "--device", "cpu"])
    assert re.search(r"^question.*\n(.*\n){5}", capsys.readouterr().out, re.M)[0] in README


def row(*cells):
    return f"| {' | '.join(map(str, cells))} |"


def measured_accuracies(pattern):
    """The accuracies that analysis measured, of each measure that matches."""
    return [MEASURES[name]["result"]["accuracy"] for name in matching(MEASURES, pattern)]


def percent(*shares):
    return " ".join(f"{100 * share:.1f}" for share in shares)


def accuracies(pattern):
    return [RUNS[name]["test"]["test_accuracy"] for name in matching(RUNS, pattern)]


def spread_of(shares):
    """Mean ± standard deviation in %; "" if there are none."""
    shares = [100 * share for share in shares]
    return f"{mean(shares):.1f} ± {stdev(shares):.1f}" if shares else ""


def spread_and_failure(shares):
    """The same, but if one run alone stayed at chance, its accuracy comes after a semicolon."""
    *others, last = sorted(shares, reverse=True) or [None]
    alone = others and others[-1] > 0.9 and 0.45 < last < 0.55
    return f"{spread_of(others)}; {percent(last)}" if alone else spread_of(shares)


def spread(pattern):
    return spread_of(accuracies(pattern))


def spread_on_new_problems(runs):
    """The same on the problems that all runs of a task are asked; "" if there are no runs."""
    return spread_and_failure(measured_accuracies(f"accuracy/{runs}"))


def compared(first, others):
    """By how many points the other runs differ from the first, on the same problems; interval."""
    return comparison([f"{LOGS}:{first}", f"{LOGS}:{others}"])[1][-2:]


def measured(pattern):
    """The rows of what analysis measured, or what it printed, of each measure that matches; without
    the one model with thoughts that stayed at chance."""
    assert MEASURES["accuracy/prontoqa-seed753"]["result"]["accuracy"] < 0.55
    return [MEASURES[name].get("printed") or MEASURES[name]["result"]["rows"]
            for name in matching(MEASURES, pattern) if not name.endswith("/prontoqa-seed753")]


def with_a_coin(pattern):
    return mean(rows[0]["with a coin"] for rows in measured(pattern))


def about_the_methods():
    """Pairs of a page and what it has to say by the logs; ".." stands for what they do not have."""
    tasks = "prontoqa", "prosqa"
    for method in METHODS:
        kinds = [f"{task}{'' if method == 'coconut' else f'-{method}'}-seed*" for task in tasks]
        cells = [spread_on_new_problems(kind) for kind in kinds]
        old = [spread_on_new_problems(f"generated-{kind}") or spread(f"{task}-{method}-seed?")
               for kind, task in zip(kinds, tasks)]
        yield "results.md", row(f"`{method}`", "..", *cells)
        yield "results.md", row(f"`{method}`", *old)
        if f"| `{method}` |" in README:
            yield "README.md", row(f"`{method}`", "..", *cells, *old)
    best = [percent(max(line["alone"] for line in MEASURES[f"accuracy/{task}-seed257"]["result"][
        "shortcuts"])) for task in tasks]
    told = [percent(mean(best_guess(s, test) for _, s, _, test in runs_of(
        [f"{LOGS}:{task}-coconut-seed?"]))) for task in tasks]
    yield "results.md", row("*best shortcut*", "", *(f"*{guess}*" for guess in best))
    yield "results.md", row("*best shortcut*", *(f"*{guess}*" for guess in told))
    yield "README.md", row("*best shortcut*", "", *(f"*{guess}*" for guess in [*best, *told]))
    exact, with_coin = zip(*([rows[0][how] for how in ("accuracy", "with a coin")]
                             for rows in measured("retry/prosqa-cot-seed*")))
    thoughts = mean(measured_accuracies("accuracy/prosqa-seed*"))
    yield "results.md", (f"{percent(thoughts)} to {percent(mean(exact))}. .. written steps get "
                         f"{percent(mean(with_coin))}.")
    arithmetic = MEASURES["accuracy/gsm8k-seed257"]["result"]["shortcuts"]
    yield "results.md", "gets {} with `coconut` over five seeds, where the best .. gets {}".format(
        spread_on_new_problems("gsm8k-seed*"), percent(max(line["alone"] for line in arithmetic)))
    for task, said, shortcut in [
            ("ProntoQA", "what is said of ..", "the sign of the concept mentioned more often"),
            ("ProntoQA", '"true", unless ..', "true unless it says not"),
            ("ProsQA", "the option that is farther ..", "farther from its nearest entity")]:
        runs = runs_of(f"{LOGS}:{task.lower()}{kind}-coconut-seed0" for kind in ("", "-balanced"))
        yield "results.md", row(task, said, *(percent(shortcuts_on(s, test)[shortcut])
                                              for _, s, _, test in runs))
    for said, kind in [("names, the default", ""), ("names, `--eot`", "-eot"),
                       ("sentences, `--steps sentences --eot`", "-sentences")]:
        yield "results.md", row(said, *(
            percent(*accuracies(f"{task}{kind}-coconut-seed[012]"))
            for task in ("prontoqa-balanced", "prosqa-balanced", "prontoqa")))


def about_thoughts_and_words():
    for layers, nodes in product((2, 4), (8, 12, 16, 20, 28)):
        kind = f"nodes{nodes}{'-layers4' * (layers == 4)}"
        thoughts, words = (f"{kind}-{method}-seed?" for method in ("coconut", "cot"))
        coin = with_a_coin(f"words/retry/{thoughts}") - with_a_coin(f"words/retry/{words}")
        yield "results.md", row(
            layers, nodes, spread(f"words/{thoughts}"), spread(f"words/{words}"),
            *compared(f"words/{words}", f"words/{thoughts}"), f"{100 * coin:+.1f}")
    for rows in zip(*(zip(*measured(f"intervene/{task}-seed???"))
                      for task in ("prontoqa", "prosqa", "gsm8k"))):
        cells = [spread_of(line["accuracy"] for line in cell) for cell in rows]
        name = rows[0][0]["thoughts"]
        yield "thoughts.md", row(name, *cells)
    yield "thoughts.md", "words keep {}, {} and {} (second row".format(*(
        percent(mean(rows[5]["accuracy"] for rows in measured(f"heads/intervene/{task}-seed*")))
        for task in ("prontoqa", "prosqa", "gsm8k")))
    for kind, said in [("prontoqa-unmixed", "these models get {} and {} with their own thoughts, "
                        "and {} and {} by the third row"),
                       ("prosqa-mixed", "balanced ProsQA gets {} and {}, and {} and {}.")]:
        own, words = zip(*([rows[i]["accuracy"] for i in (0, 6)] for rows in measured(
            f"intervene/{kind}-seed*")))
        yield "thoughts.md", said.format(*percent(*own).split(), *percent(*words).split())
    for i, task in product(range(4), ("prontoqa", "prosqa")):
        step = "answer" if (i, task) == (3, "prosqa") else f"step {i + 1}"
        shares = [rows[i][step] for rows in measured(f"decode/{task}-seed*")]
        yield "thoughts.md", f"{step}: {percent(min(shares))} to {percent(max(shares))}".replace(
            "answer", "`###`")
    pauses = measured("decode/prontoqa-pause_as_thought*")
    for i in range(3):
        shares = [rows[i][f"step {i + 1}"] for rows in pauses]
        yield "thoughts.md", f"{percent(min(shares))} to {percent(max(shares))}"
    for i in (1, 2):
        yield "thoughts.md", row(i + 1, *cosines("tree/prosqa-seed*", i))
    (missed, on_a_way, _), (more_missed, more_on, _) = (
        cosines("tree/prosqa-pause_as_thought-*", i) for i in (1, 2))
    bare = [cosines("tree/prosqa-no_curriculum-*", i)[1] for i in (1, 2)]
    yield "thoughts.md", f"which have {bare[0]} and {bare[1]} on a shortest path"
    missed_there, on_path, beside = cosines("stage0/prosqa-seed*", 1)
    right = measured_accuracies("stage0/*")
    yield "thoughts.md", (f"{on_path} on a shortest path, {beside} elsewhere on the frontier and "
                          f"{missed_there} out of reach")
    yield "thoughts.md", f"is right in only {percent(min(right))} to {percent(max(right))} %"
    for i in (0, 1):
        shares = [rows[i][f"step {i + 1}"] for rows in measured("stage0/*")]
        yield "thoughts.md", f"{percent(min(shares))} to {percent(max(shares))}"
    yield "thoughts.md", (f"{on_a_way} and {more_on} on a shortest path, {missed} and "
                          f"{more_missed} out of reach")


def cosines(pattern, i):
    """Mean cosine of thought i + 1 with nodes out of reach, on a shortest way, at its side."""
    lines = [MEASURES[name]["result"]["superposition"][i] for name in matching(MEASURES, pattern)]
    missed, there, on_a_way = ([re.findall(r"[-+.\d]+", line[group]) for line in lines]
                               for group in ("not reachable", "frontier", "optimal"))
    elsewhere = [(float(c) * int(n) - float(d) * int(m)) / (int(n) - int(m))
                 for (c, n), (d, m) in zip(there, on_a_way)]
    return [f"{mean(map(float, cells)):.2f}" for cells in (
        [c for c, _ in missed], [c for c, _ in on_a_way], elsewhere)]


def about_tokens_and_larger_graphs():
    yield "results.md", "stays at chance: {}, {} and {} (seeds 354, 572 and 715".format(
        *percent(*accuracies("tokens/with-heads/prontoqa-seed*")).split())
    for nodes in (10, 12, 16):
        cells = (measured_accuracies(f"larger/{heads}nodes{nodes}-prosqa-{kind}")
                 for heads, kind in product(("", "with-heads/"), ("seed*", "cot-*")))
        yield "results.md", row(nodes, *(
            "{} ({} to {})".format(*percent(mean(cell), min(cell), max(cell)).split())
            for cell in cells))


def about_depth():
    for layers in (1, 2, 4, 8, 10):
        kinds = [f"depth/{{}}/{method}-{layers}layers-seed*" for method in (
            "coconut", "pause_as_thought", "cot", "soft")]
        cells = [spread_of(measured_accuracies(kind.format("accuracy"))) for kind in kinds]
        swapped = [rows[4]["accuracy"] for rows in measured(kinds[0].format("intervene"))]
        leads = [beyond_the_rest(kind.format("tree")) for kind in kinds[:2]]
        yield "results.md", row(layers, *cells, spread_of(swapped), *leads)
    intact, words = ([rows[i]["accuracy"] for rows in measured("depth/intervene/soft-*")]
                     for i in (0, 5))
    early = [mean(rows[2]["answer"] for rows in measured(f"depth/decode/coconut-{layers}layers-*"))
             for layers in (2, 4, 8)]
    yield "results.md", "reads as `###` in {}, {} and {} % of".format(*percent(*early).split())
    yield "results.md", "`cot` gets {} with two layers and {} with eight".format(*percent(*(
        with_a_coin(f"depth/retry/cot-{layers}layers-*") for layers in (2, 8))).split())
    yield "results.md", "test problems these get {} and {}.".format(
        *percent(*accuracies("depth/pause_as_thought-10layers-*")).split())
    longer = accuracies("words/nodes12-pause_as_thought-*")
    yield "results.md", f"({percent(min(longer))} to {percent(max(longer))}), and was not tried"
    yield "results.md", f"({percent(mean(words))} instead of {percent(mean(intact))}, four runs)"


def beyond_the_rest(pattern):
    """Cosine of thoughts 2 and 3 with the frontier, minus that with nodes out of reach; mean."""
    lines = [line for name in matching(MEASURES, pattern)
             for line in MEASURES[name]["result"]["superposition"][1:3]]
    there, missed = ([float(line[group].split()[0]) for line in lines]
                     for group in ("frontier", "not reachable"))
    return f"{mean(there) - mean(missed):.2f}" if lines else ""


def about_shortcuts():
    found = [measured_accuracies(f"transfer/generated-{task}-*") for task in ("prontoqa", "prosqa")]
    yield "results.md", "`coconut` gets {} of balanced problems right.".format(spread_of(found[0]))
    yield "results.md", "it gets {} of balanced ones, so".format(spread_of(found[1]))
    yield "README.md", f"gets {percent(mean(found[0]))} % of balanced problems, where"


def about_a_pretrained_model():
    for said, kind in [("thoughts", "coconut"), ("pause tokens", "pause_as_thought"),
                       ("soft thinking", "soft"), ("written steps", "cot"),
                       ("thoughts, trained on balanced problems", "balanced")]:
        tests = [RUNS[name]["test"] for name in matching(RUNS, f"smollm2/{kind}-*")]
        yield "results.md", row(said, *(percent(*shares) for shares in (
            [test["test_accuracy"] for test in tests],
            [test["test_swapped"] for test in tests if "test_swapped" in test],
            measured_accuracies(f"smollm2/accuracy/{kind}-*"))))
    guesses = (best_guess(s, test) for _, s, _, test in runs_of([f"{LOGS}:smollm2/coconut-*"]))
    balanced = MEASURES["smollm2/accuracy/coconut-seed358"]["result"]["shortcuts"]
    yield "results.md", row("*best shortcut*", f"*{percent(*guesses)}*", "",
                            f"*{percent(max(line['alone'] for line in balanced))}*")
    own, zeros, noise = zip(*([rows[i]["accuracy"] for i in range(3)]
                              for rows in measured("smollm2/intervene/coconut-*")))
    assert own == zeros == noise
    yield "results.md", "gets {:.0f} and {:.0f} of 100".format(*(100 * share for share in own))


def about_official_sizes():
    for model, kind in product(("prontoqa-5hops", "prosqa-28nodes"), ("balanced", "official")):
        names = [f"official/{turn}/{model}{method}-{kind}"
                 for method in ("", "-cot") for turn in ("first", "second")]
        found = [re.search(r"^the model: (\S+)%", "".join(measured(name))) for name in names]
        guesses = re.findall(r"^\| [^|]*[a-z] \| (\S+)%", measured(names[1])[0], re.M)
        yield "results.md", row("..", *(match[1] if match else "stopped" for match in found),
                                max(guesses, key=float))
    swapped = [percent(measured(f"official/{model}-intervene")[0][4]["accuracy"])
               for model in ("prontoqa-5hops", "prosqa-28nodes")]
    yield "results.md", "balanced ProntoQA falls to {}, balanced ProsQA to {}.".format(*swapped)


def about_records():
    for name in re.findall(r"`(\S+seed\S*)` \|$", PAGES["results.md"], re.M):
        runs, tests = [RUNS[run] for run in matching(RUNS, name)], accuracies(name)
        step, seconds = (mean(run["test"][what] for run in runs) for what in ("step", "seconds"))
        yield "results.md", row("`{task}` | {data}".format(**runs[0]["settings"]), "..", "..",
                                len(runs), f"{step:.0f}", f"{seconds / 60:.1f}",
                                percent(mean(tests)), percent(min(tests)), f"`{name}`")
    for said, run in [("balanced ProntoQA | `coconut`", "prontoqa"),
                      ("balanced ProntoQA | `cot`", "prontoqa-cot"),
                      ("balanced ProsQA | `coconut`", "prosqa"),
                      ("balanced ProsQA | `cot`", "prosqa-cot"),
                      ("arithmetic | `coconut`", "gsm8k")]:
        yield "results.md", row(said, *(spread_and_failure(accuracies(f"{kind}/{run}-seed*"))
                                        for kind in ("heads/with", "fresh")))
    yield "results.md", "instead of 16, balanced ProntoQA gets {} and {} (seed".format(
        *percent(*accuracies("records/short-*")).split())
    yield "results.md", ("`coconut` at {}, `cot` at {}. So does `coconut` with the three wired "
                         "heads ({}), and with twelve epochs of stage 0 instead of eight "
                         "({}).").format(
        *percent(*(share for run in ("fresh/prontoqa", "fresh/prontoqa-cot", "heads/with/prontoqa",
                                     "records/longer-prontoqa")
                   for share in accuracies(f"{run}-seed753"))).split())
    older = [accuracies(f"heads/{kind}/older-prontoqa-seed*") for kind in ("with", "without")]
    yield "results.md", "ProntoQA got {}, {} and {} with them, and {}, {} and {} without".format(
        *percent(*older[0], *older[1]).split())


def about_the_defaults():
    """Models of today's defaults, at seeds that were drawn after these were frozen."""
    intact, swapped = ([percent(mean(line["accuracy"] for rows in measured(
        f"intervene/{task}-seed???") for line in rows if line["thoughts"] == name))
        for task in ("prosqa", "prontoqa")] for name in ("intact", "of another problem"))
    words = [percent(mean(rows[i]["accuracy"] for rows in measured(f"intervene/{task}-seed???")))
             for task in ("prontoqa", "prosqa", "gsm8k") for i in (0, 5)]
    yield "README.md", ("from {} to {} % (ProntoQA), from {} to {} % (ProsQA) and from {} to {} % "
                        "(arithmetic)").format(*words)
    yield "README.md", (
        "{} % (ProsQA) and {} % (ProntoQA, four runs of five) of the answers are right. With the "
        "thoughts of another problem only {} and {} % are.").format(*intact, *swapped)
    run = RUNS["fresh/prontoqa-seed257"]
    line = run["settings"] | run["epochs"][-1] | {"minutes": run["epochs"][-1]["seconds"] / 60}
    yield "README.md", (
        "epoch {epoch}/{epochs}  stage {stage}  train loss {train_loss:.4f}  valid loss "
        "{val_loss:.4f}  accuracy {val_accuracy:.1%}  tokens {val_tokens:.1f}  {minutes:.1f} min"
    ).format(**line)


def about_surprises():
    def cells(values_of):
        columns = ([values_of(MEASURES[name]["result"]) for name in matching(
            MEASURES, f"surprises/{task}-seed*")] for task in ("prontoqa", "prosqa", "gsm8k"))
        return row("..", *(f"{mean(column):.1f} ± {stdev(column):.1f} (..)" for column in columns))

    told = {f"{n} thoughts" for n in (0, 3, 4, 6, 7, 8, 12)}
    untold = {"nothing"}
    for i, line in enumerate(MEASURES["surprises/prosqa-seed257"]["result"]["rows"]):
        if line["change"] in told or not re.search(r"\d thoughts", line["change"]) and (
                line["change"] not in untold):
            yield "surprises.md", cells(lambda result: 100 * result["rows"][i]["accuracy"])
    for name in MEASURES["surprises/prosqa-seed257"]["result"]["axes"]:
        yield "surprises.md", cells(lambda result: result["axes"][name])
    for name in ("all eight agree", "where all agree"):
        yield "surprises.md", cells(lambda result: 100 * result["noisy"][name])
    for said, kind in [("hidden states, the default", ""), ("soft thinking, ..", "soft-"),
                       ("hidden states before the last norm", "prenorm-"),
                       ("their signs alone, ..", "signs-"), ("no position ..", "nopos-"),
                       ("noise of ..", "noise-"), ("an output layer ..", "untied-")]:
        runs = f"{kind}prosqa-seed[26]??"  # of the default there are two more
        swapped = [rows[4]["accuracy"] for rows in measured(f"intervene/{runs}")]
        yield "surprises.md", row(said, f"{spread_on_new_problems(runs)} (..)", spread_of(swapped))


def test_a_page_says_what_the_released_files_hold(real_data):
    prosqa, prontoqa, gsm8k = (read_examples(real_data / name) for name in (
        "prosqa_valid.json", "prontoqa_5hop_raw.json", "gsm8k_aug_valid.txt"))
    of_prosqa, of_prontoqa = shortcut_accuracy("prosqa", prosqa), shortcut_accuracy(
        "prontoqa", prontoqa)
    solved = [e.steps[-1].strip("<>").split("=")[1] == e.answer.replace(",", "")
              for e in gsm8k if e.steps]
    shares = [of_prosqa["farther from its nearest entity"],
              of_prosqa["not within 2 hops of anybody"], of_prosqa["fewer mentions"],
              of_prontoqa["the sign of the concept mentioned more often"],
              of_prontoqa["true unless it says not"], mean(solved),
              mean(not e.steps for e in gsm8k), mean("," in e.answer for e in gsm8k),
              mean(len(e.steps) == 3 for e in gsm8k)]
    told = re.findall(r"^\| [^|]*\| [^|]+\| ([\d.]+) \(.*\) \|$", PAGES["surprises.md"], re.M)
    assert told == percent(*shares).split()
    for examples in (prosqa, prontoqa, gsm8k):
        assert len({e.question for e in examples}) == len(examples)


def test_the_pages_say_what_the_logs_say_and_no_fewer_numbers_than_before():
    claims = [*about_the_methods(), *about_thoughts_and_words(),
              *about_tokens_and_larger_graphs(), *about_depth(), *about_shortcuts(),
              *about_official_sizes(), *about_a_pretrained_model(), *about_records(),
              *about_the_defaults(), *about_surprises()]
    assert not [(page, text) for page, text in claims if not re.search(
        re.sub(r"(\\ )+", r"\\s+", re.escape(text)).replace(r"\.\.", "[^|]{0,200}?"), PAGES[page])]
    numbers = re.findall(r"\d[\d,]*(?:\.\d+)?", " ".join(text for _, text in claims))
    prose = re.sub(r"```.*?```|`[^`]*`|\(http[^)]*\)|(torch|Python)\s[\d.]+", "", README,
                   flags=re.S)
    decimals = {*re.findall(r"\d+\.\d+", prose)}
    paper = {"93.8", "96.6", "77.5", "98.8"}
    assert decimals <= {*numbers, *paper, "0.3", "1.1"}  # million parameters
    assert len(numbers) >= 700
