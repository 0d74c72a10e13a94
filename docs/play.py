"""
Put a trained model of ProsQA and 200 problems into docs/play.html, into the line of its data block.

    python docs/play.py results/prosqa-balanced.pt      or the folder of a run of your own
"""
import argparse
import base64
import json
import re
import sys
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parent.parent))
from analysis.runs import in_folder  # noqa: E402
from curriculum import n_thoughts  # noqa: E402
from data import end_of, markers_of  # noqa: E402
from harness.settings import Settings  # noqa: E402
from harness.start import load_run  # noqa: E402
from tasks.common import problems  # noqa: E402
from tasks.record import UserError, told, write_whole  # noqa: E402

PAGE = Path(__file__).with_name("play.html")
BLOCK = re.compile(r'(?<=^<script type="application/json" id="data">).*(?=</script>$)', re.M)
SEED = 4100  # no run draws its problems from it


def data_of(run):
    """What the page holds of a run, as JSON can: the tensors in float16, the words, the problems.
    UserError unless it is a model with thoughts, on ProsQA, with a word-level tokenizer."""
    ckpt, model, enc = load_run(in_folder(run, "ckpt.pt"))
    s, marks = Settings(**ckpt["settings"]), markers_of(enc)
    c = s.curriculum()
    k = n_thoughts(ckpt["run"]["stage"], c)
    if s.task != "prosqa" or c.fill != "thought" or k == 0 or enc.name != "words":
        raise UserError(f"{run} must be a run on prosqa with thoughts and words for tokens")
    tensors = dict(model.named_parameters())  # without lm_head, which is wte
    halves = [tensor.detach().numpy().astype("<f2").tobytes() for tensor in tensors.values()]
    tokens = sorted(enc._mergeable_ranks, key=enc._mergeable_ranks.get)
    records = problems("prosqa", 200, SEED, "test", balanced=True, **s.size())
    return {"config": ckpt["config"], "n_thoughts": k, "max_new_tokens": s.max_new_tokens,
            "pattern": enc._pat_str, "words": [token.decode() for token in tokens[256:]],
            "special": enc._special_tokens, "bot": marks.bot, "eot": [marks.eot] * c.eot,
            "end": end_of(enc), "problems": [[r["question"], r["answer"]] for r in records],
            "tensors": [[name, tensor.numel()] for name, tensor in tensors.items()],
            "weights": base64.b64encode(b"".join(halves)).decode()}


def main(argv=None):
    parser = argparse.ArgumentParser(description="Put a model of ProsQA into docs/play.html.")
    parser.add_argument("run", help="a run's folder, or its checkpoint")
    with told("docs/play.py"):
        block = json.dumps(data_of(parser.parse_args(argv).run)).replace("</", r"<\/")
        page = BLOCK.sub(lambda old: block, PAGE.read_text("utf-8"))
        write_whole(PAGE, "w", lambda file: file.write(page))
        print(f"wrote {len(page.encode()) / 1e6:.2f} MB to {PAGE}")


if __name__ == "__main__":
    main()
