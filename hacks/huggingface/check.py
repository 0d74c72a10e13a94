"""The adapter against transformers' own passes, a training run on it, and the way back."""
import json
import re
import shutil

import pytest
import torch
import transformers
from tokenizers import Tokenizer, decoders, models, pre_tokenizers, trainers

import sample
import train
from analysis import __main__ as analyze
from analysis.export import tokenizer_of
from conftest import ROOT, aligned, late_start, pad, random_rows
from data import END, SPECIAL, gpt2_encoding, markers_of
from hacks.huggingface import adapter
from harness.settings import Settings
from harness.start import load_run, problems_that_fit
from model import generate, think
from sample import answers, prompts_of
from tasks.common import problems
from tasks.record import UserError

TEXTS = [text for task in ("prosqa", "prontoqa") for problem in problems(task, 40, 0, "train")
         for text in (problem["question"], problem["answer"], *problem["steps"])]
LLAMA = {"hidden_size": 32, "intermediate_size": 48, "num_hidden_layers": 2,
         "num_attention_heads": 4, "num_key_value_heads": 2, "max_position_embeddings": 512}
KINDS = {"gpt2": {"n_positions": 512, "n_embd": 32, "n_layer": 2, "n_head": 4},
         "llama": LLAMA | {"tie_word_embeddings": False},
         "qwen2": LLAMA | {"tie_word_embeddings": True},
         "qwen3": LLAMA | {"num_key_value_heads": 1, "head_dim": 16}}
kinds = pytest.mark.parametrize("kind", KINDS)


def folder_of(path, model_type, noise=0.1, **sizes):
    """A folder with a random model of transformers, its weights far from zero, and a tokenizer."""
    tokenizer = Tokenizer(models.BPE())
    tokenizer.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    tokenizer.decoder = decoders.ByteLevel()
    tokenizer.train_from_iterator(TEXTS, trainers.BpeTrainer(
        vocab_size=400, special_tokens=["<|end|>"], show_progress=False,
        initial_alphabet=pre_tokenizers.ByteLevel.alphabet()))
    config = transformers.CONFIG_MAPPING[model_type](
        vocab_size=tokenizer.get_vocab_size(), eos_token_id=0, bos_token_id=0, **sizes)
    torch.manual_seed(0)
    hf = transformers.AutoModelForCausalLM.from_config(config)
    for p in hf.parameters():
        p.data += noise * torch.randn_like(p)
    hf.save_pretrained(path)
    tokenizer.save(str(path / "tokenizer.json"))
    return str(path)


@pytest.fixture
def model(kind, tmp_path):
    return adapter.load(folder_of(tmp_path, kind, **KINDS[kind]))[0]


def slow_think(hf, ids, columns):
    """The loop by its definition, on transformers alone: embeddings and states (T, C) of one row
    with thoughts in these columns. No cache, no mask, no padding."""
    x = hf.get_input_embeddings()(torch.tensor([ids]))
    for column in sorted(columns):
        thought = hf.base_model(inputs_embeds=x[:, :column]).last_hidden_state[:, -1:]
        x = torch.cat([x[:, :column], thought, x[:, column + 1:]], dim=1)
    return x, hf.base_model(inputs_embeds=x).last_hidden_state[0]


@kinds
@pytest.mark.parametrize("attention", ["sdpa", "eager"])
@pytest.mark.parametrize("ks", [[0, 0, 0], [1, 1, 1], [4, 4, 4], [4, 0, 2, 1, 0]])
def test_the_loop_equals_full_passes_also_in_its_gradients(model, attention, ks):
    model.hf.set_attn_implementation(attention)
    rows = random_rows(ks)
    ids, is_thought, is_real = pad(rows, aligned(rows))
    start = late_start(is_thought)
    hidden, _ = think(model, ids, is_thought, is_real, start)
    weights = torch.randn(hidden.shape, generator=torch.Generator().manual_seed(1))
    loss = (hidden * weights)[is_real[:, start - 1:]].sum()
    ours = torch.autograd.grad(loss, [*model.hf.base_model.parameters()])
    loss = 0
    for b, (row, columns) in enumerate(rows):
        n = int(is_real[b, start - 1:].sum())  # states that were asked for
        states = slow_think(model.hf, row, columns)[1][-n:]
        real = is_real[b, start - 1:]
        torch.testing.assert_close(hidden[b][real], states, atol=1e-4, rtol=1e-4)
        loss = loss + (states * weights[b][real]).sum()
    theirs = torch.autograd.grad(loss, [*model.hf.base_model.parameters()])
    for one, other in zip(ours, theirs, strict=True):
        torch.testing.assert_close(one, other, atol=1e-4 * other.abs().max().item() + 1e-6, rtol=0)
    assert any(one.abs().max() > 1e-3 for one in ours)


@kinds
@torch.no_grad()
def test_two_continuations_of_one_prompt_do_not_meet(model):
    prompt, ends = torch.tensor([[5, 6, 7, 8]]), [[11, 12], [13, 14]]
    mask = torch.ones(1, 1, 6, 6, dtype=torch.bool).tril()
    pos = torch.arange(6)[None]
    _, cache = model(model.embed(prompt), pos[:, :4], mask[:, :, :4, :4])
    for end in [*ends, ends[0]]:
        hidden, _ = model(model.embed(torch.tensor([end])), pos[:, 4:], mask[:, :, 4:], cache)
        full = model.hf(torch.tensor([[5, 6, 7, 8, *end]])).logits[:, 4:]
        torch.testing.assert_close(model.lm_head(hidden), full, atol=1e-4, rtol=1e-4)


@kinds
@torch.no_grad()
def test_generate_equals_greedy_decoding_by_full_passes(model):
    rows = [(row[:columns[-1] + 2 if columns else None], columns)
            for row, columns in random_rows([0, 1, 4, 2, 0])]
    longest = max(len(row) for row, _ in rows)
    batch = pad(rows, [longest - len(row) for row, _ in rows])
    expected = []
    for row, columns in rows:
        x, _ = slow_think(model.hf, row, columns)
        for _ in range(9):
            token = model.hf(inputs_embeds=x).logits[:, -1:].argmax(dim=-1)
            x = torch.cat([x, model.hf.get_input_embeddings()(token)], dim=1)
            expected.append(int(token))
    expected = [expected[i:i + 9] for i in range(0, len(expected), 9)]
    assert generate(model, *batch, 9, end_id=-1) == expected
    end = expected[0][3]
    assert generate(model, *batch, 9, end_id=end) == [
        row[:row.index(end)] if end in row else row for row in expected]


@kinds
def test_new_tokens_start_as_copies_and_no_text_becomes_one(kind, tmp_path):
    folder = folder_of(tmp_path, kind, **KINDS[kind])
    old = transformers.AutoModelForCausalLM.from_pretrained(folder)
    model, enc = adapter.load(folder)
    first = enc.encode_ordinary("<<")[0]
    for ours, theirs in ((model.wte.weight, old.get_input_embeddings().weight),
                         (model.lm_head.weight, old.get_output_embeddings().weight)):
        assert torch.equal(ours, torch.cat([theirs, theirs[first].expand(len(SPECIAL), -1)]))
    for text in [*TEXTS[:50], "".join(SPECIAL) + "<|end|> é 😀\n"]:
        ids = enc.encode_ordinary(text)
        assert enc.decode(ids) == text and not {*markers_of(enc), 0} & {*ids}
    assert enc.eot_token == 0 and model.config.vocab_size == enc.n_vocab
    assert adapter.Encoding(**enc.state).encode_ordinary(TEXTS[0]) == enc.encode_ordinary(TEXTS[0])


def test_a_window_limits_the_block_and_other_logits_are_refused(tmp_path):
    model, _ = adapter.load(folder_of(tmp_path / "window", "mistral", **LLAMA, sliding_window=40))
    assert model.config.block_size == 40
    for name, said in {"granite": {"logits_scaling": 8.0}, "gemma2": {
            "head_dim": 8, "final_logit_softcapping": 0.5}}.items():
        folder = folder_of(tmp_path / name, name, **LLAMA, **said)
        with pytest.raises(UserError, match=f"{name} holds no model .* not lm_head"):
            adapter.load(folder)
    (tmp_path / "window" / "tokenizer.json").unlink()
    with pytest.raises(UserError, match="window holds no model that"):
        adapter.load(str(tmp_path / "window"))


def trained(out, *options):
    return train.main(["--out_dir", str(out), "--device", "cpu", *map(str, options)])


OPTIONS = ("--task prosqa --data generated --nodes 8 --steps names --epochs_stage_0 0 "
           "--n_train 640 --n_valid 4 --n_test 16 --batch_size 16 --learning_rate 3e-3 "
           "--max_new_tokens 8").split()


@pytest.mark.parametrize("kind", ["llama", "qwen2", "qwen3"])
def test_twenty_steps_of_training_lower_the_loss_and_a_resumed_run_ends_the_same(
        kind, tmp_path, capsys):
    folder = folder_of(tmp_path / "model", kind, 0, **KINDS[kind])
    given = ["--init", folder, *OPTIONS]
    before = trained(tmp_path / "none", *given, "--max_steps", 0, "--stage", 1)["test_loss"]
    after = trained(tmp_path / "whole", *given, "--max_steps", 20)
    assert after["stage"] == 1 and after["test_loss"] < 0.8 * before
    trained(tmp_path / "parts", *given, "--max_steps", 9)
    shutil.rmtree(folder)  # a checkpoint has all it takes
    trained(tmp_path / "parts", "--resume", "--max_steps", 20)
    whole, parts = (load_run(tmp_path / name / "ckpt.pt")[1] for name in ("whole", "parts"))
    assert parts.hf.model.layers[0].self_attn.attention_dropout == 0.1
    for name, tensor in whole.state_dict().items():
        assert torch.equal(tensor, parts.state_dict()[name]), name

    ckpt = str(tmp_path / "whole" / "ckpt.pt")
    capsys.readouterr()
    sample.main(["--ckpt", ckpt, "--index", "0", "--device", "cpu"])
    analyze.main(["intervene", ckpt, "--n", "4", "--device", "cpu"])
    printed = capsys.readouterr().out
    assert "thought 1  norm" in printed and "of another problem" in printed
    for command in ("slim {} --out {}/slim.pt", "export {} {}/hf"):
        analyze.main(command.format(ckpt, tmp_path).split())
    half = load_run(tmp_path / "slim.pt")[1]
    torch.testing.assert_close(half.state_dict(), whole.state_dict(), atol=1e-3, rtol=1e-3)
    again, _ = adapter.load(str(tmp_path / "hf"))
    assert torch.equal(again.wte.weight, whole.wte.weight)
    with pytest.raises(SystemExit, match="--optimizer muon knows the layers of GPT-2 alone"):
        trained(tmp_path / "muon", "--init", ckpt, "--optimizer", "muon", "--max_steps", 1)


def test_frozen_layers_keep_their_weights_also_in_a_resumed_run(tmp_path):
    folder = folder_of(tmp_path / "model", "qwen2", 0, **KINDS["qwen2"], frozen_layers=1)
    before = adapter.load(folder)[0].state_dict()
    given = ["--init", folder, *OPTIONS]
    trained(tmp_path / "whole", *given, "--max_steps", 4)
    trained(tmp_path / "parts", *given, "--max_steps", 2)
    trained(tmp_path / "parts", "--resume", "--max_steps", 4)
    whole, parts = (load_run(tmp_path / name / "ckpt.pt") for name in ("whole", "parts"))
    assert len(whole[0]["optimizer"]["state"]) == sum(
        p.requires_grad for p in whole[1].parameters())
    for name, tensor in whole[1].state_dict().items():
        assert torch.equal(tensor, parts[1].state_dict()[name]), name
        frozen = re.search(r"wte|embed_tokens|lm_head|layers\.0\.", name)  # lm_head is tied
        assert torch.equal(tensor, before[name]) == bool(frozen), name


# --------------------------------------------------------------------------------------------------
# Our models for transformers

@pytest.fixture(scope="module")
def exported(tmp_path_factory):
    folder = tmp_path_factory.mktemp("exported")
    analyze.main(["export", str(ROOT / "results" / "prosqa-balanced.pt"), str(folder)])
    return str(folder)


@torch.no_grad()
def test_transformers_loads_our_weights_and_computes_our_logits(exported):
    _, ours, _ = load_run(ROOT / "results" / "prosqa-balanced.pt")
    theirs, info = transformers.GPT2LMHeadModel.from_pretrained(
        exported, output_loading_info=True)
    assert not info["missing_keys"] and not info["unexpected_keys"]
    ids = torch.randint(ours.config.vocab_size, (3, 60))
    pos, mask = torch.arange(60)[None], torch.ones(1, 1, 60, 60, dtype=torch.bool).tril()
    hidden, _ = ours(ours.embed(ids), pos, mask)
    torch.testing.assert_close(theirs(ids).logits, ours.lm_head(hidden), atol=1e-5, rtol=1e-5)


def random_texts():
    generator = torch.Generator().manual_seed(0)
    letters = "abeilmnprstu .?#<é😀\n1'"
    for n in torch.randint(1, 40, (2000,), generator=generator).tolist():
        yield "".join(letters[i] for i in torch.randint(len(letters), (n,), generator=generator))


def test_the_exported_tokenizer_gives_our_ids(exported):
    _, _, enc = load_run(ROOT / "results" / "prosqa-balanced.pt")
    theirs = transformers.AutoTokenizer.from_pretrained(exported)
    for text in [*TEXTS, *random_texts()]:
        assert theirs(text).input_ids == enc.encode_ordinary(text), text
        assert theirs.decode(enc.encode_ordinary(text)) == text
    for name in (END, *SPECIAL):
        assert theirs.convert_tokens_to_ids(name) == enc._special_tokens[name]
    assert theirs.eos_token_id == enc.eot_token


def test_gpt2s_vocabulary_as_it_is_exported_gives_our_ids(needs_gpt2_vocabulary):
    enc = gpt2_encoding()
    theirs = Tokenizer.from_str(json.dumps(tokenizer_of(enc)))
    theirs.encode_special_tokens = True  # the page spells <|endoftext|>
    page = (ROOT / "README.md").read_text()
    for text in [*TEXTS, *random_texts(), *page.split("\n\n")]:
        assert theirs.encode(text).ids == enc.encode_ordinary(text), text


def test_the_lines_of_the_readme_give_our_answers(exported):
    """Fifty of fifty, thoughts included, by transformers alone."""
    page = (ROOT / "hacks" / "huggingface" / "README.md").read_text()
    code = re.search(r"```python\n(.*?)```", page, flags=re.DOTALL)[1]
    scope = {}
    exec(code.replace("out/hf", exported), scope)
    ckpt, model, enc = load_run(ROOT / "results" / "prosqa-balanced.pt")
    s = Settings(**ckpt["settings"])
    examples = problems_that_fit(s, model, enc)[:50]
    c = s.curriculum()
    ours = answers(model, prompts_of(examples, 4, c, enc), enc, 50, s.max_new_tokens)
    theirs = [scope["ask"](example.question, 4) for example in examples]
    assert len(theirs) == 50 and theirs == [text for text, _ in ours]
