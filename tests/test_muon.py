"""Muon: matrices by their orthogonalized momentum, all else by AdamW."""
import copy

import torch

from conftest import tiny_gpt
from harness.muon import Muon, orthogonalize

OPTIONS = {"lr": 1e-2, "betas": (0.9, 0.98), "weight_decay": 0.1, "fused": True}


def step_with_gradients(model, optimizer, seed, without=()):
    """A step with random gradients, which are returned by name; none for those named in without."""
    generator = torch.Generator().manual_seed(seed)
    gradients = {name: torch.randn(p.shape, generator=generator)
                 for name, p in model.named_parameters()}
    for name, p in model.named_parameters():
        p.grad = None if name in without else gradients[name].clone()
    optimizer.step()
    return gradients


def test_orthogonalizing_keeps_directions_and_evens_out_lengths():
    """Singular vectors stay, singular values come near 1, small ones too; zeros stay zeros."""
    U, _, V = torch.linalg.svd(torch.randn(8, 24, generator=torch.Generator().manual_seed(0)))
    values = torch.logspace(-1, 1, 8)
    x = U @ torch.diag(values) @ V[:8]
    alone, nothing = orthogonalize(torch.stack([x, torch.zeros_like(x)]))
    image = U.mT @ alone @ V[:8].mT
    assert torch.allclose(image, torch.diag(image.diag()), atol=1e-3)
    assert (image.diag() > 0.6).all() and (image.diag() < 1.25).all()
    assert not nothing.any()


def test_a_matrix_moves_by_its_orthogonalized_momentum():
    """Against the obvious way: one matrix at a time; queries, keys and values apart, but no other
    matrix of that shape."""
    model = tiny_gpt()
    C = model.config.n_embd
    model.h[0].another = torch.nn.Linear(C, 3 * C)
    optimizer = Muon(model, **OPTIONS)
    matrices = {name: p.detach().clone() for name, p in model.named_parameters()
                if name.startswith("h.") and p.ndim == 2}
    momentum = {name: torch.zeros_like(p) for name, p in matrices.items()}
    assert len(matrices) == 4 * model.config.n_layer + 1
    for seed in range(3):
        gradients = step_with_gradients(model, optimizer, seed)
        for name, weight in matrices.items():
            momentum[name] = 0.95 * momentum[name] + 0.05 * gradients[name]
            direction = 0.95 * momentum[name] + 0.05 * gradients[name]
            height = C if name.endswith("c_attn.weight") else len(weight)
            for i in range(0, len(weight), height):
                part = direction[i:i + height]
                tall = part.size(0) > part.size(1)
                move, = orthogonalize((part.mT if tall else part)[None])
                weight[i:i + height] *= 1 - 1e-2 * 0.1
                weight[i:i + height] -= 1e-2 * 0.2 * max(part.shape)**0.5 * (move.mT if tall
                                                                             else move)
    for name, weight in matrices.items():
        assert torch.allclose(model.get_parameter(name), weight, atol=1e-5), name


def test_what_is_no_matrix_of_a_layer_moves_by_adamw():
    ours = tiny_gpt()
    theirs = copy.deepcopy(ours)
    optimizers = Muon(ours, **OPTIONS), torch.optim.AdamW(theirs.parameters(), **OPTIONS)
    for seed in range(3):
        for model, optimizer in zip((ours, theirs), optimizers):
            step_with_gradients(model, optimizer, seed)
    others = [name for name, p in ours.named_parameters()
              if not name.startswith("h.") or p.ndim != 2]
    assert {"wte.weight", "wpe.weight", "ln_f.weight", "h.0.ln_1.weight"} <= set(others)
    for name in others:
        assert torch.equal(ours.get_parameter(name), theirs.get_parameter(name)), name


def test_a_parameter_without_a_gradient_is_skipped():
    """Neither its first step nor a later one moves it; its next gradient counts as ever."""
    model, idle = tiny_gpt(), ("h.0.mlp.c_fc.weight", "wpe.weight")
    optimizer = Muon(model, **OPTIONS)

    def values():
        return [model.get_parameter(name).detach().clone() for name in idle]

    before = values()
    step_with_gradients(model, optimizer, 0, without=idle)
    torch.testing.assert_close(values(), before, atol=0, rtol=0)

    fresh = copy.deepcopy(model)  # for which the step to come is the first
    step_with_gradients(fresh, Muon(fresh, **OPTIONS), 1)
    step_with_gradients(model, optimizer, 1)
    after = values()
    torch.testing.assert_close(after, [fresh.get_parameter(name) for name in idle])
    step_with_gradients(model, optimizer, 2, without=idle)
    torch.testing.assert_close(values(), after, atol=0, rtol=0)
