"""The pictures of `python -m analysis`: matplotlib Figures of the numbers that it prints."""
from itertools import cycle
from textwrap import fill

COLORS = ["C0", "C1", "C2", "C3", "C4", "C5", "C8", "C9"]


def new_figure(width, height, rows=1, columns=1, **options):
    """A matplotlib Figure and its panels, always rows x columns. ValueError without matplotlib."""
    try:
        from matplotlib.figure import Figure
    except ImportError:
        raise ValueError("pictures are drawn with matplotlib: pip install matplotlib") from None
    figure = Figure(figsize=(width, height), layout="constrained")
    return figure, figure.subplots(rows, columns, squeeze=False, **options)


def curve(runs):
    """Loss and accuracy over steps, of [(task, label, lines on epochs), ..]: two panels a task."""
    tasks = sorted({task for task, _, _ in runs})
    colors = dict(zip(dict.fromkeys(label for _, label, _ in runs), cycle(COLORS)))
    figure, panels = new_figure(1 + 4.2 * len(tasks), 5.6, 2, len(tasks), sharex="col",
                                sharey="row")
    for task, (above, below) in zip(tasks, panels.T):
        labelled = set()
        some = [(label, epochs) for own, label, epochs in runs if own == task and epochs]
        for label, epochs in some:
            steps = [line["step"] for line in epochs]
            style = {"color": colors[label], "linewidth": 1, "alpha": 0.8}
            above.plot(steps, [line["train_loss"] for line in epochs], linestyle=":", **style)
            above.plot(steps, [line["val_loss"] for line in epochs], **style)
            below.plot(steps, [100 * line["val_accuracy"] for line in epochs], **style,
                       label=fill(label, 40) if label not in labelled else None)
            labelled.add(label)
        mark_stages(above, below, [epochs for _, epochs in some])
        above.set(title=task, yscale="log")
        below.set(xlabel="optimizer steps", ylim=(0, 103))
        below.legend(loc="lower right", fontsize="small")
    panels[0, 0].set_ylabel("loss, nats a supervised token\n(dotted: in training)")
    panels[1, 0].set_ylabel("accuracy on validation problems, %")
    return figure


def mark_stages(above, below, runs):
    """A dashed line where the first run that has stages enters one, with the stage's number."""
    starts = []  # of each run: [(step, stage), ..]
    for epochs in runs:
        before = [{"step": 0, "stage": None}, *epochs]
        starts.append([(last["step"], line["stage"]) for last, line in zip(before, epochs)
                       if line["stage"] != last["stage"]])
    for step, stage in max(starts, key=len, default=[]):
        for panel in (above, below):
            panel.axvline(step, color="gray", linewidth=0.7, linestyle="--")
        above.annotate(f"stage {stage}" if stage == 0 else str(stage), (step, 1), (3, -9),
                       xycoords=("data", "axes fraction"), textcoords="offset points",
                       fontsize="small", color="gray")


def spread(rows):
    """How far the interval of an accuracy goes below and above it, in %."""
    return [[100 * abs(row["accuracy"] - row["interval"][side]) for row in rows] for side in (0, 1)]


def sweep(result):
    """Left the accuracy over the number of thoughts, right the shares of the kinds of answer."""
    rows = result["rows"]
    names = [name for name in rows[0] if name not in ("thoughts", "accuracy", "interval", "tokens")]
    figure, panels = new_figure(4.5 * (2 if names else 1), 3.6, 1, 2 if names else 1)
    ks = [row["thoughts"] for row in rows]
    ys = [100 * row["accuracy"] for row in rows]
    panels[0, 0].errorbar(ks, ys, yerr=spread(rows), capsize=3)
    panels[0, 0].set(xlabel="thoughts", ylabel="accuracy, % (95 % interval)", xticks=ks,
                     ylim=(0, 103), title=f"n = {result['n']}")
    if names:
        below = [0.0] * len(rows)
        for name, color in zip(names, ["C2", "C8", "C0", "C1", "C3", "C7"]):
            shares = [100 * row[name] for row in rows]
            panels[0, 1].bar(ks, shares, bottom=below, label=name, color=color)
            below = [a + b for a, b in zip(below, shares)]
        panels[0, 1].set(xlabel="thoughts", ylabel="share of answers, %", xticks=ks)
        figure.legend(loc="outside right upper", fontsize="small", reverse=True)
    return figure


def tree(result):
    """The graph once for every number of thoughts; a node's area is its value."""
    place, count = {result["root"]: (0, 0.0)}, {}
    farthest = max((node["hops"] or 0) for node in result["nodes"])
    for node in result["nodes"]:
        hops = farthest + 1 if node["hops"] is None else node["hops"]
        place[node["node"]] = (hops, -count.setdefault(hops, 0))
        count[hops] += 1
    for hops, size in count.items():  # centre every column
        for name, (x, y) in place.items():
            if x == hops and name != result["root"]:
                place[name] = (x, y + (size - 1) / 2)
    n = len(result["nodes"][0]["values"])
    figure, panels = new_figure(4.4 * min(n, 2), 3.0 * -(-n // 2), -(-n // 2), min(n, 2))
    for k, panel in enumerate(panels.flat):
        panel.axis("off")
        if k >= n:
            continue
        for parent, children in result["children"].items():
            for child in children:
                if parent in place and child in place:
                    (x, y), (u, v) = place[parent], place[child]
                    panel.plot([x, u], [y, v], color="lightgray", linewidth=0.8, zorder=0)
        panel.annotate(result["root"], place[result["root"]], ha="center", fontsize="small")
        for node in result["nodes"]:
            x, y = place[node["node"]]
            color = "C2" if node["optimal"] else "C7" if node["hops"] is None else "C0"
            panel.scatter(x, y, s=1 + 350 * node["values"][k], color=color, alpha=0.6, linewidth=0)
            panel.annotate(f"{node['node']}\n{node['values'][k]:.2f}", (x, y), ha="center",
                           va="center", fontsize=6.5)
        ys = [y for _, y in place.values()]
        panel.set(title=f"after {k} thought{'' if k == 1 else 's'}", xlim=(-0.5, farthest + 1.5),
                  ylim=(min(ys) - 0.7, max(ys) + 0.7))
        panel.title.set_fontsize("medium")
    figure.supxlabel(f"hops from {result['root']}; area: value; green: on a shortest way to "
                     f"{result['target']}; gray: cannot be reached", fontsize="small")
    return figure


def frontier(result):
    """Above the paper's Figure 6, below its Figure 7, a column for each number of thoughts. Means
    over less than five nodes, and columns of less than five problems, are left out."""
    steps = [step for step in result["parallelism"] if step["problems"] >= 5]
    if not steps:
        raise ValueError("too few problems to draw the frontier of: take more by --n")
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


def superposition(result):
    """Bars of the mean cosine: a group for each thought, a bar for each kind of node."""
    rows = result["rows"]
    names = [name for name in rows[0] if name != "thought"]
    figure, panels = new_figure(1.5 + 1.6 * len(rows), 3.6)
    for i, (name, color) in enumerate(zip(names, ["C7", "C0", "C1", "C2"])):
        some = [row for row in rows if row[name]]
        panels[0, 0].bar([row["thought"] + 0.2 * (i - 1.5) for row in some],
                         [row[name]["mean"] for row in some], 0.18, label=name, color=color)
    panels[0, 0].axhline(0, color="black", linewidth=0.7)
    panels[0, 0].set(xlabel="thought", ylabel="mean cosine with a node's embedding",
                     xticks=[row["thought"] for row in rows], title=f"n = {result['n']}")
    figure.legend(loc="outside right upper", fontsize="small")
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
