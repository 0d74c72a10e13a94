"""
Every option of a run: the fields of Settings, and what they are where nobody says otherwise.

`python train.py --help` prints them; a run saves its settings in its checkpoint and metrics.jsonl.
"""
import argparse
from dataclasses import dataclass, field, fields, make_dataclass

from curriculum import METHODS, Curriculum
from tasks import SIZES, TASKS, tasks_with
from tasks.common import GENERATED
from tasks.record import UserError


def count(text):
    """The type of an option that counts something."""
    if int(text) < 0:
        raise ValueError
    return int(text)


def option(help, default=None, **kwargs):
    return field(default=default, metadata={"help": help, **kwargs})


@dataclass
class Options:
    """All options of a run but the sizes of problems. For a default of None see DEFAULTS."""
    unknown = {}  # settings of a saved run that this version does not have
    task: str = option("what to learn; after --init CKPT the same as there", "prontoqa",
                       choices=list(TASKS))
    method: str = option("what takes the place of the steps", "coconut", choices=list(METHODS))
    data: str = option("problems: balanced (drawn so that no known shortcut guesses well; the "
                       "default where a task has it), generated (like the released ones, "
                       "shortcuts included), official (downloaded), a folder or a file")
    init: str = option("weights to start with: scratch (random), gpt2, gpt2-medium, gpt2-large, "
                       "gpt2-xl, a file of that layout, or a checkpoint of train.py", "scratch")
    tokenizer: str = option("default: word from scratch, else gpt2", choices=["word", "gpt2"])
    out_dir: str = option("folder of the run (default: out/TASK-METHOD)")
    resume: bool = option("go on with the run in out_dir", False)
    device: str = option("auto (the fastest there is), cpu, cuda, mps ..", "auto")
    dtype: str = option("of matrix products; bfloat16 is for GPUs", "float32",
                        choices=["float32", "bfloat16"])
    seed: int = option("of weights, problems, their order, and dropout", 0)

    grow: int = option("epochs over which training problems grow to full size; 0: they do not")
    n_train: int = option("training problems in an epoch; 0: all there are")
    n_valid: int = option("validation problems; 0: all there are")
    n_test: int = option("test problems; 0: all there are")

    n_layer: int = option("layers, from scratch")
    n_head: int = option("attention heads, from scratch")
    n_embd: int = option("width, from scratch")
    block_size: int = option("longest sequence in tokens, from scratch")
    dropout: float = option("share of activations dropped in training")

    c_thought: int = option("thoughts in the place of each step")
    eot: bool = option("mark the end of the thoughts by <|eot|>, as the paper does")
    max_latent_stage: int = option("the last stage that adds thoughts; from scratch by size")
    extra_stage: bool = option("end with a stage that drops all steps that are left")
    epochs: int = option("epochs in all; from scratch more, if there are more stages")
    epochs_stage_0: int = option("epochs of stage 0, in which every step is written")
    epochs_per_stage: int = option("epochs of each later stage but the last")
    uniform_prob: float = option("stage mixing: chance that a problem takes a random stage", 0.0)
    icot_tokens: int = option("icot: tokens removed over an epoch, one after the other")
    icot_all_beyond: int = option("icot: once so many tokens are removed, all are")

    batch_size: int = option("problems in an optimizer step")
    micro_batch: int = option("problems at a time, to save memory (default: batch_size)")
    optimizer: str = option("muon (AdamW, but for matrices) or adamw", choices=["muon", "adamw"])
    learning_rate: float = option("the highest; the next two options lower it")
    warmup_steps: int = option("steps from rate 0 to learning_rate, after every optimizer reset")
    decay_epochs: int = option("epochs at the end, over which the rate falls to 0")
    beta2: float = option("AdamW's memory of squared gradients")
    weight_decay: float = option("AdamW's pull of the weights towards 0", 0.01)
    grad_clip: float = option("a longer gradient is scaled to this norm; 0: none is")
    reset_optimizer: bool = option("start the optimizer anew at each stage, as the paper does")
    max_new_tokens: int = option("most tokens written for an answer")
    max_steps: int = option("end the run at this step, evaluated and saved")
    save_every: float = option("seconds from one saving of the run to the next")

    @property
    def generated(self):
        """Whether the problems are drawn; else they come from files."""
        return self.data in GENERATED

    def size(self):
        """The size of generated problems, as common.problems takes it."""
        return {name: getattr(self, name) for name in TASKS[self.task].SIZES}

    def curriculum(self):
        return Curriculum(**{f.name: getattr(self, f.name) for f in fields(Curriculum)})


Settings = make_dataclass("Settings", bases=(Options,), fields=[  # with an option for each size
    (name, type(size.official), option(f"generated {', '.join(tasks)}: {size.text}"))
    for name, (size, tasks) in SIZES.items()])


def read_settings(saved):
    """The Settings in a checkpoint or a log, which may have old names. Those that are not here, a
    patch's say, are told and kept in s.unknown. UserError for a task or method that is not here."""
    renamed = {"mixed_size": "grow"}
    saved = {renamed.get(name, name): value for name, value in saved.items()}
    if isinstance(saved.get("grow"), bool):  # it had a fixed number of epochs
        saved["grow"] *= {"prontoqa": 2, "prosqa": 6}.get(saved["task"], 0)
    saved.setdefault("optimizer", "adamw")  # there was no other
    saved.pop("icot_smoothing", None)  # an option once, and always 4
    known = {f.name for f in fields(Settings)}
    s = Settings(**{name: value for name, value in saved.items() if name in known})
    s.unknown = {name: value for name, value in saved.items() if name not in known}
    if s.task not in TASKS or s.method not in METHODS:
        raise UserError(f"no task {s.task}, or no method {s.method}")
    if s.unknown:
        told = ", ".join(f"{name} = {value}" for name, value in s.unknown.items())
        print(f"note: settings that this version does not have: {told}")
    return s


# What a setting is where its default is None, from scratch and on GPT-2, unless SCRATCH or PAPER in
# the task's own file says otherwise. From scratch: sizes that learn on two CPU cores. On GPT-2: the
# paper's recipe, section 5.1 and the official args/*.yaml.
#                       SCRATCH  PAPER
DEFAULTS = {
    "grow":             (0,      0),
    "n_train":          (6400,   6400),
    "n_valid":          (200,    200),
    "n_test":           (500,    500),
    "n_layer":          (2,      None),
    "n_head":           (4,      None),
    "n_embd":           (96,     None),
    "block_size":       (512,    None),
    "dropout":          (0.0,    0.1),
    "c_thought":        (1,      1),
    "eot":              (True,   True),
    "max_latent_stage": (None,   6),  # None: it is in the task's file
    "extra_stage":      (False,  False),
    "epochs_stage_0":   (9,      5),
    "epochs_per_stage": (1,      5),
    "epochs":           (20,     50),
    "icot_tokens":      (2,      8),
    "icot_all_beyond":  (9,      39),
    "batch_size":       (32,     128),
    "optimizer":        ("muon", "adamw"),
    "reset_optimizer":  (False,  True),
    "learning_rate":    (1e-3,   1e-4),
    "beta2":            (0.98,   0.999),
    "warmup_steps":     (50,     0),
    "decay_epochs":     (7,      0),
    "grad_clip":        (1.0,    0.0),
    "max_new_tokens":   (128,    128),
    "save_every":       (10.0,   300.0),
}
# What weights of --init bring with them.
OF_WEIGHTS = ("n_layer", "n_head", "n_embd", "block_size", "tokenizer")
# What the paper's chains of steps need, which files hold, also from scratch.
CHAINS = ("c_thought", "eot", "max_latent_stage", "extra_stage", "icot_tokens", "icot_all_beyond")


def defaults(task, scratch):
    """{setting: value} of a task, from scratch or on GPT-2."""
    module, general = TASKS[task], {name: row[not scratch] for name, row in DEFAULTS.items()}
    sizes = {name: size.official for name, size in module.SIZES.items()}
    own = getattr(module, "SCRATCH" if scratch else "PAPER", {})
    return {name: value for name, value in (general | sizes | own).items() if value is not None}


def parse(argv=None, program="train.py",
          purpose="Train a model to reason in continuous thoughts."):
    """The options that a person typed, and only those, as a dict."""
    parser = argparse.ArgumentParser(
        description=purpose, allow_abbrev=False,
        usage=f"python {program} [options]   (--help explains them)",
        epilog=f"Defaults in brackets are those of {', '.join(TASKS)}: from scratch | on GPT-2.")
    tables = [[defaults(task, scratch) for task in TASKS] for scratch in (True, False)]
    for f in fields(Settings):
        text, default = f.metadata["help"], argparse.SUPPRESS  # leaves out what was not typed
        rows = [[str(table[f.name]) for table in row
                 if f.name in table and not callable(table[f.name])] for row in tables]
        if any(rows):
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
    """Settings: the options given, the task's values for the rest. UserError if they clash.

    saved: the Settings of the run whose checkpoint --init names. Its task is the default, and they
    replace that task's tables, except where the two kinds of data, generated or from files, need
    different ones. Stages that followed from the size of its problems follow from the new size."""
    s = Settings(**({"task": saved.task} if saved else {}) | given)
    s.data = s.data or ("balanced" if s.task in tasks_with("BALANCED") else "generated")
    values = defaults(s.task, s.init == "scratch")
    if not s.generated:  # files hold problems like the paper's
        paper = defaults(s.task, scratch=False)
        values |= {name: paper[name] for name in (*SIZES, *CHAINS) if name in paper}
        values |= dict.fromkeys(("n_train", "n_valid", "n_test"), 0)
    if saved and saved.task == s.task:
        own = set() if saved.generated == s.generated else {*SIZES, "n_train", "n_valid", "n_test"}
        stages = defaults(s.task, scratch=True)["max_latent_stage"]
        by_size = callable(stages) and stages(saved.size()) == saved.max_latent_stage
        if by_size and s.generated and saved.generated:
            own.add("max_latent_stage")
            values["max_latent_stage"] = stages
        values |= {name: getattr(saved, name) for name in values.keys() - own}
    for name, value in values.items():
        if getattr(s, name) is None:
            setattr(s, name, value)
    if callable(s.max_latent_stage):  # so many that every step is a thought at the end
        s.max_latent_stage = s.max_latent_stage(s.size())
    if s.init == "scratch" and "epochs" not in given:  # time for every stage, and more for the last
        last = s.max_latent_stage + s.extra_stage
        s.epochs = max(s.epochs, s.epochs_stage_0 + s.epochs_per_stage * last + 2)
    if s.tokenizer is None:
        s.tokenizer = saved.tokenizer if saved else "word" if s.init == "scratch" else "gpt2"
    if s.micro_batch is None:
        s.micro_batch = s.batch_size
    s.out_dir = s.out_dir or f"out/{s.task}-{s.method}"
    check(s, given)
    return s


def label(s):
    """The method of a run, and its options that differ from the task's defaults. Options that
    follow from the size of the problems are left out."""
    sizes = s.size() if s.generated else {}
    same = {name: getattr(s, name) for name in ("task", "method", "data", "init")}
    usual, usual_at_this_size = complete(same), complete(same | sizes)
    left_out = {"seed", "out_dir", "device", "resume", "micro_batch", "save_every", *unused(s)}
    words = [s.method]
    if s.init != "scratch":
        words.append(f"--init {s.init}")
    for name in [*SIZES, *(f.name for f in fields(Options))]:
        default = getattr(usual if name in sizes else usual_at_this_size, name)
        value = getattr(s, name)
        if name in left_out or value == default:
            continue
        if isinstance(value, bool):
            words.append(f"--{name}" if value else f"--no-{name}")
        else:
            words.append(f"--{name} {value}")
    return " ".join([*words, *(f"--{name} {value}" for name, value in s.unknown.items())])


def unused(s):
    """{option: why} of those that change nothing."""
    fill, drop = METHODS[s.method]
    sizes, own = " ".join(SIZES), TASKS[s.task].SIZES
    others = " ".join(name for name in SIZES if name not in own)
    return {name: why for ignored, names, why in [
        (True, others, f"--task {s.task} has the sizes {', '.join(own)}"),
        (not s.generated, sizes + " grow", f"--data {s.data} holds the problems there are"),
        (s.init != "scratch", " ".join(OF_WEIGHTS), "it has its own"),
        (not fill, "c_thought eot", f"--method {s.method} has no thoughts"),
        (not fill and drop != "stage", "max_latent_stage", f"--method {s.method} has no thoughts"),
        (drop != "stage", "extra_stage uniform_prob epochs_per_stage", "no stages of steps"),
        (drop in ("all", "none"), "epochs_stage_0 reset_optimizer", f"{s.method} has one stage"),
        (drop != "tokens", "icot_tokens icot_all_beyond", "it is for icot"),
    ] if ignored for name in names.split()}


def check(s, given):
    """Raise UserError for a value without sense, or for one that contradicts given weights; say
    which options change nothing."""
    for name, why in unused(s).items():
        if name in given and name in OF_WEIGHTS:
            raise UserError(f"--{name} contradicts --init {s.init}: {why}")
        if name in given:
            print(f"note: --{name} changes nothing: {why}")
    positive = "n_layer n_head n_embd block_size c_thought epochs epochs_per_stage icot_tokens " \
               "icot_all_beyond batch_size micro_batch learning_rate max_new_tokens max_steps"
    counts = "n_train n_valid n_test"
    for name in (positive + " " + counts if s.generated else positive).split():
        if getattr(s, name) is not None and not getattr(s, name) > 0:
            raise UserError(f"--{name} must be more than 0, not {getattr(s, name)}")
    not_negative = "seed grow epochs_stage_0 max_latent_stage warmup_steps decay_epochs " \
                   "weight_decay grad_clip save_every"
    for name in (not_negative + " " + counts).split():
        if not 0 <= getattr(s, name) < 2**63:
            raise UserError(f"--{name} must be 0 or more, not {getattr(s, name)}")
    for name in ("dropout", "uniform_prob", "beta2"):
        if not 0 <= getattr(s, name) <= 1:
            raise UserError(f"--{name} is a probability, which {getattr(s, name)} is not")
    if s.init == "scratch" and (s.n_embd % s.n_head or s.n_embd % 2):
        raise UserError(f"--n_embd {s.n_embd} must be even, and a multiple of --n_head {s.n_head}")
