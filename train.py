"""
Train a model to reason in continuous thoughts: one loop for all tasks and eight methods.

    python train.py --task prontoqa               from scratch, on any machine, nothing to download
    python train.py --task prosqa --method cot    a baseline; curriculum.py shows all eight methods
    python train.py --task prosqa --init gpt2 --data official      the paper's recipe, on GPT-2
    python train.py --task prosqa --resume        continue an interrupted run

Each batch asks the curriculum for its stage. With coconut a new stage replaces one more written
step by thoughts. After every epoch the model answers the validation problems as at test time.
What a run needs besides is in harness/: options, its start, its files, several GPUs.
"""
import math
import os
import random
import sys
import time
from shlex import quote

import torch

from curriculum import NO_LOSS, build, n_thoughts, stage_at
from data import batches, collate, count_targets, encode, markers_of
from harness.checkpoint import checkpoint_of, save_checkpoint, save_log
from harness.ranks import RANK, leave, micro_batches, share, sum_gradients, total
from harness.settings import parse
from harness.start import settings_of_run, start_run
from model import supervised_loss, think
from sample import answers, prompts_of, show
from tasks.common import checksum
from tasks.record import UserError, is_correct, told


def train(s, splits, model, enc, optimizer, run):
    """Take a Run through its curriculum; returns its results on the test split."""
    examples_of_epoch, valid, test = splits
    c, marks, device = s.curriculum(), markers_of(enc), next(model.parameters()).device
    autocast = torch.autocast(device.type, torch.bfloat16, enabled=s.dtype == "bfloat16")
    began = time.perf_counter() - run.seconds  # as if it had never been stopped
    last_save = time.perf_counter()

    # An epoch whose batches are done is still evaluated, also where --max_steps ends the run.
    while run.epoch < s.epochs and (run.step != s.max_steps or run.batch > 0):
        examples = examples_of_epoch(run.epoch)
        epoch_batches = batches(examples, s.batch_size, random.Random(f"{s.seed} {run.epoch}"))
        n_batches = len(epoch_batches)
        model.train()
        todo = epoch_batches[run.batch:]  # a resumed run leaves out what is done
        for batch in todo[:s.max_steps - run.step] if s.max_steps else todo:
            stage = stage_at(run.epoch + run.batch / n_batches, c)
            if stage != run.stage:
                run.stage = stage
                print_stage(stage, examples, c, enc)
                if s.reset_optimizer:  # its averages are of the stage before; as in the paper
                    optimizer.state.clear()
                    run.stage_step = 0
            if run.step == 0:
                save_checkpoint(s, run, model, optimizer, enc)  # a full disk shows now
            rng = random.Random(f"{s.seed} {run.epoch} {run.batch}")  # the same in a resumed run
            rows = [build(encode(example, enc), stage, c, marks, rng) for example in batch]

            loss_sum, n_targets = 0.0, count_targets(rows)
            for part in micro_batches(rows, s.micro_batch):  # of this rank's share of the rows
                ids, targets, is_thought, is_real, start = collate(part, marks.thought, device)
                with autocast:
                    hidden, _ = think(model, ids, is_thought, is_real, start)
                    loss = supervised_loss(model, hidden, targets)
                (loss / n_targets).backward()  # gradients add up to those of the batch's mean
                loss_sum += loss.item()
            sum_gradients(model)  # over the ranks, if there are several
            loss_sum, = total([loss_sum], device)
            norm = torch.nn.utils.clip_grad_norm_(model.parameters(), s.grad_clip or math.inf)
            if not math.isfinite(loss_sum + norm):
                raise UserError(f"at step {run.step + 1} the loss is {loss_sum / n_targets:.3g}, "
                                f"the norm of its gradient {norm:.3g}: start anew, or from a "
                                f"little earlier by --init {quote(checkpoint_of(s))}, with a "
                                "smaller --learning_rate, --grad_clip 1, or --dtype float32")
            for group in optimizer.param_groups:
                group["lr"] = learning_rate(s, run, n_batches)
            optimizer.step()
            optimizer.zero_grad()
            run.batch, run.step, run.stage_step = run.batch + 1, run.step + 1, run.stage_step + 1
            run.loss_sum, run.n_targets = run.loss_sum + loss_sum, run.n_targets + n_targets
            run.seconds = time.perf_counter() - began
            if run.step % 50 == 0:
                last = min(s.epochs * n_batches, s.max_steps or sys.maxsize)
                left = round((last - run.step) * run.seconds / run.step)
                print(f"epoch {run.epoch + 1}/{s.epochs}  stage {stage}  step {run.step}/{last}  "
                      f"loss {run.loss_sum / run.n_targets:.4f}  {run.step / run.seconds:.2f} "
                      f"steps/s  {left // 60}:{left % 60:02} left", flush=True)
            if (run.batch == n_batches or run.step == s.max_steps
                    or time.perf_counter() > last_save + s.save_every):
                save_checkpoint(s, run, model, optimizer, enc)
                last_save = time.perf_counter()
        if run.batch < n_batches:  # --max_steps, amid an epoch
            break

        with autocast:
            result = evaluate(model, valid, run.stage, c, enc, s.micro_batch, s.max_new_tokens)
        run.seconds = time.perf_counter() - began
        train_loss = run.loss_sum / run.n_targets
        run.epoch, run.batch, run.loss_sum, run.n_targets = run.epoch + 1, 0, 0.0, 0
        print(f"epoch {run.epoch}/{s.epochs}  stage {run.stage}  train loss {train_loss:.4f}  "
              f"valid loss {result['loss']:.4f}  accuracy {result['accuracy']:.1%}  "
              f"tokens {result['tokens']:.1f}  {run.seconds / 60:.1f} min", flush=True)
        run.history.append({
            "epoch": run.epoch, "stage": run.stage, "step": run.step, "train_loss": train_loss,
            **{f"val_{name}": value for name, value in result.items()
               if name not in ("right", "problems")}, "seconds": round(run.seconds, 1)})
        save_checkpoint(s, run, model, optimizer, enc)
        save_log(s, run, device)

    with autocast:
        result = evaluate(model, test, run.stage, c, enc, s.micro_batch, s.max_new_tokens)
        if c.fill == "thought" and (k := n_thoughts(run.stage, c)):
            result["swapped"] = show(model, test, k, c, enc, s.micro_batch, s.max_new_tokens)
    quick = " (no result: --quick)" * s.quick
    line = {"stage": run.stage, "step": run.step, "seconds": round(run.seconds, 1),
            **{f"test_{name}": value for name, value in result.items()}}
    print(f"test accuracy {result['accuracy']:.1%} on {result['n']} problems never trained on, "
          f"at stage {run.stage}, {result['tokens']:.1f} tokens a problem{quick}")
    if s.max_steps == 0:
        print(f"test loss {result['loss']:.4f} nats a token; nothing was trained or saved")
        return line
    save_log(s, run, device, line)
    if run.epoch < s.epochs:
        print(f"go on:  python train.py --out_dir {quote(s.out_dir)} --resume")
    print(f"look:   python sample.py --ckpt {quote(checkpoint_of(s))} --index 0")
    return line


def learning_rate(s, run, n_batches):
    """Grows over warmup_steps, also after a reset of the optimizer; falls over decay_epochs."""
    epochs_left = s.epochs - run.epoch - run.batch / n_batches
    warm = (run.stage_step + 1) / s.warmup_steps if s.warmup_steps else 1
    cool = epochs_left / s.decay_epochs if s.decay_epochs else 1
    return s.learning_rate * min(1, warm, cool)


@torch.no_grad()
def evaluate(model, examples, stage, c, enc, batch_size, max_new_tokens):
    """{loss, accuracy, tokens, seconds, n, right, problems} of Examples of text at a stage.

    loss: nats per supervised token. tokens: written ones plus thoughts, per problem, as in the
    paper's Table 1, without markers, pauses and end token. seconds: of writing, per problem. right:
    a digit for each problem, 1 if right. problems: their checksum. Official run.py:440-480."""
    model.eval()
    n, marks, device = len(examples), markers_of(enc), next(model.parameters()).device
    order = share(sorted(range(n), key=lambda i: len(examples[i].question)))
    mine = [examples[i] for i in order]  # this rank's share, shortest first
    loss_sum = n_targets = 0
    for i in range(0, len(mine), batch_size):
        rows = [build(encode(e, enc), stage, c, marks) for e in mine[i:i + batch_size]]
        ids, targets, is_thought, is_real, start = collate(rows, marks.thought, device)
        hidden, _ = think(model, ids, is_thought, is_real, start)
        loss_sum += supervised_loss(model, hidden, targets).item()
        n_targets += count_targets(rows)

    began, k = time.perf_counter(), n_thoughts(stage, c)
    written = answers(model, prompts_of(mine, k, c, enc), enc, batch_size, max_new_tokens)
    seconds, right = time.perf_counter() - began, [0] * n  # 0: wrong, or another rank's problem
    for i, (text, _) in zip(order, written):
        right[i] = int(is_correct(text, examples[i].answer))
    tokens = sum(length + k * (c.fill == "thought") for _, length in written)
    loss_sum, n_targets, tokens, seconds, *right = total(
        [loss_sum, n_targets, tokens, seconds, *right], device)
    return {"loss": loss_sum / n_targets, "accuracy": sum(right) / n, "tokens": tokens / n,
            "seconds": seconds / n, "n": n, "problems": checksum(examples),
            "right": "".join(str(int(one)) for one in right)}


def print_stage(stage, examples, c, enc):
    """Say what a new stage trains, on one of the longer examples, split where the loss begins."""
    example = max(examples[:50], key=lambda example: len(example.steps))
    ids, targets, _ = build(encode(example, enc), stage, c, markers_of(enc))
    k, fill, given = n_thoughts(stage, c), c.fill or "thought", targets.count(NO_LOSS)
    falls = "; accuracy may fall now, and comes back" * (stage > 0 and c.drop == "stage")
    print(f"\nstage {stage} of {c.method}: {k} {fill}{'' if k == 1 else 's'}{falls}\n  given    "
          f"{enc.decode(ids[:given])!r}\n  learned  {enc.decode(ids[given:])!r}\n")


def main(argv=None):
    if RANK > 0:  # rank 0 prints for all
        sys.stdout = open(os.devnull, "w")
    with told("train.py"):
        s = settings_of_run(parse(argv))
        try:
            result = train(s, *start_run(s))
        except KeyboardInterrupt:
            go_on = f"; go on:  python train.py --out_dir {quote(s.out_dir or '')} --resume"
            raise UserError(f"stopped{go_on if s.saved or s.resume else ''}")
        finally:
            if s.lock:
                s.lock.close()  # of its folder
    leave()
    return result


if __name__ == "__main__":
    main()
