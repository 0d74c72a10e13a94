"""
Train a model to reason in continuous thoughts: one loop for three tasks and eight methods.

    python train.py --task prontoqa                  from scratch, on any machine, nothing to download
    python train.py --task prosqa --method cot       a baseline; curriculum.py shows all eight methods
    python train.py --task gsm8k --init gpt2         the paper's recipe, on OpenAI's GPT-2
    python train.py --task prosqa --resume           go on with a run that was cut

Each epoch belongs to a stage. A new stage replaces one more step of every chain by thoughts, so the
training loss jumps and falls again. After every epoch the model answers the validation problems as
it will at test time: given the question and the stage's thoughts, it writes the rest, greedily.
"""
import json
import os
import platform
import random
import sys
import time
from dataclasses import asdict, dataclass, field

import numpy
import tiktoken
import torch
import torch.nn.functional as F

from curriculum import METHODS, NO_LOSS, build, n_thoughts, prompt, stage_at
from data import (batches, collate, encode, encoding_state, gpt2_encoding, is_correct, load_splits,
                  markers, text_of, word_encoding)
from model import GPT, GPTConfig, generate, think, torch_load
from settings import Settings, complete, parse


LINE_START = "\r\033[K" if sys.stdout.isatty() else ""  # back to the start, erase the line


# ---------------------------------------------------------------------------------------------------
# Loss and evaluation

def batch_loss(model, sequences, thought_id):
    """The loss of a batch in nats, summed over its supervised tokens: no other logits are computed."""
    ids, targets, thought, real = collate(sequences, thought_id, model.wte.weight.device)
    hidden = think(model, ids, thought, real)
    hidden, targets = hidden[:, :-1], targets[:, 1:]  # the state at column t predicts token t + 1
    learned = targets != NO_LOSS
    logits = model.lm_head(hidden[learned])  # (supervised tokens, V)
    return F.cross_entropy(logits, targets[learned], reduction="sum")


def count_learned(sequences):
    return sum(target != NO_LOSS for _, targets in sequences for target in targets)


def answers(model, prompts, enc, max_new_tokens):
    """What the model writes after each prompt (a list of ids): B texts, and B lengths in tokens."""
    sequences = [(ids, ids) for ids in prompts]
    ids, _, thought, real = collate(sequences, markers(enc).thought, model.wte.weight.device)
    rows = generate(model, ids, thought, real, max_new_tokens, enc.eot_token)
    return [enc.decode(row) for row in rows], [len(row) for row in rows]


@torch.no_grad()
def evaluate(model, examples, stage, c, enc, batch_size, max_new_tokens):
    """{loss, accuracy, tokens, n} of Examples of text at a stage, by greedy generation.

    loss: nats a supervised token. tokens: those written and the thoughts, a problem, counted as in
    the paper's Table 1: without markers, pauses and end token. Official run.py:440-480.
    """
    model.eval()
    marks, k = markers(enc), n_thoughts(stage, c)
    encoded = sorted(((encode(e, enc), e.answer) for e in examples), key=lambda e: len(e[0].question))
    nats = learned = correct = tokens = 0
    for i in range(0, len(encoded), batch_size):
        batch, gold = zip(*encoded[i:i + batch_size])
        sequences = [build(example, stage, c, marks) for example in batch]
        nats += batch_loss(model, sequences, marks.thought).item()
        learned += count_learned(sequences)
        prompts = [prompt(example.question, k, c, marks) for example in batch]
        texts, lengths = answers(model, prompts, enc, max_new_tokens)
        correct += sum(is_correct(text, answer) for text, answer in zip(texts, gold))
        tokens += sum(lengths) + (k * len(batch) if METHODS[c.method].fill == "thought" else 0)
    n = len(examples)
    return {"loss": nats / learned, "accuracy": correct / n, "tokens": tokens / n, "n": n}


# ---------------------------------------------------------------------------------------------------
# A run and its checkpoint, which is all it takes to evaluate, sample or resume

@dataclass
class Run:
    """Where a run stands."""
    epoch: int = 0
    batch: int = 0  # batches done in this epoch
    step: int = 0  # optimizer steps done
    stage: int = -1
    stage_step: int = 0  # optimizer steps since the optimizer was started
    nats: float = 0.0  # training loss of this epoch, summed ..
    learned: int = 0  # .. over so many tokens
    seconds: float = 0.0
    history: list = field(default_factory=list)  # a line of metrics.jsonl for each epoch


def write(path, mode, save):
    """Let save(file) write a file under another name first, so that a crash leaves the old one whole."""
    with open(path + ".tmp", mode) as file:
        save(file)
        file.flush()
        os.fsync(file.fileno())
    os.replace(path + ".tmp", path)


def save_run(s, run, model, optimizer, enc):
    ckpt = {"settings": asdict(s), "run": asdict(run), "encoding": encoding_state(enc),
            "config": asdict(model.config), "model": model.state_dict(),
            "optimizer": optimizer.state_dict(), "rng": torch.get_rng_state(),
            "cuda_rng": torch.cuda.get_rng_state_all()}
    write(os.path.join(s.out_dir, "ckpt.pt"), "wb", lambda file: torch.save(ckpt, file))


def save_metrics(s, run, *results):
    """out_dir/metrics.jsonl: a line on the run itself, a line for each epoch, and the final results."""
    cuda = torch.cuda.get_device_name() if torch.cuda.is_available() else None
    header = {"settings": asdict(s), "python": platform.python_version(), "torch": torch.__version__,
              "numpy": numpy.__version__, "machine": cuda or platform.processor() or platform.machine(),
              "threads": torch.get_num_threads()}
    text = "".join(json.dumps(line) + "\n" for line in [header, *run.history, *results])
    write(os.path.join(s.out_dir, "metrics.jsonl"), "w", lambda file: file.write(text))


def load_run(path, device="cpu", dropout=0.0):
    """(checkpoint dict, model, Encoding) of a run; ValueError if the file is no checkpoint of train.py."""
    ckpt = torch_load(path)
    if not (isinstance(ckpt, dict) and "settings" in ckpt):
        raise ValueError(f"{path} was not written by train.py")
    enc = tiktoken.Encoding(**ckpt["encoding"])
    model = GPT(GPTConfig(**ckpt["config"] | {"dropout": dropout}))
    model.load_state_dict(ckpt["model"])
    return ckpt, model.to(device), enc


def start_model(s, texts):
    """A model and its Encoding, as --init and --tokenizer say; texts give the words of a new one."""
    if s.init == "scratch":
        enc = gpt2_encoding() if s.tokenizer == "gpt2" else word_encoding(texts)
        return GPT(GPTConfig(s.block_size, enc.n_vocab, s.n_layer, s.n_head, s.n_embd, s.dropout)), enc
    if os.path.isfile(s.init) and "settings" in torch_load(s.init):
        return load_run(s.init, dropout=s.dropout)[1:]
    enc = gpt2_encoding()
    model = GPT.from_pretrained(s.init, dropout=s.dropout)
    model.grow_vocab(enc.n_vocab, like=enc.encode_single_token("<<"))  # as official run.py:145-157
    return model, enc


def pick_device(name):
    """torch.device for a name; auto takes the fastest there is. ValueError if it is not there."""
    if name == "auto":
        name = "cuda" if torch.cuda.is_available() else "mps" if torch.mps.is_available() else "cpu"
    try:
        torch.zeros(1, device=name)
    except (RuntimeError, AssertionError, NotImplementedError) as error:
        raise ValueError(f"no device {name} here ({str(error).splitlines()[0]}): try --device cpu") from None
    return torch.device(name)


# ---------------------------------------------------------------------------------------------------
# The loop

def start(s):
    """Everything a run needs, new or resumed: splits, model, Encoding, optimizer, Run."""
    torch.manual_seed(s.seed)
    device, path = pick_device(s.device), os.path.join(s.out_dir, "ckpt.pt")
    train_split, valid, test = load_splits(s.data, s.task, s.size(), s.seed,
                                           s.n_train, s.n_valid, s.n_test)
    if s.resume:
        ckpt, model, enc = load_run(path, device, s.dropout)
    else:
        model, enc = start_model(s, [text_of(example) for example in train_split(0)])
        model.to(device)
    optimizer, run = new_optimizer(s, model), Run()
    if s.resume:
        run = Run(**ckpt["run"])
        optimizer.load_state_dict(ckpt["optimizer"])
        torch.set_rng_state(ckpt["rng"])
        if device.type == "cuda":
            torch.cuda.set_rng_state_all(ckpt["cuda_rng"])
    return (train_split, valid, test), model, enc, optimizer, run


def new_optimizer(s, model):
    return torch.optim.AdamW(model.parameters(), s.learning_rate, weight_decay=s.weight_decay)


def fitting(examples, enc, s, block_size):
    """The Examples whose sequences fit into the block at every stage; says how many do not."""
    most_thoughts = 2 + s.max_latent_stage * s.c_thought
    kept = []
    for example in examples:
        question, steps, answer = encode(example, enc)
        if len(question) + most_thoughts + sum(map(len, steps)) + len(answer) <= block_size:
            kept.append(example)
    if len(kept) < len(examples):
        print(f"left out {len(examples) - len(kept)} of {len(examples)} problems: longer than "
              f"block_size {block_size}")
    return kept


def announce(stage, s, example, enc):
    """Say what a new stage trains, on one example, split where the loss begins."""
    c = s.curriculum()
    k, fill = n_thoughts(stage, c), METHODS[c.method].fill or "thought"
    ids, targets = build(encode(example, enc), stage, c, markers(enc))
    given = targets.count(NO_LOSS)
    print(f"\nstage {stage} of {s.method}: {k} {fill}{'' if k == 1 else 's'}"
          f"\n  given:    {enc.decode(ids[:given])!r}\n  to learn: {enc.decode(ids[given:])!r}\n")


def progress(s, run, steps_in_epoch):
    """On a terminal one line that is rewritten at each step; in a pipe a plain line now and then."""
    total = min(s.epochs * steps_in_epoch, s.max_steps or sys.maxsize)
    left = (total - run.step) * run.seconds / run.step
    line = (f"epoch {run.epoch + 1}/{s.epochs}  stage {run.stage}  step {run.step}/{total}  "
            f"loss {run.nats / run.learned:.4f}  {run.step / run.seconds:.2f} steps/s  "
            f"{left // 60:.0f}:{left % 60:02.0f} left")
    if sys.stdout.isatty():
        print(f"{LINE_START}{line}", end="", flush=True)
    elif run.step % 50 == 0:
        print(line, flush=True)


def train(s):
    """Take a run through its curriculum as Settings say; returns the results on the test split."""
    (train_split, valid, test), model, enc, optimizer, run = start(s)
    c, marks = s.curriculum(), markers(enc)
    block_size = model.config.block_size
    valid, test = fitting(valid, enc, s, block_size), fitting(test, enc, s, block_size)
    began = time.perf_counter() - run.seconds
    cut = False

    while run.epoch < s.epochs and not cut:
        stage = stage_at(run.epoch, c)
        examples = fitting(train_split(run.epoch), enc, s, block_size)
        if stage != run.stage:
            announce(stage, s, examples[0], enc)
            run.stage = stage
            if s.reset_optimizer:  # its averages belong to another task; the paper resets it too
                optimizer, run.stage_step = new_optimizer(s, model), 0

        rng = random.Random(f"epoch {run.epoch} of {s.seed}")
        sequences = [build(encode(example, enc), stage, c, marks, rng) for example in examples]
        epoch_batches = batches(sequences, s.batch_size, rng)
        model.train()
        for batch in epoch_batches[run.batch:]:
            learned = count_learned(batch)
            for i in range(0, len(batch), s.micro_batch):
                loss = batch_loss(model, batch[i:i + s.micro_batch], marks.thought)
                (loss / learned).backward()  # micro-batches add up to the mean over the whole batch
                run.nats += loss.item()
            if s.grad_clip:
                torch.nn.utils.clip_grad_norm_(model.parameters(), s.grad_clip)
            run.stage_step += 1
            for group in optimizer.param_groups:
                group["lr"] = s.learning_rate * min(1, run.stage_step / max(1, s.warmup_steps))
            optimizer.step()
            optimizer.zero_grad()
            run.learned, run.batch, run.step = run.learned + learned, run.batch + 1, run.step + 1
            run.seconds = time.perf_counter() - began
            progress(s, run, len(epoch_batches))
            cut = run.step == s.max_steps
            if cut:
                break

        result = evaluate(model, valid, stage, c, enc, s.micro_batch, s.max_new_tokens)
        run.seconds = time.perf_counter() - began
        line = {"epoch": run.epoch, "stage": stage, "step": run.step,
                "train_loss": run.nats / run.learned,
                **{f"val_{name}": value for name, value in result.items()},
                "seconds": round(run.seconds, 1)}
        if run.batch == len(epoch_batches):  # the epoch is whole
            run.history.append(line)
            run.epoch, run.batch, run.nats, run.learned = run.epoch + 1, 0, 0.0, 0
        save_run(s, run, model, optimizer, enc)
        save_metrics(s, run)
        print(f"{LINE_START}epoch {line['epoch'] + 1}/{s.epochs}  stage {stage}  "
              f"train loss {line['train_loss']:.4f}  valid loss {result['loss']:.4f}  "
              f"accuracy {result['accuracy']:.1%}  tokens {result['tokens']:.1f}  "
              f"{run.seconds / 60:.1f} min", flush=True)

    result = evaluate(model, test, run.stage, c, enc, s.micro_batch, s.max_new_tokens)
    line = {"stage": run.stage, "step": run.step, "seconds": round(run.seconds, 1),
            **{f"test_{name}": value for name, value in result.items()}}
    save_metrics(s, run, line)
    print(f"\ntest accuracy {result['accuracy']:.1%} on {len(test)} problems never trained on, "
          f"at stage {run.stage}, {result['tokens']:.1f} tokens a problem")
    print(f"next: python sample.py --ckpt {os.path.join(s.out_dir, 'ckpt.pt')}")
    if cut:
        print(f"to go on: python train.py --out_dir {s.out_dir} --resume")
    return line


def claim(out_dir):
    """Make the folder of a new run; ValueError if it cannot be made or holds a run already."""
    if os.path.exists(os.path.join(out_dir, "ckpt.pt")):
        raise ValueError(f"{out_dir} holds a run already: add --resume to go on with it, "
                         "or name another --out_dir")
    try:
        os.makedirs(out_dir, exist_ok=True)
    except OSError as error:
        raise ValueError(f"cannot write to {out_dir} ({error.strerror}): name another --out_dir")


def resumed(given):
    """The Settings of the run in out_dir; ValueError if an option contradicts them."""
    free = {"resume", "out_dir", "device", "max_steps", "epochs", "micro_batch"}  # may be changed
    path = os.path.join(given.get("out_dir") or complete(given).out_dir, "ckpt.pt")
    saved = load_run(path)[0]["settings"]
    for name, value in given.items():
        if name not in free and value != saved[name]:
            raise ValueError(f"--{name} {value} contradicts the run in {path}, which has {saved[name]}")
    return Settings(**saved | {"max_steps": None} | given)


def main(argv=None):
    given = parse(argv)
    try:
        s = resumed(given) if given.get("resume") else complete(given)
        if not s.resume:
            claim(s.out_dir)
        train(s)
    except ValueError as error:
        raise SystemExit(f"train.py: {error}")


if __name__ == "__main__":
    main()
