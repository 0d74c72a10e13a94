"""Draw the pictures of the pages from what results/ holds, at the root: python docs/figures.py"""
import sys
from statistics import mean

from matplotlib.figure import Figure
sys.path.insert(0, ".")

from analysis.runs import best_guess, curve, grouped, interval, json_lines  # noqa: E402

RUNS = "results/runs.jsonl:"
COLORS = {"coconut": "C0", "cot": "C2", "pause_as_thought": "C1", "no_cot": "C7"}


def panels(width, height, rows=1, columns=1):
    figure = Figure(figsize=(width, height), dpi=130, layout="constrained")
    return figure, figure.subplots(rows, columns, squeeze=False, sharey=True)


def bar(panel, name, share, ends, color):
    panel.barh(name, 100 * share, xerr=[[100 * abs(share - end)] for end in ends], capsize=3,
               color=color)
    panel.set(xlim=(0, 103), xlabel="accuracy, %\n(95 % interval over problems)")


def accuracy():
    """Four methods over all seeds, left where a guess helps and right where none does."""
    figure, rows = panels(7, 5.6, 2, 2)
    for (task, _, _, data, name), runs in grouped([RUNS + "pro*"]).items():
        if name in COLORS:  # a method without other options
            panel = rows[int(task == "prosqa"), int(data == "balanced")]
            share, n = (sum(test[key] for *_, test in runs) for key in ("test_accuracy", "test_n"))
            share /= len(runs)  # of as many problems; other ones for each seed
            bar(panel, [*COLORS][::-1].index(name), share, interval(share * n, n), COLORS[name])
            panel.set(title=f"{task}, {data}", yticks=range(4), yticklabels=[*COLORS][::-1])
            if name == "coconut":
                guess = mean(best_guess(s, test) for s, _, test in runs)
                line = panel.axvline(100 * guess, color="C3", linestyle="--")
    figure.legend([line], ["best guess"], loc="outside upper right")
    return figure


def words():
    """Balanced ProsQA over the size of its graphs: means over seeds, and each seed as a dot."""
    (figure, ((panel,),)), lines, guesses = panels(7, 4), {}, {}
    for runs in grouped([RUNS + "words/*"]).values():
        s, tests = runs[0][0], [100 * test["test_accuracy"] for *_, test in runs]
        lines.setdefault((s.n_layer, s.method), []).append((s.nodes, mean(tests)))
        guesses[s.nodes] = 100 * mean(best_guess(s, test) for s, _, test in runs)
        panel.plot([s.nodes] * len(tests), tests, ".", color=COLORS[s.method], alpha=0.5)
    for (layers, method), line in sorted(lines.items()):
        panel.plot(*zip(*sorted(line)), "o-" if layers == 2 else "s--", color=COLORS[method],
                   label=f"{method}, {layers} layers")
    panel.plot(*zip(*sorted(guesses.items())), "C3:", label="best guess")
    panel.set(xlabel="nodes", ylabel="accuracy, % (small: each seed)", xticks=sorted(guesses))
    panel.legend(fontsize="small")
    return figure


def interventions(measures):
    """Accuracy with the thoughts replaced, on both balanced tasks."""
    figure, (row,) = panels(9, 4.4, 1, 2)
    for task, panel in zip(("prontoqa", "prosqa"), row):
        result = measures[f"intervene/{task}-balanced-seed0"]
        for trial in reversed(result["rows"]):
            bar(panel, trial["thoughts"], trial["accuracy"], trial["interval"], "C0")
        line = panel.axvline(100 * max(result["shortcuts"].values()), color="C3", linestyle="--")
        panel.set_title(f"{task}, balanced")
    figure.legend([line], ["best guess"], loc="outside upper right")
    return figure


def passes():
    """Which pass computes which columns, at stage 2 of three steps."""
    (figure, ((panel,),)), tokens = panels(7, 2.8), "Q Q Q <bot> T T <eot> 3 A".split()
    for row, (start, end) in enumerate([(0, 4), (4, 5), (5, 9)]):
        for column, token in enumerate(tokens[:end]):
            color = "0.92" if column < start else "#ffc27a" if token == "T" else "#a9cdea"
            panel.text(column, row, f"{token:^5}", ha="center", va="center", family="monospace",
                       bbox={"boxstyle": "round", "facecolor": color, "edgecolor": "none"})
            if column > 6:
                panel.text(column, row + 0.6, "target", ha="center", color="C3")
        if row < 2:
            panel.annotate("", (end, row + 1), (end - 1, row), arrowprops={
                "arrowstyle": "-|>", "color": "C1", "shrinkA": 20, "shrinkB": 20})
    panel.set(xlim=(-0.5, 8.5), ylim=(2.8, -0.5),
              title="a row for each pass; gray: kept from earlier ones; orange: a thought")
    panel.axis("off")
    return figure


if __name__ == "__main__":
    measures = {line["name"]: line.get("result") for line in json_lines("results/measures.jsonl")}
    for name, figure in [("accuracy", accuracy()), ("words", words()), ("passes", passes()),
                         ("interventions", interventions(measures))]:
        figure.savefig(f"docs/{name}.png")
    curve([RUNS + "prosqa-coconut-*"], "docs/curve.png")
