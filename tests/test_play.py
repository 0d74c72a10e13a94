"""docs/play.html in a real browser against the Python code: same answers, same touches."""
import html
import json
import re
import shutil
import subprocess
import sys
from functools import lru_cache

import pytest
import torch

from conftest import ROOT
from curriculum import prompt
from data import encode_question, markers_of
from harness.settings import Settings
from harness.start import load_run
from model import think
from sample import answers, collate_prompts, thoughts_after
from tasks.common import problems
from tasks.record import is_correct

sys.path.insert(0, str(ROOT / "docs"))
import play  # noqa: E402

pytestmark = pytest.mark.house
SHIPPED = ROOT / "results" / "prosqa-balanced.pt"
FLAGS = """--headless --no-sandbox --disable-gpu --disable-quic --no-first-run --disable-sync
    --disable-background-networking --disable-component-update --enable-logging=stderr""".split()
N, N_TOUCHED = 100, 10  # problems that are asked; problems whose thoughts are touched

# What a visitor does, by the page's own buttons. Each trial leaves what the page then shows.
VISIT = """
const [opened, answered] = ["opened", "first answer"].map((name) =>
  performance.getEntriesByName(name)[0].startTime);
const found = { firstAnswer: answered - opened };
const press = (id) => $(id).click();
const touch = (k, name) => $("thoughts").children[k]
  .querySelector(`button[data-touch="${name}"]`).click();
const choose = (k, other) => {
  const select = $("thoughts").children[k].querySelector("select");
  select.value = other;
  select.dispatchEvent(new Event("change"));
};
const seen = () => ({ answer: $("answer").textContent, written: $("written").textContent,
  says: $("says").textContent, verdict: $("verdict").textContent,
  probability: answerTouched(problem, other).probability,
  indices: [shipped.indexOf(problem), shipped.indexOf(other)] });
const trials = {
  swapped: () => press("swap"),
  zero: () => touch(1, "zero"),
  "all zero": () => shipped.forEach((_, k) => k < touched.n && touch(k, "zero")),
  "one of another": () => touch(2, "other"),
  exchanged: () => choose(1, "3"),
  noise: () => { $("noise").value = 1.5; $("noise").dispatchEvent(new Event("input")); },
  fewer: () => { press("fewer"); press("fewer"); },
  more: () => press("more"),
  together: () => { touch(0, "zero"); touch(2, "other"); press("more"); },
};
found.noise = NOISE.map((vector) => [...vector]);
found.first = seen();
press("swap");
found.swappedFirst = seen();
press("swap");
found.backFirst = seen();
open(shipped[0], shipped[1]);
found.asked = [];
found.touched = Object.fromEntries(Object.keys(trials).map((name) => [name, []]));
for (let i = 0; i < N; i++) {
  found.asked.push(seen());
  for (const name of i < N_TOUCHED ? Object.keys(trials) : []) {
    trials[name]();
    found.touched[name].push(seen());
    press("restore");
  }
  press("new");
}
found.own = OWN.map((text) => {
  $("own").value = text;
  press("ask");
  return { ...seen(), note: $("unknown").textContent, ids: idsOf(problem) };
});
found.encoded = TEXTS.map(encode);
found.decoded = found.encoded.map(decode);
open(shipped[0], shipped[1]);
press("swap");
window.setTimeout = (go) => go();  // the count does not wait between its parts
press("all");
found.counted = $("counted").textContent;
found.thought = Math.min(...Array.from({ length: 20 }, () => {
  const began = performance.now();
  think(problem.state, 5);
  return (performance.now() - began) / 5;
}));
document.body.innerHTML = "<pre id='found'></pre>";
$("found").textContent = JSON.stringify(found);
"""
OWN = ["Every vumpus is a zumpus. Max is a vumpus. Sally is a impus. Is Max a impus or zumpus?",
       "Every flurbus is a zumpus. Zoé is a flurbus. Is Zoé a zumpus or impus?",
       "Max likes 12 apples!"]
TEXTS = ["Straße_9 isn't  an ÅEvery. Everyone. Every\tis a", "<<3+4=7>> ### ０１ 日本語 e\u0301 👋",
         "is\u00a0a x_y \u200d <|bot|>", ""]


@pytest.fixture(scope="module")
def found(tmp_path_factory):
    """What the page shows on the visit, and the messages in its console."""
    browser = shutil.which("chromium") or shutil.which("chromium-browser")
    if not browser:
        pytest.skip("there is no chromium here to open docs/play.html in")
    folder = tmp_path_factory.mktemp("play")
    given = f"const N = {N}, N_TOUCHED = {N_TOUCHED}, OWN = {json.dumps(OWN)}, " \
            f"TEXTS = {json.dumps(TEXTS)};"
    page = play.PAGE.read_text("utf-8").replace("</body>", f"<script>{given}{VISIT}</script>")
    page = page.replace("<head>", "<head><script>performance.mark('opened')</script>")
    (folder / "visit.html").write_text(page, "utf-8")
    done = subprocess.run([browser, *FLAGS, f"--user-data-dir={folder / 'user'}", "--dump-dom",
                           f"file://{folder / 'visit.html'}"], capture_output=True, timeout=900)
    console = [line for line in done.stderr.decode("utf-8", "replace").splitlines()
               if "CONSOLE" in line]
    result = re.search("<pre id=.found.>(.*?)</pre>", done.stdout.decode("utf-8"), re.S)
    assert result, console or done.stderr.decode("utf-8", "replace")[-2000:]
    return json.loads(html.unescape(result[1])) | {"console": console}


@lru_cache
def shipped():
    """(model rounded to half precision, Encoding, Settings, the page's problems)."""
    ckpt, model, enc = load_run(SHIPPED)
    s = Settings(**ckpt["settings"])
    return (model.half().float(), enc, s,
            problems("prosqa", 200, play.SEED, "test", balanced=True, **s.size()))


def prompt_of(question, k):
    _, enc, s, _ = shipped()
    return prompt(encode_question(question, enc), k, s.curriculum(), markers_of(enc))


def asked(question, k, on_thought=None):
    """(what the model writes, the probability of the last word in it) with k thoughts."""
    model, enc, s, _ = shipped()
    ids = prompt_of(question, k)
    (text, length), = answers(model, [ids], enc, 1, s.max_new_tokens,
                              on_thought and (lambda rows: on_thought))
    new = enc.encode(text, allowed_special="all")
    assert enc.decode(new) == text and len(new) == length
    words = [i for i, token in enumerate(new) if any(map(str.isalpha, enc.decode([token])))]
    if not words:
        return text, 0.0
    with torch.no_grad():
        batch = collate_prompts(model, [ids + new], enc)
        hidden, _ = think(model, *batch, start=1, on_thought=on_thought)
    chances = model.lm_head(hidden[0, len(ids) - 1 + words[-1]]).softmax(dim=-1)
    return text, chances[new[words[-1]]].item()


def assert_shows(shown, expected):
    text, chance = expected
    assert shown["written"] == (text or "(nothing)")
    assert shown["answer"] == ("#" in text and text.split("#")[-1].strip() or "nothing")
    assert shown["probability"] == pytest.approx(chance, abs=1e-3)


def test_the_page_holds_the_shipped_model_and_fits_into_a_megabyte():
    text = play.PAGE.read_text("utf-8")
    assert len(text.encode()) < 1e6
    assert json.loads(play.BLOCK.search(text)[0]) == play.data_of(SHIPPED)
    assert not re.search(r"https?://(?!www\.w3\.org/2000/svg)|<link|src=", text)


def test_another_run_takes_the_place_of_the_model(tmp_path, monkeypatch):
    page = tmp_path / "play.html"
    page.write_text(play.BLOCK.sub("{}", play.PAGE.read_text("utf-8")), "utf-8")
    monkeypatch.setattr(play, "PAGE", page)
    play.main([str(SHIPPED)])
    assert page.read_text("utf-8") == (ROOT / "docs" / "play.html").read_text("utf-8")
    with pytest.raises(SystemExit, match="must be a run on prosqa"):
        play.main([str(ROOT / "results" / "gsm8k.pt")])


def test_the_model_in_javascript_is_short():
    model = play.PAGE.read_text("utf-8").split("<script>\n")[1].split("</script>")[0]
    assert all(f"function {name}(" in model for name in ("attention", "block", "think", "generate"))
    assert len(model.splitlines()) <= 150


def test_the_console_stays_empty(found):
    assert not found["console"]


def test_the_answers_are_those_of_sample(found):
    assert [shown["indices"] for shown in found["asked"]] == [[i, i + 1] for i in range(N)]
    for shown, problem in zip(found["asked"], shipped()[3]):
        text, _ = expected = asked(problem["question"], 4)
        assert_shows(shown, expected)
        assert shown["verdict"] == ("✓ right" if is_correct(text, problem["answer"])
                                    else "✗ wrong")


def test_every_touch_does_what_think_says(found):
    model, enc, s, records = shipped()
    noise = torch.tensor(found["noise"])
    assert (noise.norm(dim=1) - 1).abs().max() < 1e-5
    changed = dict.fromkeys(found["touched"], 0)
    for i in range(N_TOUCHED):
        own, other = (thoughts_after(model, [prompt_of(records[j]["question"], 5)], enc)[0]
                      for j in (i, i + 1))  # (5, C); the first four are those of four thoughts
        swapped = own[[0, 3, 2, 1, 4]]
        touches = {
            "swapped": (4, lambda k, thought: other[k, None]),
            "zero": (4, lambda k, thought: thought * (k != 1)),
            "all zero": (4, lambda k, thought: thought * 0),
            "one of another": (4, lambda k, thought: other[k, None] if k == 2 else thought),
            "exchanged": (4, lambda k, thought: swapped[k, None] if k in (1, 3) else thought),
            "noise": (4, lambda k, thought: thought + 1.5 * thought.norm() * noise[k]),
            "fewer": (2, None),
            "more": (5, None),
            "together": (5, lambda k, thought: thought * 0 if k == 0 else
                         other[k, None] if k == 2 else thought)}
        assert touches.keys() == found["touched"].keys()
        for name, (n, on_thought) in touches.items():
            shown = found["touched"][name][i]
            assert_shows(shown, asked(records[i]["question"], n, on_thought))
            changed[name] += shown["written"] != found["asked"][i]["written"]
    print(f"answers that changed, of {N_TOUCHED}: {changed}")
    assert all(changed[name] for name in changed if name != "more"), changed


def test_a_swap_of_the_thoughts_swaps_the_first_answer(found):
    first, swapped, back = (found[key] for key in ("first", "swappedFirst", "backFirst"))
    assert first["verdict"] == back["verdict"] == "✓ right" and swapped["verdict"] == "✗ wrong"
    assert first["answer"] == back["answer"]
    theirs = shipped()[3][swapped["indices"][1]]["answer"].split(" ")[-1]
    assert swapped["answer"].endswith(theirs)
    assert swapped["says"].startswith("With the thoughts of problem ")
    assert f"the answer is now: {swapped['answer']}" in swapped["says"]


def test_the_button_counts_over_all_problems(found):
    model, enc, s, records = shipped()
    prompts = [prompt_of(record["question"], 4) for record in records]
    thoughts = torch.cat([thoughts_after(model, prompts[i:i + 50], enc)
                          for i in range(0, len(prompts), 50)]).roll(-1, dims=0)
    own = answers(model, prompts, enc, 50, s.max_new_tokens)
    swapped = answers(model, prompts, enc, 50, s.max_new_tokens,
                      lambda rows: lambda k, thought: thoughts[rows, k])
    right = sum(is_correct(text, r["answer"]) for (text, _), r in zip(swapped, records))
    same = sum(text.split(" ")[-1] == other.split(" ")[-1]
               for (text, _), (other, _) in zip(swapped, own[1:] + own[:1]))
    assert found["counted"].startswith(f"{right} of 200 answers are right. {same} of 200 name")


def test_a_question_of_ones_own_is_answered_and_unknown_words_are_named(found):
    enc = shipped()[1]
    for text, shown in zip(OWN, found["own"]):
        assert shown["ids"] == prompt_of(text, 0)[:len(shown["ids"])] and shown["indices"][0] == -1
        assert_shows(shown, asked(text, 4))
    known, unknown, wordless = found["own"]
    assert known["verdict"] in ("✓ right", "✗ wrong") and "never seen" not in known["note"]
    assert "never seen: flurbus, Zoé." in unknown["note"] and unknown["verdict"]
    assert "likes" in wordless["note"] and not wordless["verdict"]
    assert found["encoded"] == [enc.encode_ordinary(text) for text in TEXTS]
    assert found["decoded"] == TEXTS


def test_the_page_is_fast(found):
    print(f"first answer after {found['firstAnswer']:.0f} ms, {found['thought']:.2f} ms a thought")
    assert found["firstAnswer"] < 10_000 and found["thought"] < 200  # ten times what it should be
