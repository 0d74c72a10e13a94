"""Draw the pictures of the pages from what results/ holds, at the root: python docs/figures.py"""
import re
import sys
from pathlib import Path
from statistics import mean

from matplotlib.figure import Figure
from matplotlib.patches import FancyBboxPatch
sys.path.insert(0, ".")

from analysis.runs import best_guess, curve, grouped, json_lines  # noqa: E402

RUNS = "results/runs.jsonl:"
COLORS = {"coconut": "C0", "cot": "C2", "pause_as_thought": "C1", "no_cot": "C7", "soft": "C4"}


def panels(width, height, rows=1, columns=1):
    figure = Figure(figsize=(width, height), dpi=130, layout="constrained")
    return figure, figure.subplots(rows, columns, squeeze=False, sharey=True)


def bar(panel, name, share, ends, color):
    panel.barh(name, 100 * share, xerr=[[100 * abs(share - end)] for end in ends], capsize=3,
               color=color)
    panel.set(xlim=(0, 103), xlabel="accuracy, %\n(95 % interval over problems)")


def needed(measures):
    """What is left with the thoughts of another problem, over all seeds but one at chance."""
    figure, (row,) = panels(8, 2.8, 1, 2)
    for task, panel in zip(("prosqa", "prontoqa"), row):
        models = [{trial["thoughts"]: trial["accuracy"] for trial in result["rows"]}
                  for name, result in measures.items()
                  if re.fullmatch(rf"intervene/{task}-seed\d{{3}}", name)]
        models = [model for model in models if model["intact"] > 0.6]
        shortcuts = measures[f"accuracy/{task}-seed257"]["shortcuts"]
        shares = {"its own thoughts": mean(model["intact"] for model in models),
                  "another problem's": mean(model["of another problem"] for model in models),
                  "best shortcut": max(line["alone"] for line in shortcuts)}
        for (name, share), color in zip(shares.items(), ("C0", "C1", "C7")):
            panel.barh(name, 100 * share, color=color)
            panel.text(100 * share - 1, name, f"{100 * share:.0f}", ha="right", va="center",
                       color="white", weight="bold")
        panel.axvline(50, color="0.5", linestyle=":")
        panel.set(xlim=(0, 100), xticks=(0, 25, 50, 75), xlabel="right answers, % (dotted: chance)",
                  title={"prosqa": "ProsQA", "prontoqa": "ProntoQA"}[task] + ", balanced")
    row[0].invert_yaxis()
    figure.suptitle("Without its own thoughts the model is at chance, or below")
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
    panel.plot(*zip(*sorted(guesses.items())), "C3:", label="best shortcut")
    panel.set(xlabel="nodes", ylabel="accuracy, % (small: each seed)", xticks=sorted(guesses))
    panel.legend(fontsize="small")
    return figure


def depth(measures):
    """Balanced ProsQA with 12 nodes over the layers: means over seeds, and each seed as a dot."""
    def cosine(line, group):
        return float(line[group].split()[0])

    numbers = (1, 2, 4, 8, 10)
    styles = {"coconut": ("coconut", "o-"), "soft": ("soft thinking", "D-."), "cot": ("cot", "s--"),
              "pause_as_thought": ("pause tokens", "^:")}
    readings = {
        "accuracy": ("accuracy, %", lambda result: 100 * result["accuracy"]),
        "intervene": ("accuracy with another\nproblem's thoughts, %",
                      lambda result: 100 * result["rows"][4]["accuracy"]),
        "tree": ("cosine with the frontier,\nminus that with nodes out of reach",
                 lambda result: mean(cosine(line, "frontier") - cosine(line, "not reachable")
                                     for line in result["superposition"][1:3]))}
    figure = Figure(figsize=(11, 3.8), dpi=130, layout="constrained")
    for panel, (what, (label, read)) in zip(figure.subplots(1, 3), readings.items()):
        for method, (name, style) in styles.items():
            found = {layers: [read(measures[run]) for run in measures if re.fullmatch(
                rf"depth/{what}/{method}-{layers}layers-seed\d+", run)] for layers in numbers}
            means = [(layers, mean(seeds)) for layers, seeds in found.items() if seeds]
            if means:
                panel.plot(*zip(*means), style, color=COLORS[method], label=name)
            for layers, seeds in found.items():
                panel.plot([layers] * len(seeds), seeds, ".", color=COLORS[method], alpha=0.5)
        if what != "tree":
            panel.set(ylim=(0, 100))
        panel.axhline(0 if what == "tree" else 50, color="0.7", linewidth=0.8)
        panel.set(xscale="log", xlim=(0.9, 11), xlabel="layers (small dots: each seed)",
                  ylabel=label)
        panel.set_xticks(numbers, numbers)
        panel.minorticks_off()
    figure.legend(*figure.axes[0].get_legend_handles_labels(), loc="outside upper center", ncols=4)
    return figure


def interventions(measures):
    """Accuracy with the thoughts replaced, on both balanced tasks, of one model each."""
    figure, (row,) = panels(9, 4.4, 1, 2)
    for task, panel in zip(("prontoqa", "prosqa"), row):
        result = measures[f"intervene/{task}-seed257"]
        for trial in reversed(result["rows"]):
            bar(panel, trial["thoughts"], trial["accuracy"], trial["interval"], "C0")
        line = panel.axvline(100 * max(result["shortcuts"].values()), color="C3", linestyle="--")
        panel.set_title(f"{task}, balanced")
    figure.legend([line], ["best shortcut"], loc="outside upper right")
    return figure


def passes():
    """Two thoughts in three forward passes: what goes into the model, and what comes out of it."""
    figure, ((panel,),) = panels(7, 7)
    inputs = ["question", "<bot>", "thought 1", "thought 2"]

    def box(left, right, y, text, color, weight="normal"):
        panel.add_patch(FancyBboxPatch(
            (left + 0.1, y - 0.25), right - left - 0.2, 0.5, facecolor=color, edgecolor="none",
            boxstyle="round,pad=0,rounding_size=0.06"))
        panel.text((left + right) / 2, y, text, ha="center", va="center", size=12, weight=weight)

    def arrow(start, end, color="0.5", path=None):
        panel.annotate("", end, start, arrowprops={
            "arrowstyle": "-|>", "color": color, "linewidth": 2, "mutation_scale": 18,
            "shrinkA": 0, "shrinkB": 0, "connectionstyle": path})

    for row, output in enumerate(["hidden state", "hidden state", "answer"]):
        y, n_inputs = -3 * row, row + 2
        panel.text(-0.15, y - 0.8, f"pass {row + 1}", ha="right", va="center", size=12)
        for place, text in enumerate(inputs[:n_inputs]):
            box(place, place + 1, y, text, "#ffc27a" if text.startswith("thought") else "#a9cdea")
            arrow((place + 0.5, y - 0.27), (place + 0.5, y - 0.53))
        box(0, n_inputs, y - 0.8, "GPT", "0.88", weight="bold")
        arrow((n_inputs - 0.5, y - 1.07), (n_inputs - 0.5, y - 1.33))
        box(n_inputs - 1, n_inputs, y - 1.6, output, "#a8dba8" if output == "answer" else "#ffc27a")
        if output != "answer":  # it is fed back
            arrow((n_inputs - 0.08, y - 1.6), (n_inputs + 0.5, y - 2.73), "C1",
                  "angle,angleA=0,angleB=90,rad=8")
    panel.set(xlim=(-0.8, 4.1), ylim=(-7.95, 0.35))
    panel.set_title("A thought is the last hidden state, fed back as an input:\n"
                    "two thoughts take three passes", size=14)
    panel.axis("off")
    return figure


def tutorial_loss():
    """The loss of the tutorial's training, by a run of the page's own code up to that block."""
    blocks = re.findall(r"```python\n(.*?)```", Path("docs/tutorial.md").read_text(), flags=re.S)
    names = {}
    while "losses" not in names:
        exec(blocks.pop(0), names)
    losses = names["losses"]
    means = [mean(losses[i:i + 10]) for i in range(0, len(losses), 10)]
    figure, ((panel,),) = panels(7, 3.4)
    panel.plot(range(10, len(losses) + 1, 10), means)
    for stage, begin in enumerate((0, 300, 400)):
        panel.axvline(begin, color="0.7", linestyle=":")
        panel.text(begin + 6, 7, f"stage {stage}", va="top", size=12)
    panel.set(yscale="log", ylim=(None, 9), xlim=(0, len(losses)), xlabel="updates",
              ylabel="training loss", yticks=[1, 0.1, 0.01], yticklabels=["1", "0.1", "0.01"],
              title="A new thought sets the loss back, but not for long")
    return figure


if __name__ == "__main__":
    measures = {line["name"]: line.get("result") for line in json_lines("results/measures.jsonl")}
    for name, figure in [("needed", needed(measures)), ("words", words()), ("passes", passes()),
                         ("tutorial_loss", tutorial_loss()), ("depth", depth(measures)),
                         ("interventions", interventions(measures))]:
        figure.savefig(f"docs/{name}.png")
    curve([RUNS + "fresh/gsm8k-seed*"], "docs/curve.png")
