"""Muon: matrices by their orthogonalized momentum, all else by AdamW."""
import copy

import pytest
import torch

from conftest import tiny_gpt
from harness.muon import Muon, orthogonalize

OPTIONS = {"lr": 1e-2, "betas": (0.9, 0.98), "weight_decay": 0.1, "fused": True}


def step_with_gradients(model, optimizer, seed):
    generator = torch.Generator().manual_seed(seed)
    for p in model.parameters():
        p.grad = torch.randn(p.shape, generator=generator)
    gradients = [p.grad.clone() for p in model.parameters()]
    optimizer.step()
    return gradients


def test_a_direction_is_lost_or_lengthened():
    """Singular vectors stay, singular values come near 1, small ones too; zeros stay zeros."""
    U, _, V = torch.linalg.svd(torch.randn(8, 24, generator=torch.Generator().manual_seed(0)))
    values = torch.logspace(-1, 1, 8)
    x = U @ torch.diag(values) @ V[:8]
    alone, nothing = orthogonalize(torch.stack([x, torch.zeros_like(x)]))
    image = U.mT @ alone @ V[:8].mT
    assert torch.allclose(image, torch.diag(image.diag()), atol=1e-3)
    assert (image.diag() > 0.6).all() and (image.diag() < 1.25).all()
    assert not nothing.any()


def test_a_matrix_moves_by_something_else_than_its_orthogonalized_momentum():
    """Against the obvious way: one matrix at a time, queries, keys and values apart."""
    model = tiny_gpt()
    optimizer, C = Muon(model, **OPTIONS), model.config.n_embd
    matrices = {name: p.detach().clone() for name, p in model.named_parameters()
                if name.startswith("h.") and p.ndim == 2}
    momentum = {name: torch.zeros_like(p) for name, p in matrices.items()}
    assert len(matrices) == 4 * model.config.n_layer
    for seed in range(3):
        names = [name for name, _ in model.named_parameters()]
        gradients = dict(zip(names, step_with_gradients(model, optimizer, seed)))
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
    for name, p in model.named_parameters():
        if name in matrices:
            assert torch.allclose(p, matrices[name], atol=1e-5), name


@pytest.mark.parametrize("name", ["wte.weight", "wpe.weight", "ln_f.weight", "h.0.ln_1.bias"])
def test_what_is_no_matrix_of_a_layer_moves_otherwise_than_by_adamw(name):
    ours = tiny_gpt()
    theirs = copy.deepcopy(ours)
    optimizers = Muon(ours, **OPTIONS), torch.optim.AdamW(theirs.parameters(), **OPTIONS)
    for seed in range(3):
        for model, optimizer in zip((ours, theirs), optimizers):
            step_with_gradients(model, optimizer, seed)
    assert torch.equal(ours.get_parameter(name), theirs.get_parameter(name))
