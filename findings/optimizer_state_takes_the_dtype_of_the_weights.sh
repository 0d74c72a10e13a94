#!/usr/bin/env bash
# Guess: optimizer.load_state_dict gives back what optimizer.state_dict gave. What was float32 stays
# float32.
# Seen: with torch 2.13.0 every floating-point tensor of a parameter's state, except one that is
# called "step", is cast to the dtype of the parameter, without a word. So an optimizer that keeps
# float32 master weights for bfloat16 parameters has masters with 8 bits of precision once it is
# resumed. With small steps the resumed run stands still, as 1 - 0.0001 is 1 in bfloat16, while an
# unbroken one goes on. The file itself is right, so no look at it shows the loss.
# Fails if the state keeps its dtype, or if the resumed run moves.
set -euo pipefail
folder=$(mktemp -d)
trap 'rm -rf "$folder"' EXIT
python3 -m venv "$folder/venv"
"$folder/venv/bin/pip" install --quiet "torch==2.13.0" "numpy==2.2.6"
cd "$folder"
"$folder/venv/bin/python" - <<'PYTHON'
import torch


class WithMasters(torch.optim.Optimizer):
    """Gradient descent on a float32 copy of each parameter."""
    def __init__(self, parameters, lr):
        super().__init__(parameters, {"lr": lr})

    @torch.no_grad()
    def step(self):
        for group in self.param_groups:
            for p in group["params"]:
                state = self.state[p]
                if not state:
                    state["master"] = p.float()
                state["master"].sub_(p.grad.float(), alpha=group["lr"])
                p.copy_(state["master"])


def steps(weight, optimizer, n):
    for _ in range(n):
        weight.grad = torch.ones_like(weight)
        optimizer.step()
    return optimizer.state[weight]["master"]


print(f"torch {torch.__version__}")
weight = torch.nn.Parameter(torch.ones(3, dtype=torch.bfloat16))
optimizer = WithMasters([weight], lr=1e-4)
steps(weight, optimizer, 1)
torch.save({"weight": weight.detach(), "optimizer": optimizer.state_dict()}, "run.pt")
unbroken = steps(weight, optimizer, 500)

saved = torch.load("run.pt")
in_file = saved["optimizer"]["state"][0]["master"].dtype
resumed_weight = torch.nn.Parameter(saved["weight"])
resumed_optimizer = WithMasters([resumed_weight], lr=1e-4)
resumed_optimizer.load_state_dict(saved["optimizer"])
resumed = steps(resumed_weight, resumed_optimizer, 500)
print(f"the master is {in_file} in the file, {resumed.dtype} once it is loaded")
print(f"after 500 more steps of 0.0001: unbroken {unbroken[0]:.4f}, resumed {resumed[0]:.4f}")
assert in_file == unbroken.dtype == torch.float32 and resumed.dtype == torch.bfloat16
assert unbroken.max() < 0.96 and resumed.min() == 1.0
PYTHON
