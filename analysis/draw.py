"""The pictures of `python -m analysis`: matplotlib Figures of the numbers that it prints."""
from itertools import pairwise
from textwrap import fill

from tasks.record import UserError

COLORS = {"coconut": "C0", "cot": "C2", "pause_as_thought": "C1", "no_cot": "C7"}


def new_figure(width, height, rows=1, columns=1, **options):
    """A matplotlib Figure and its panels, always rows x columns. UserError without matplotlib."""
    try:
        from matplotlib.figure import Figure
    except ImportError:
        raise UserError("pictures are drawn with matplotlib: pip install matplotlib") from None
    figure = Figure(figsize=(width, height), dpi=130, layout="constrained")
    return figure, figure.subplots(rows, columns, squeeze=False, **options)


def passes(tokens, thought, learned):
    """The columns of a row against its forward passes: which pass computes which columns, and where
    its last state goes. thought, learned: whether each token is a thought, and has a loss."""
    starts = [0, *(i for i, is_thought in enumerate(thought) if is_thought), len(tokens)]
    figure, ((panel,),) = new_figure(7, 0.7 * len(starts))
    for row, (start, end) in enumerate(pairwise(starts)):
        for column, token in enumerate(tokens[:end]):
            color = "0.92" if column < start else "#ffc27a" if thought[column] else "#a9cdea"
            panel.text(column, row, f"{token:^5}", ha="center", va="center", family="monospace",
                       color="0.6" if column < start else "black",
                       bbox={"boxstyle": "round", "facecolor": color, "edgecolor": "none"})
        if end < len(tokens):
            panel.annotate("", (end, row + 0.72), (end - 1, row + 0.28), arrowprops={
                "arrowstyle": "-|>", "color": "C1", "linewidth": 2})
    for column, is_learned in enumerate(learned):
        if is_learned:
            panel.text(column, len(starts) - 1.4, "target", ha="center", color="C3")
    panel.set(xlim=(-0.6, len(tokens) - 0.4), ylim=(len(starts) - 1.3, -0.5), xticks=[],
              yticks=range(len(starts) - 1), xlabel="gray: kept from earlier passes; orange: a "
              "thought, which is the last state of the pass before",
              yticklabels=[f"pass {i}" for i in range(1, len(starts))])
    panel.spines[:].set_visible(False)
    panel.tick_params(length=0)
    return figure


def bars(groups):
    """Accuracy by method, with its interval: [{task, data, method, accuracy, interval, guess}, ..].
    A panel for each task, left where a guess helps and right where none does; dashed: the guess
    on the problems of the topmost bar."""
    tasks, datas = (sorted({group[key] for group in groups}, reverse=key == "data")
                    for key in ("task", "data"))
    figure, panels = new_figure(7, 2.6 * len(tasks), len(tasks), len(datas), sharex=True,
                                sharey=True)
    for task, row in zip(tasks, panels):
        for data, panel in zip(datas, row):
            some = [group for group in groups if (group["task"], group["data"]) == (task, data)]
            if not some:
                panel.axis("off")
                continue
            some.sort(key=lambda group: -list(COLORS).index(group["method"]))
            panel.barh([group["method"] for group in some], [100 * g["accuracy"] for g in some],
                       xerr=spread(some), capsize=3, color=[COLORS[g["method"]] for g in some])
            guess = panel.axvline(100 * some[-1]["guess"], color="C3", linestyle="--")
            panel.set(title=task if data == "generated" else f"{data} {task}", xlim=(0, 103))
    for panel in panels[-1]:
        panel.set_xlabel("accuracy, %\n(95 % interval over problems)")
    figure.legend([guess], ["best guess"], loc="outside upper right")
    return figure


def sizes(rows, name):
    """Accuracy over a size of the problems, a line for each method and number of layers, with its
    interval: [{method, layers, size, accuracy, interval, seeds, guess}, ..]. A dot is a seed."""
    figure, ((panel,),) = new_figure(7, 4)
    rows = sorted(rows, key=lambda row: (row["layers"], row["method"], row["size"]))
    depths = sorted({row["layers"] for row in rows})
    for method, layers in dict.fromkeys((row["method"], row["layers"]) for row in rows):
        line = [row for row in rows if (row["method"], row["layers"]) == (method, layers)]
        style = {"color": COLORS.get(method, "C4"), "marker": "os^"[depths.index(layers) % 3]}
        panel.errorbar([row["size"] for row in line], [100 * row["accuracy"] for row in line],
                       yerr=spread(line), capsize=3, label=f"{method}, {layers} layers",
                       linestyle=["-", "--", ":"][depths.index(layers) % 3], **style)
        for row in line:
            panel.plot([row["size"]] * len(row["seeds"]), [100 * seed for seed in row["seeds"]],
                       linestyle="", markersize=3, alpha=0.5, **style)
    rows.sort(key=lambda row: len(row["seeds"]))  # the guess of the row with the most problems
    guesses = {row["size"]: 100 * row["guess"] for row in rows}
    panel.plot(*zip(*sorted(guesses.items())), color="C3", linestyle="-.", label="best guess")
    panel.set(xlabel=f"{name} (small: each seed; bars: 95 % interval over problems)",
              ylabel="accuracy, %", xticks=sorted(guesses))
    panel.legend(fontsize="small")
    return figure


def curve(runs):
    """Loss and accuracy over steps, of [(label, lines on epochs), ..]: of each label the first run
    is bold, the others faint. A dashed line stands where a stage begins."""
    figure, ((above,), (below,)) = new_figure(7, 6.4, 2, sharex=True)
    labels = list(dict.fromkeys(label for label, _ in runs))
    for i, (label, epochs) in enumerate(runs):
        first = label not in (other for other, _ in runs[:i])
        style = {"color": f"C{labels.index(label)}", "linewidth": 2 if first else 0.8,
                 "alpha": 1 if first else 0.45}
        steps = [line["step"] for line in epochs]
        above.plot(steps, [line["train_loss"] for line in epochs], linestyle=":", **style)
        above.plot(steps, [line["val_loss"] for line in epochs], **style)
        below.plot(steps, [100 * line["val_accuracy"] for line in epochs], **style,
                   label=fill(label, 60) if first else None)
    for last, line in pairwise([{"step": 0, "stage": None}, *runs[0][1]]):
        if line["stage"] != last["stage"]:
            for panel in (above, below):
                panel.axvline(last["step"], color="0.6", linewidth=0.8, linestyle="--")
            above.annotate(f"stage {line['stage']}", (last["step"], 1), (3, -4), color="0.4",
                           rotation=90, va="top", xycoords=("data", "axes fraction"),
                           textcoords="offset points")
    above.set(yscale="log", ylabel="loss, nats a token\n(dotted: in training)")
    below.set(xlabel="optimizer steps", ylabel="accuracy, %", ylim=(0, 103))
    below.legend(loc="lower right")
    return figure


def spread(rows):
    """How far the interval of an accuracy goes below and above it, in %."""
    return [[100 * abs(row["accuracy"] - row["interval"][side]) for row in rows] for side in (0, 1)]


def tree(result):
    """The graph once for every number of thoughts that leaves a node in mind; a node is the darker
    the likelier it is named next."""
    return graph(result, lambda k: f"after {k} thought{'' if k == 1 else 's'}", 0.05, 1,
                 "a number is how likely the node is named next")


def cosines(result):
    """The graph once for every thought; a node is the darker the nearer its name's embedding."""
    return graph(result, lambda k: f"thought {k + 1}", 0.2, 0.5,
                 "a number is the cosine of the thought with the name")


def graph(result, title, least, darkest, meaning):
    """The graph of graphs.beside_graph once for the k-th values of its nodes, with title(k), if one
    of them is above `least`. Nodes that cannot be reached are left out if none of theirs is. A node
    is the darker the higher its value, and darkest from `darkest` on."""
    place, rows = {result["root"]: (0, 0)}, {}
    farthest = max(node["hops"] or 0 for node in result["nodes"])
    shown = [node for node in result["nodes"]
             if node["hops"] is not None or max(node["values"]) > least]
    for node in shown:
        rows.setdefault(node["hops"] or farthest + 1, []).append(node["node"])
    for hops, names in rows.items():
        for i, name in enumerate(names):  # every column is centred
            place[name] = (hops, i - (len(names) - 1) / 2)
    steps = [k for k in range(len(shown[0]["values"]))
             if k == 0 or max(node["values"][k] for node in shown) > least]
    most = max(map(len, rows.values()))
    figure, panels = new_figure(7, (0.6 + 0.5 * most) * len(steps), len(steps))
    for (panel,), k in zip(panels, steps):
        panel.axis("off")
        for parent, children in result["children"].items():
            for child in children:
                if parent in place and child in place:
                    panel.plot(*zip(place[parent], place[child]), color="0.75", zorder=0)
        panel.text(*place[result["root"]], result["root"], ha="center", va="center",
                   bbox={"boxstyle": "round", "facecolor": "0.92", "edgecolor": "none"})
        for node in shown:
            value = min(max(0, node["values"][k] / darkest), 1)
            panel.text(*place[node["node"]], f"{node['node']} {node['values'][k]:.2f}",
                       ha="center", va="center", color="white" if value > 0.5 else "black",
                       bbox={"boxstyle": "round", "facecolor": (1 - value, 1 - 0.6 * value, 1),
                             "edgecolor": "C2" if node["optimal"] else "0.75", "linewidth": 2})
        panel.set_title(title(k), loc="left")
        panel.set(xlim=(-0.3, farthest + 0.6), ylim=(most / 2, -most / 2))
    figure.supxlabel(f"one column a hop from {result['root']}; green: on a shortest way to "
                     f"{result['target']};\n{meaning}")
    return figure


def frontier(result):
    """Above the paper's Figure 6, below its Figure 7, a column for each number of thoughts. Means
    over less than five nodes, and columns of less than five problems, are left out."""
    steps = [step for step in result["parallelism"] if step["problems"] >= 5]
    if not steps:
        raise UserError("too few problems to draw the frontier of: take more by --n")
    figure, panels = new_figure(3.2 * len(steps), 5.4, 2, len(steps), sharey=True)
    for (above, below), step in zip(panels.T, steps):
        n, k = step["problems"], step["thoughts"]
        for top, values in enumerate(step["top"], start=1):
            above.plot([100 * (i + 1) / n for i in range(n)], values, label=f"top {top}")
        above.set(title=f"after {k} thought{'' if k == 1 else 's'} (n = {n})",
                  xlabel="percentile of problems")
        for correct, color in ((True, "C2"), (False, "C3")):
            rows = [row for row in result["heights"] if row["nodes"] >= 5
                    and (row["thoughts"], row["correct"]) == (k, correct)]
            below.plot([row["height"] for row in rows], [row["value"] for row in rows], color=color,
                       marker="o", label="leads to the answer" if correct else "does not")
        below.set(xlabel="height, hops to the nearest leaf", ylim=(-0.03, 1.03))
        below.xaxis.get_major_locator().set_params(integer=True)
    panels[0, 0].set_ylabel("sum of the highest values")
    panels[1, 0].set_ylabel("mean value of a candidate")
    panels[0, 0].legend(fontsize="small")
    panels[1, 0].legend(fontsize="small")
    return figure


def intervene(result):
    """A bar for each intervention, and a dashed line for the best shortcut."""
    rows = result["rows"][::-1]
    figure, panels = new_figure(7, 0.8 + 0.4 * len(rows))
    panel, ys = panels[0, 0], [100 * row["accuracy"] for row in rows]
    panel.barh([row["thoughts"] for row in rows], ys, xerr=spread(rows), capsize=3, color="C0",
               alpha=0.7)
    if result["shortcuts"]:
        panel.axvline(100 * max(result["shortcuts"].values()), color="C3", linestyle="--",
                      label="best shortcut")
    panel.set(xlabel=f"accuracy, % (95 % interval, n = {result['n']})", xlim=(0, 103))
    figure.legend(loc="outside right upper", fontsize="small")
    return figure
