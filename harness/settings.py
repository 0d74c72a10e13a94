"""
Every option of a run: the fields of Settings, with their defaults beside them.

A task's own defaults, SCRATCH and PAPER, stand in the task's file and win over these. To add an
option, add a line; if GPTConfig has a field of that name, the model gets it. `python train.py
--help` prints them, and a run saves its settings in its checkpoint and log.
"""
import argparse
import math
from dataclasses import dataclass, field, fields, make_dataclass
from functools import lru_cache

from curriculum import METHODS, Curriculum
from model import GPTConfig
from tasks import SIZES, TASKS, tasks_with
from tasks.common import GENERATED
from tasks.record import UserError

GROUPS = {"task": "the run", "grow": "problems", "tokenizer": "the model",  # first option: title
          "c_thought": "the curriculum", "batch_size": "training",
          next(iter(SIZES)): "the size of generated problems"}


def count(text):
    """The argparse type of an option that counts something."""
    if int(text) < 0:
        raise ValueError
    return int(text)


def option(help, scratch=None, gpt2=..., least=0, most=math.inf, choices=None):
    """A field with its default from scratch and, where that is another one, on GPT-2's weights;
    None if it follows from other options. gpt2=...: the same as from scratch."""
    defaults = scratch, scratch if gpt2 is ... else gpt2
    return field(default=None, metadata={"help": help, "defaults": defaults, "least": least,
                                         "most": most, "choices": choices})


@dataclass
class Options:
    """All options but the sizes of problems. Those from `grow` on are taken over from the run whose
    checkpoint --init names. From scratch the defaults are for two CPU cores; on GPT-2 they are the
    paper's, section 5.1 and the official args/*.yaml."""
    unknown = {}  # settings of a saved run that this version does not have
    lock = None  # the open file that keeps other runs out of out_dir
    saved = False  # whether this process has written a checkpoint there
    task: str = option("what to learn", "prontoqa", choices=list(TASKS))
    method: str = option("what takes the place of steps", "coconut", choices=list(METHODS))
    data: str = option("problems: balanced (drawn so that no known shortcut guesses well; the "
                       "default where a task has it), generated (like the released ones, "
                       "shortcuts included), official (downloaded), a folder or a file")
    init: str = option("weights to start with: scratch (random), gpt2, gpt2-medium, gpt2-large, "
                       "gpt2-xl, a file of that layout, a folder of another model "
                       "(hacks/huggingface), or a checkpoint of train.py, whose task and settings "
                       "are then the defaults", "scratch")
    out_dir: str = option("folder of the run (default: the first of out/TASK-METHOD, "
                          "out/TASK-METHOD-2 .. that is free)")
    resume: bool = option("go on with the run in out_dir (default: the newest that is not done)",
                          False)
    overwrite: bool = option("start anew in out_dir: the run that is there is removed", False)
    quick: bool = option("a smoke run: tiny model, few problems, every stage; no result", False)
    device: str = option("auto (the fastest there is), cpu, cuda, mps ..", "auto")
    dtype: str = option("of matrix products", "float32", choices=["float32", "bfloat16"])
    seed: int = option("of weights, problems, their order, and dropout", 0, most=2**32 - 1)
    max_steps: int = option("end the run at this step, evaluated and saved; 0: evaluate --init")
    stage: int = option("for --max_steps 0: the stage (default: the checkpoint's, or the last)")
    micro_batch: int = option("problems at a time, to save memory (default: batch_size)", least=1)

    grow: int = option("epochs over which training problems grow to full size", 0)
    n_train: int = option("training problems in an epoch; 0: all there are", 6400)
    n_valid: int = option("validation problems; 0: all there are", 200)
    n_test: int = option("test problems; 0: all there are", 500)

    tokenizer: str = option("words, or GPT-2's pieces", "word", "gpt2", choices=["word", "gpt2"])
    n_layer: int = option("layers", 2, None, least=1)
    n_head: int = option("attention heads", 4, None, least=1)
    n_embd: int = option("width", 96, None, least=1)
    block_size: int = option("longest sequence in tokens", 512, None, least=1)
    dropout: float = option("share of activations dropped in training", 0.0, 0.1, most=1)

    c_thought: int = option("thoughts in the place of each step", 1, least=1)
    eot: bool = option("mark the end of the thoughts by <|eot|>, as the paper does", True)
    max_latent_stage: int = option("last stage that adds thoughts; from scratch by size", None, 6)
    extra_stage: bool = option("end with a stage that drops all steps that are left", False)
    epochs_stage_0: int = option("epochs of stage 0, in which every step is written", 8, 5)
    epochs_per_stage: int = option("epochs of each later stage but the last", 1, 5, least=1)
    epochs: int = option("in all; from scratch more, if there are more stages", 16, 50, least=1)
    uniform_prob: float = option("chance that a problem takes a random stage", 0.0, most=1)
    icot_tokens: int = option("icot: tokens removed over an epoch, one by one", 2, 8, least=1)
    icot_all_beyond: int = option("icot: once so many are removed, all are", 9, 39, least=1)

    batch_size: int = option("problems in an optimizer step", 32, 128, least=1)
    optimizer: str = option("muon (AdamW, but for matrices) or adamw", "muon", "adamw",
                            choices=["muon", "adamw"])
    learning_rate: float = option("the highest; the next two options lower it", 3e-3, 1e-4)
    warmup_steps: int = option("steps from 0 to learning_rate, after every reset", 50, 0)
    decay_epochs: int = option("epochs at the end, over which the rate falls to 0", 5, 0)
    beta2: float = option("AdamW's memory of squared gradients", 0.98, 0.999, most=0.99999)
    weight_decay: float = option("AdamW's pull of the weights towards 0", 0.01)
    grad_clip: float = option("longer gradients are scaled to this norm; 0: none is", 1.0, 0.0)
    reset_optimizer: bool = option("a new optimizer at each stage, as in the paper", False, True)
    max_new_tokens: int = option("most tokens written for an answer", 128, least=1)
    save_every: float = option("seconds from one saving of the run to the next", 10.0, 300.0)

    @property
    def generated(self):
        """Whether the problems are drawn; else they come from files."""
        return self.data in GENERATED

    def size(self):
        """The size of generated problems, as common.problems takes it."""
        return {name: getattr(self, name) for name in TASKS[self.task].SIZES}

    def curriculum(self):
        return Curriculum(**{f.name: getattr(self, f.name) for f in fields(Curriculum)})

    def model_options(self):
        """{field of GPTConfig: value} of the options that are one; with --init, of those that the
        weights leave open."""
        names = {f.name for f in fields(GPTConfig)} & {f.name for f in fields(self)}
        names -= set(OF_WEIGHTS if self.init != "scratch" else ())
        return {name: getattr(self, name) for name in names}


if clash := SIZES.keys() & {f.name for f in fields(Options)}:
    raise ValueError(f"sizes of a task that are called like an option: {', '.join(clash)}")
Settings = make_dataclass("Settings", bases=(Options,), fields=[  # with an option for each size
    (name, type(size.official), option(f"of {', '.join(tasks)}: {size.text}"))
    for name, (size, tasks) in SIZES.items()])

OF_WEIGHTS = ("n_layer", "n_head", "n_embd", "block_size", "tokenizer")  # --init brings its own
# What the paper's chains of steps need, which files hold, also from scratch.
CHAINS = ("c_thought", "eot", "max_latent_stage", "extra_stage", "icot_tokens", "icot_all_beyond")
QUICK = {"n_train": 160, "n_valid": 16, "n_test": 32, "batch_size": 16, "epochs_stage_0": 1,
         "epochs_per_stage": 1, "icot_tokens": 40, "max_new_tokens": 16}
QUICK_MODEL = {"n_layer": 1, "n_head": 2, "n_embd": 32}


def defaults(task, scratch):
    """{setting: value} of a task, from scratch or on GPT-2's weights."""
    module = TASKS[task]
    general = {f.name: f.metadata["defaults"][not scratch] for f in fields(Options)}
    sizes = {name: size.official for name, size in module.SIZES.items()}
    return general | sizes | getattr(module, "SCRATCH" if scratch else "PAPER", {})


def parse(argv=None, program="train.py",
          purpose="Train a model to reason in continuous thoughts."):
    """The options that a person typed, and only those, as a dict."""
    usage = f"python {program} [options]   (--help explains them)"
    first = argparse.ArgumentParser(add_help=False, allow_abbrev=False, usage=usage)
    first.add_argument("--task", default="prontoqa")
    first.add_argument("--init", default="scratch")
    asked = first.parse_known_args(argv)[0]  # whose defaults --help shows
    shown = vars(asked) if asked.task not in TASKS else (
        defaults(asked.task, asked.init == "scratch") | vars(asked))
    parser = argparse.ArgumentParser(
        description=purpose, allow_abbrev=False, usage=usage,
        epilog=f"In brackets: the defaults of --task {asked.task} with --init {asked.init}.")
    for f in fields(Settings):
        if f.name in GROUPS:
            group = parser.add_argument_group(GROUPS[f.name])
        value, choices, help = shown.get(f.name), f.metadata["choices"], f.metadata["help"]
        if f.name in SIZES and f.name not in shown:
            help = argparse.SUPPRESS  # a size of another task
        elif value is not None and not callable(value):
            help += f" [{value}]"
        kind = ({"action": argparse.BooleanOptionalAction} if f.type is bool else
                {"type": f.type, "choices": choices,
                 "metavar": None if choices else f.type.__name__})
        group.add_argument(f"--{f.name}", help=help, default=argparse.SUPPRESS, **kind)
    return vars(parser.parse_args(argv))


def complete(given, saved=None):
    """Settings: the options given, the task's values for the rest. UserError if they clash.

    saved: the Settings of the run whose checkpoint --init names. Its task is the default, and they
    replace that task's defaults, except where the two kinds of data, generated or from files, need
    different ones. A size that is given brings its own number of stages."""
    task = given.get("task", saved.task if saved else "prontoqa")
    data = given.get("data", "balanced" if task in tasks_with("BALANCED") else "generated")
    scratch, generated = given.get("init", "scratch") == "scratch", data in GENERATED
    values = defaults(task, scratch or bool(saved) and saved.tokenizer == "word")
    if not generated:  # files hold problems like the paper's
        values |= {name: value for name, value in defaults(task, scratch=False).items()
                   if name in (*SIZES, *CHAINS)}
        values |= dict.fromkeys(("n_train", "n_valid", "n_test"), 0)
    if saved and saved.task == task:
        names = [f.name for f in fields(Settings)]
        kept = set(names[names.index("grow"):])  # all but those of "the run"
        if saved.generated != generated:
            kept -= {*SIZES, "n_train", "n_valid", "n_test"}
        values |= {name: getattr(saved, name) for name in kept}
        if generated and not SIZES.keys().isdisjoint(given):
            values["max_latent_stage"] = defaults(task, scratch=True)["max_latent_stage"]
    if saved:
        values |= {name: getattr(saved, name) for name in OF_WEIGHTS}
        if given.get("max_steps") == 0:  # the run's own test problems
            values["seed"] = saved.seed
    if given.get("quick"):
        values |= QUICK | (QUICK_MODEL if scratch else {})
    s = Settings(**values | {"task": task, "data": data} | given)

    if callable(s.max_latent_stage):  # so many that every step is a thought at the end
        s.max_latent_stage = s.max_latent_stage(s.size())
    if (scratch or s.quick) and "epochs" not in given:  # for every stage, and more for the last
        last = s.max_latent_stage + s.extra_stage
        least = s.epochs_stage_0 + s.epochs_per_stage * last + 2
        s.epochs = least if s.quick else max(s.epochs, least)
    check(s, given)
    s.micro_batch = s.micro_batch or s.batch_size
    return s


def read_settings(saved):
    """The Settings in a checkpoint or a log; where it lacks one, the default. Those that are not
    here, a patch's say, are told and kept in s.unknown. UserError for a task or method that is not
    here."""
    if saved["task"] not in TASKS or saved["method"] not in METHODS:
        raise UserError(f"no task {saved['task']}, or no method {saved['method']}")
    known = {f.name for f in fields(Settings)}
    s = Settings(**defaults(saved["task"], saved["init"] == "scratch")
                 | {name: value for name, value in saved.items() if name in known})
    s.unknown = {name: value for name, value in saved.items() if name not in known}
    if s.unknown:
        say_once("note: settings that this version does not have: "
                 + ", ".join(f"{name} = {value}" for name, value in s.unknown.items()))
    return s


say_once = lru_cache(print)  # a checkpoint is read several times


def label(s):
    """The method of a run, and its options that differ from the defaults: a size from the task's,
    everything else from those at this size."""
    sizes = s.size() if s.generated else {}
    same = {name: getattr(s, name) for name in ("task", "method", "data", "init", "quick")}
    usual, usual_at_this_size = complete(same), complete(same | sizes)
    left_out = {"seed", "out_dir", "device", "resume", "overwrite", "micro_batch", "save_every",
                *unused(s)}
    words = [s.method, *[f"--init {s.init}"] * (s.init != "scratch"), *["--quick"] * s.quick]
    for name in [*SIZES, *(f.name for f in fields(Options))]:
        value, default = (getattr(of, name) for of in (
            s, usual if name in sizes else usual_at_this_size))
        if name not in left_out and value != default:
            words.append(f"--{name} {value}" if not isinstance(value, bool) else
                         f"--{name}" if value else f"--no-{name}")
    return " ".join([*words, *(f"--{name} {value}" for name, value in s.unknown.items())])


def unused(s):
    """{option: why} of those that change nothing."""
    fill, drop = METHODS[s.method]
    sizes, own = " ".join(SIZES), TASKS[s.task].SIZES
    others = " ".join(name for name in SIZES if name not in own)
    return {name: why for ignored, names, why in [
        (True, others, f"--task {s.task} has the sizes {', '.join(own)}"),
        (not s.generated, sizes + " grow", f"--data {s.data} holds the problems there are"),
        (s.init != "scratch", " ".join(OF_WEIGHTS), f"--init {s.init} has its own"),
        (not fill, "c_thought eot", f"--method {s.method} has no thoughts"),
        (not fill and drop != "stage", "max_latent_stage", f"--method {s.method} has no thoughts"),
        (drop != "stage", "extra_stage uniform_prob epochs_per_stage", "no stages of steps"),
        (drop in ("all", "none"), "epochs_stage_0 reset_optimizer", f"{s.method} has one stage"),
        (drop != "tokens", "icot_tokens icot_all_beyond", "it is for icot"),
        (s.max_steps != 0, "stage", "it is for --max_steps 0"),
    ] if ignored for name in names.split()}


def check(s, given):
    """Raise UserError for a value without sense, or for one that contradicts given weights; say
    which options change nothing."""
    for name, why in unused(s).items():
        if name in given and name in OF_WEIGHTS:
            raise UserError(f"--{name} contradicts the weights: {why}")
        if name in given:
            print(f"note: --{name} changes nothing: {why}")
    for f in fields(s):
        value, least, most = getattr(s, f.name), f.metadata["least"], f.metadata["most"]
        if type(value) in (int, float) and not (least <= value <= most and value < math.inf):
            end = "or more" if most == math.inf else f"to {most}"
            raise UserError(f"--{f.name} must be {least} {end}, not {value}")
    if s.generated and not (s.n_train and s.n_valid and s.n_test):
        raise UserError("generated problems have no end: --n_train, --n_valid, --n_test must be 1 "
                        "or more")
    if s.init == "scratch" and (s.n_embd % s.n_head or s.n_embd % 2):
        raise UserError(f"--n_embd {s.n_embd} must be even, and a multiple of --n_head {s.n_head}")
