"""Muon: matrices by their orthogonalized momentum, all else by AdamW."""
import copy

import torch

from conftest import tiny_gpt
from harness.muon import Muon, orthogonalize

OPTIONS = {"lr": 1e-2, "betas": (0.9, 0.98), "weight_decay": 0.1, "fused": True}


def step_with_gradients(model, optimizer, seed, without=()):
    """A step with random gradients, which are returned by name; none for those named in without."""
    torch.manual_seed(seed)
    gradients = {name: torch.randn_like(p) for name, p in model.named_parameters()}
    for name, p in model.named_parameters():
        p.grad = None if name in without else gradients[name].clone()
    optimizer.step()
    return gradients


def test_orthogonalizing_keeps_directions_and_evens_out_lengths():
    """Singular vectors stay, singular values come near 1, small ones too; zeros stay zeros."""
    U, _, V = torch.linalg.svd(torch.randn(8, 24, generator=torch.Generator().manual_seed(0)))
    x = U @ torch.diag(torch.logspace(-1, 1, 8)) @ V[:8]
    alone, nothing = orthogonalize(torch.stack([x, torch.zeros_like(x)]))
    image = U.mT @ alone @ V[:8].mT
    assert torch.allclose(image, torch.diag(image.diag()), atol=1e-3)
    assert ((image.diag() > 0.6) & (image.diag() < 1.25)).all() and not nothing.any()


def test_matrices_move_by_their_orthogonalized_momentum_and_all_else_by_adamw():
    """Against the obvious way: one matrix at a time; queries, keys and values apart, but no other
    matrix of that shape."""
    model, C = tiny_gpt(), 32
    model.h[0].another = torch.nn.Linear(C, 3 * C)
    theirs = copy.deepcopy(model)
    optimizer, adamw = Muon(model, **OPTIONS), torch.optim.AdamW(theirs.parameters(), **OPTIONS)
    expected = dict(theirs.named_parameters())
    matrices = {name: p.detach().clone() for name, p in expected.items()
                if name.startswith("h.") and p.ndim == 2}
    momentum = {name: torch.zeros_like(p) for name, p in matrices.items()}
    for seed in range(3):
        step_with_gradients(theirs, adamw, seed)
        gradients = step_with_gradients(model, optimizer, seed)
        for name, weight in matrices.items():
            momentum[name] = 0.95 * momentum[name] + 0.05 * gradients[name]
            direction = 0.95 * momentum[name] + 0.05 * gradients[name]
            height = C if name.endswith("c_attn.weight") else len(weight)
            for part, move in zip(weight.split(height), direction.split(height)):
                tall = len(part) > part.size(1)
                move, = orthogonalize((move.mT if tall else move)[None])
                part *= 1 - 1e-2 * 0.1
                part -= 1e-2 * 0.2 / 3 * max(part.shape) ** 0.5 * (move.mT if tall else move)
    assert len(matrices) == 4 * model.config.n_layer + 1
    for name, p in model.named_parameters():
        torch.testing.assert_close(p, matrices.get(name, expected[name]), atol=1e-5, rtol=0)


def test_a_parameter_without_a_gradient_is_skipped():
    """Neither its first step nor a later one moves it; its next gradient counts as ever."""
    model, idle = tiny_gpt(), ("h.0.mlp.c_fc.weight", "wpe.weight")
    optimizer, before = Muon(model, **OPTIONS), copy.deepcopy(model)

    def values(model):
        return [model.get_parameter(name) for name in idle]

    step_with_gradients(model, optimizer, 0, without=idle)
    torch.testing.assert_close(values(model), values(before), atol=0, rtol=0)
    fresh = copy.deepcopy(model)  # for which the step to come is the first
    step_with_gradients(fresh, Muon(fresh, **OPTIONS), 1)
    step_with_gradients(model, optimizer, 1)
    step_with_gradients(model, optimizer, 2, without=idle)
    torch.testing.assert_close(values(model), values(fresh))
