"""torch's optimizers, without the import of torch._dynamo that each of them begins with.

It takes longer than that of torch itself, half of the time until a run's first step, and is for optimizers within
compiled code, which these are not.
"""

import inspect
from typing import Any, TypeVar

import torch
from omegaconf import DictConfig
from torch import nn

from dl2pa.model import Classifier

T = TypeVar("T", bound=type[torch.optim.Optimizer])


def _direct(optimizer: T) -> T:
    """``optimizer`` without the decorators by which torch keeps its methods out of compiled code."""
    names = ("add_param_group", "zero_grad", "state_dict", "load_state_dict")
    methods = {name: inspect.unwrap(getattr(optimizer, name)) for name in names}
    methods["step"] = torch.no_grad()(inspect.unwrap(optimizer.step))
    direct: T = type(optimizer.__name__, (optimizer,), methods)  # type: ignore[assignment]
    return direct


SGD = _direct(torch.optim.SGD)
AdamW = _direct(torch.optim.AdamW)


def make_optimizer(cfg: DictConfig, model: Classifier) -> torch.optim.Optimizer:
    """What ``cfg`` trains ``model`` with."""
    options = cfg.optimizer
    decayed: list[nn.Parameter] = []
    free: list[nn.Parameter] = []
    for name, parameter in model.named_parameters():
        if parameter.requires_grad:
            # By name too: Swin's relative position biases are tables.
            of_weights = parameter.ndim > 1 and "bias" not in name
            (decayed if options.decay == "all" or of_weights else free).append(parameter)
    trained: list[dict[str, Any]] = [{"params": decayed}]
    if free:
        trained.append({"params": free, "weight_decay": 0.0})
    if options.name == "adamw":
        return AdamW(trained, lr=options.lr, weight_decay=options.weight_decay, fused=True)
    return SGD(
        trained,
        lr=options.lr,
        momentum=options.momentum,
        weight_decay=options.weight_decay,
        nesterov=options.nesterov,
        fused=True,
    )
