"""
Muon: AdamW, but for the matrices inside the layers, which move as matrices.

AdamW scales each number of a gradient by itself. Muon replaces the gradient of a matrix by the
nearest matrix whose singular values are all one, so that a step moves every direction alike, also
those that the gradient hardly shows. Small models from scratch then need about half the steps.

Source: Jordan et al., github.com/KellerJordan/Muon. A step of a matrix is a third as long as in Liu
et al., arXiv 2502.16982, section 2.2: here embeddings and norms learn best at three times the rate
of matrices. torch's own Muon computes in bfloat16, which is slow on CPUs, and one matrix at a time.
"""
import torch


class Muon(torch.optim.AdamW):
    """AdamW for a GPT's embeddings, norms and biases; orthogonalized momentum for its matrices.

    options: those of AdamW; its learning rate and weight decay are for the matrices, too."""

    def __init__(self, model, momentum=0.95, **options):
        super().__init__(model.parameters(), **options)
        self.matrices = [p for p in model.h.parameters() if p.ndim == 2]
        self.joint = {id(block.attn.c_attn.weight) for block in model.h}  # queries, keys, values
        self.momentum = momentum

    @torch.no_grad()
    def step(self):
        alike = {}  # shape: [(weight, direction), ..], to be orthogonalized at once
        for p in self.matrices:
            if p.grad is None:  # as AdamW does: it takes no part in this loss
                continue
            state = self.state[p]
            if not state:  # AdamW, when it loads a state, looks for its step
                state |= {"step": torch.zeros(()), "mean": torch.zeros_like(p)}
            mean = state["mean"].lerp_(p.grad, 1 - self.momentum)
            direction = p.grad.lerp(mean, self.momentum)  # looks ahead, as Nesterov does
            p.grad = None  # AdamW leaves alone what has no gradient
            rows = len(p) // 3 if id(p) in self.joint else len(p)
            for weight, move in zip(p.split(rows), direction.split(rows)):
                if len(weight) > weight.size(1):
                    weight, move = weight.mT, move.mT
                alike.setdefault(weight.shape, []).append((weight, move))

        options = self.param_groups[0]
        lr, decay = options["lr"], options["weight_decay"]
        for (_, columns), pairs in alike.items():
            weights, moves = zip(*pairs)
            for weight, move in zip(weights, orthogonalize(torch.stack(moves))):
                weight.mul_(1 - lr * decay).sub_(move, alpha=0.2 / 3 * columns ** 0.5 * lr)
        super().step()


def orthogonalize(x, steps=5):
    """(n, rows, columns), columns >= rows -> the same, but with singular values near 1, 0.7 to 1.2.

    Newton and Schulz's iteration: an odd polynomial, applied again and again, brings all that lie
    between 0 and 1 near 1; those below a hundredth may need more steps. Zeros stay zeros."""
    x = x / (x.norm(dim=(1, 2), keepdim=True) + 1e-7)
    for _ in range(steps):
        gram = x @ x.mT
        x = 3.4445 * x + (-4.7750 * gram + 2.0315 * gram @ gram) @ x
    return x
