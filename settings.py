"""
Every option of a run, in one place: the fields of Settings, and what each task sets them to.

`python train.py --help` prints them; a run saves its settings in its checkpoint and metrics.jsonl.
"""
import argparse
from dataclasses import dataclass, field, fields

from curriculum import METHODS, Curriculum
from tasks import GENERATED, SIZES


def option(help, default=None, **kwargs):
    return field(default=default, metadata={"help": help, **kwargs})


@dataclass
class Settings:
    """All options of a run. Where the default is None, the tables below have one for each task."""
    task: str = option("what to learn", "prontoqa", choices=list(SIZES))
    method: str = option("what takes the place of the steps", "coconut", choices=list(METHODS))
    data: str = option("generated, balanced, official, a folder or a file", "generated")
    init: str = option("scratch, gpt2, gpt2-medium, gpt2-large, gpt2-xl, a file like theirs (64 "
                       "dimensions a head), or a checkpoint of train.py", "scratch")
    tokenizer: str = option("default: word from scratch, else gpt2", choices=["word", "gpt2"])
    out_dir: str = option("folder of the run (default: out/TASK-METHOD)")
    resume: bool = option("go on with the run in out_dir", False)
    device: str = option("auto, cpu, cuda, mps ..", "auto")
    dtype: str = option("of matrix products; bfloat16 is for GPUs", "float32",
                        choices=["float32", "bfloat16"])
    seed: int = option("of weights, problems, their order, and dropout", 0)

    hops: int = option("generated ProntoQA: hops of a proof, 1-6")
    wording: str = option("generated ProntoQA: mixed (as official) or every (one form)")
    nodes: int = option("generated ProsQA: nodes of a graph")
    steps: str = option("generated ProsQA and ProntoQA: sentences (as official) or bare names")
    max_value: int = option("generated arithmetic: largest number")
    most_steps: int = option("generated arithmetic: most steps")
    mixed_size: bool = option("mix easier problems into training, at first only those")
    n_train: int = option("training problems in an epoch; 0: all there are")
    n_valid: int = option("validation problems; 0: all there are")
    n_test: int = option("test problems; 0: all there are")

    n_layer: int = option("layers, from scratch")
    n_head: int = option("attention heads, from scratch")
    n_embd: int = option("width, from scratch")
    block_size: int = option("most tokens in a sequence, from scratch")
    dropout: float = option("share of activations dropped in training")

    c_thought: int = option("thoughts for each step that is gone")
    eot: bool = option("mark the end of the thoughts, as the paper does")
    max_latent_stage: int = option("the last stage that adds thoughts; from scratch by size")
    extra_stage: bool = option("end with a stage that drops all steps that are left")
    epochs: int = option("epochs in all; from scratch more if there are more stages")
    epochs_stage_0: int = option("epochs of stage 0, in which every step is written")
    epochs_per_stage: int = option("epochs of each later stage but the last")
    uniform_prob: float = option("chance that an example takes a random stage", 0.0)
    icot_tokens: int = option("icot: tokens removed each epoch")
    icot_all_beyond: int = option("icot: once it would remove more than this, it removes all")
    icot_smoothing: float = option("icot: o more go with a chance ~ exp(-icot_smoothing o)", 4.0)

    batch_size: int = option("problems in an optimizer step")
    micro_batch: int = option("problems at a time, to save memory (default: batch_size)")
    learning_rate: float = option("constant, but for the next two")
    warmup_steps: int = option("steps from rate 0 to learning_rate, after every optimizer reset")
    decay_epochs: int = option("epochs at the end, over which the rate falls to 0")
    beta2: float = option("of AdamW")
    weight_decay: float = option("of AdamW", 0.01)
    grad_clip: float = option("largest norm of the gradient; 0: no limit")
    reset_optimizer: bool = option("start AdamW anew at each stage, as the paper does", True)
    max_new_tokens: int = option("most tokens written in an evaluation")
    max_steps: int = option("cut the run at this step, but still evaluate and save")
    save_every: float = option("seconds from one saving of the run to the next")

    @property
    def generated(self):
        """Whether tasks.py makes the problems; else they come from files."""
        return self.data in GENERATED

    def size(self):
        """The size of generated problems, as tasks.problems takes it."""
        return {name: getattr(self, name) for name in SIZES[self.task]}

    def curriculum(self):
        return Curriculum(**{f.name: getattr(self, f.name) for f in fields(Curriculum)})


# Where a setting is None the task decides. From scratch: sizes that learn on two CPU cores.
TASKS =                ("prontoqa", "prosqa", "gsm8k")
SCRATCH = {
    "hops":             (2,          None,     None),
    "wording":          ("every",    None,     None),
    "nodes":            (None,       8,        None),
    "steps":            ("names",    "names",  None),
    "max_value":        (None,       None,     30),
    "most_steps":       (None,       None,     2),
    "mixed_size":       (True,       True,     False),
    "n_train":          (6400,       6400,     6400),
    "n_valid":          (200,        200,      200),
    "n_test":           (500,        500,      500),
    "n_layer":          (4,          4,        4),
    "n_head":           (4,          4,        4),
    "n_embd":           (128,        128,      128),
    "block_size":       (512,        512,      512),
    "dropout":          (0.0,        0.0,      0.0),
    "c_thought":        (1,          1,        2),
    "eot":              (False,      False,    True),
    "extra_stage":      (False,      True,     False),
    "epochs_stage_0":   (8,          10,       9),
    "epochs_per_stage": (3,          3,        4),
    "epochs":           (22,         32,       27),
    "icot_tokens":      (1,          1,        4),
    "icot_all_beyond":  (9,          9,        39),
    "batch_size":       (32,         32,       32),
    "learning_rate":    (5e-4,       5e-4,     5e-4),
    "beta2":            (0.98,       0.98,     0.98),
    "warmup_steps":     (50,         50,       50),
    "decay_epochs":     (6,          8,        6),
    "grad_clip":        (1.0,        1.0,      1.0),
    "max_new_tokens":   (128,        128,      64),
    "save_every":       (10.0,       10.0,     10.0),
}
# The paper's recipe, section 5.1 and the official args/*.yaml, for pre-trained weights.
PAPER = {
    "hops":             (5,          None,     None),
    "wording":          ("mixed",    None,     None),
    "nodes":            (None,       28,       None),
    "steps":            ("sentences", "sentences", None),
    "max_value":        (None,       None,     99999),
    "most_steps":       (None,       None,     5),
    "mixed_size":       (False,      False,    False),
    "n_train":          (9000,       17886,    385620),
    "n_valid":          (200,        300,      500),
    "n_test":           (800,        500,      1319),
    "dropout":          (0.1,        0.1,      0.1),
    "c_thought":        (1,          1,        2),
    "eot":              (True,       True,     True),
    "max_latent_stage": (6,          6,        3),
    "extra_stage":      (False,      False,    True),
    "epochs_stage_0":   (5,          5,        6),
    "epochs_per_stage": (5,          5,        3),
    "epochs":           (50,         50,       50),
    "icot_tokens":      (8,          8,        8),
    "icot_all_beyond":  (104,        72,       39),
    "batch_size":       (128,        128,      128),
    "learning_rate":    (1e-4,       1e-4,     1e-4),
    "beta2":            (0.999,      0.999,    0.999),
    "warmup_steps":     (0,          0,        0),
    "decay_epochs":     (0,          0,        0),
    "grad_clip":        (0.0,        0.0,      0.0),
    "max_new_tokens":   (128,        128,      64),
    "save_every":       (300.0,      300.0,    300.0),
}


def parse(argv=None):
    """The options that a person typed, and only those, as a dict."""
    parser = argparse.ArgumentParser(
        description="Train a model to reason in continuous thoughts.", allow_abbrev=False,
        usage="python train.py [options]   (--help explains them)",
        epilog=f"Defaults in brackets are those of {', '.join(TASKS)}: from scratch | on GPT-2.")
    for f in fields(Settings):
        text, default = f.metadata["help"], argparse.SUPPRESS  # leaves out what was not typed
        if f.name in SCRATCH or f.name in PAPER:
            rows = [[str(value) for value in table.get(f.name, ()) if value is not None]
                    for table in (SCRATCH, PAPER)]
            rows = [row if len(set(row)) > 1 else row[:1] for row in rows]  # say it once
            text += f" [{' | '.join(', '.join(row) or '-' for row in rows)}]"
        elif f.default is not None:
            text += f" (default: {f.default})"
        if f.type is bool:
            parser.add_argument(f"--{f.name}", action=argparse.BooleanOptionalAction, help=text,
                                default=default)
        else:
            choices = f.metadata.get("choices")
            parser.add_argument(f"--{f.name}", type=f.type, choices=choices, help=text,
                                default=default, metavar=None if choices else f.type.__name__)
    return vars(parser.parse_args(argv))


def complete(given, saved=None):
    """Settings: the options given, the task's values for the rest. ValueError if they clash.

    saved: the settings of the run whose checkpoint --init names, if so: they go before the tables.
    """
    s = Settings(**given)
    recipe = SCRATCH if s.init == "scratch" else PAPER
    if not s.generated:  # files hold chains like the paper's
        chains = {name: PAPER[name] for name in
                  ("steps", "c_thought", "eot", "max_latent_stage", "extra_stage", "icot_tokens",
                   "icot_all_beyond")}
        recipe = recipe | chains | {name: (0, 0, 0) for name in ("n_train", "n_valid", "n_test")}
    values = {name: row[TASKS.index(s.task)] for name, row in recipe.items()}
    if saved and saved["task"] == s.task:
        same = s.generated == Settings(**saved).generated
        own = set() if same else {"steps", "n_train", "n_valid", "n_test"}  # what the data decides
        values |= {name: saved[name] for name in saved.keys() & values.keys() - own}
    for name, value in values.items():
        if getattr(s, name) is None:
            setattr(s, name, value)
    if s.max_latent_stage is None:  # so many that every step is a thought at the end
        s.max_latent_stage = usual_steps(s)
    if s.init == "scratch" and "epochs" not in given:  # time for every stage, and more for the last
        last = s.max_latent_stage + s.extra_stage
        s.epochs = max(s.epochs, s.epochs_stage_0 + s.epochs_per_stage * last + 2)
    if s.tokenizer is None:
        s.tokenizer = saved["tokenizer"] if saved else "word" if s.init == "scratch" else "gpt2"
    if s.micro_batch is None:
        s.micro_batch = s.batch_size
    s.out_dir = s.out_dir or f"out/{s.task}-{s.method}"
    check(s, given)
    return s


def label(s):
    """The method of a run, with the options that make it another than the task's default one, but
    for what follows from the size of its problems."""
    sizes = s.size() if s.generated else {}
    same = {name: getattr(s, name) for name in ("task", "method", "data", "init")}
    usual, usual_at_this_size = complete(same), complete(same | sizes)
    free = {"seed", "out_dir", "device", "resume", "micro_batch", "save_every"}
    words = [s.method] + [f"--init {s.init}"] * (s.init != "scratch")
    for name in (f.name for f in fields(Settings) if f.name not in free | unused(s).keys()):
        value = getattr(s, name)
        if value != getattr(usual if name in sizes else usual_at_this_size, name):
            words.append(f"--{'no-' * (value is False)}{name}" if isinstance(value, bool)
                         else f"--{name} {value}")
    return " ".join(words)


def usual_steps(s):
    """The number of steps that few generated problems exceed."""
    if s.task == "gsm8k":
        return s.most_steps
    sentences = s.hops + 1 if s.task == "prontoqa" else 6 if s.nodes >= 20 else 3
    return sentences + (s.steps == "names")  # the first says who, or what, is asked


def unused(s):
    """{option: why} of those that would change nothing."""
    fill, steps = METHODS[s.method]
    sizes = " ".join(name for names in SIZES.values() for name in names)
    others = " ".join(name for name in sizes.split() if name not in SIZES[s.task])
    return {name: why for ignored, names, why in [
        (True, others, f"--task {s.task} has the sizes {', '.join(SIZES[s.task])}"),
        (not s.generated, sizes + " mixed_size", f"--data {s.data} holds the problems there are"),
        (s.init != "scratch", "n_layer n_head n_embd block_size tokenizer", "--init has its own"),
        (not fill, "c_thought eot", f"--method {s.method} has no thoughts"),
        (not fill and steps != "stage", "max_latent_stage", f"--method {s.method} has no thoughts"),
        (steps != "stage", "extra_stage uniform_prob epochs_per_stage", "no stages of steps"),
        (steps in ("all", "none"), "epochs_stage_0 reset_optimizer", f"{s.method} has one stage"),
        (steps != "tokens", "icot_tokens icot_all_beyond icot_smoothing", "it is for icot"),
    ] if ignored for name in names.split()}


def check(s, given):
    """Raise ValueError for an option that would change nothing, or for a value without sense."""
    for name, why in unused(s).items():
        if name in given:
            raise ValueError(f"--{name} would change nothing: {why}")
    positive = "n_layer n_head n_embd block_size c_thought epochs epochs_per_stage icot_tokens " \
               "icot_smoothing batch_size micro_batch learning_rate max_new_tokens max_steps"
    counts = "n_train n_valid n_test"
    for name in (positive + " " + counts if s.generated else positive).split():
        if getattr(s, name) is not None and not getattr(s, name) > 0:
            raise ValueError(f"--{name} must be more than 0, not {getattr(s, name)}")
    not_negative = "seed epochs_stage_0 max_latent_stage warmup_steps decay_epochs weight_decay " \
                   "grad_clip save_every"
    for name in (not_negative + " " + counts).split():
        if not 0 <= getattr(s, name) < 2**63:
            raise ValueError(f"--{name} must be 0 or more, not {getattr(s, name)}")
    for name in ("dropout", "uniform_prob", "beta2"):
        if not 0 <= getattr(s, name) <= 1:
            raise ValueError(f"--{name} is a probability, which {getattr(s, name)} is not")
    if s.init == "scratch" and (s.n_embd % s.n_head or s.n_embd % 2):
        raise ValueError(f"--n_embd {s.n_embd} must be even, and a multiple of --n_head {s.n_head}")
