"""python -m dl2pa workspace: a saved view in Weights & Biases that compares runs across dimension and imbalance."""

from collections.abc import Sequence
from typing import Any

from dl2pa.errors import UserError

NAME = "DL2PA: d and imbalance"


def main(arguments: Sequence[str]) -> None:
    """Saves the view in project=NAME (dl2pa) of entity=NAME (the account's own), and prints where it is.

    Raises:
        UserError: another word, the extra is not installed, or W&B refuses.
    """
    words = dict(word.split("=", 1) for word in arguments if "=" in word)
    if len(words) < len(arguments) or set(words) - {"project", "entity"}:
        raise UserError("usage: python -m dl2pa workspace [project=NAME] [entity=NAME]")
    try:
        import wandb_workspaces.workspaces  # noqa: F401
    except ImportError:
        raise UserError("workspace needs another package: pip install 'dl2pa[workspace]'") from None
    import wandb

    try:
        entity = words.get("entity") or wandb.Api().default_entity
        view = build(str(entity), words.get("project", "dl2pa"))
        view.save()
    except Exception as error:  # whatever W&B raises is one line for the user
        raise UserError(f"W&B: {' '.join(str(error).split())[:300] or type(error).__name__}") from error
    print(view.url)


def build(entity: str, project: str) -> Any:
    """The view, not saved yet: a wandb_workspaces Workspace."""
    import wandb_workspaces.reports.v2 as wr
    import wandb_workspaces.workspaces as ws

    d, imbalance, method, seed = (wr.Config(name) for name in ("dimension", "imbalance", "method.name", "seed"))
    top1, macro, tail = (wr.SummaryMetric(name) for name in ("top1", "macro", "tail"))
    across: list[Any] = [
        wr.ScatterPlot(title="top-1 against d", x=d, y=top1, log_x=True),
        wr.ScatterPlot(title="top-1 against imbalance", x=imbalance, y=top1, log_x=True),
        wr.BarPlot(title="top-1 by d", metrics=["top1"], groupby=d, groupby_rangefunc="stddev"),
        wr.BarPlot(title="top-1 by imbalance", metrics=["top1"], groupby=imbalance, groupby_rangefunc="stddev"),
        wr.ParallelCoordinatesPlot(
            title="everything at once",
            columns=[
                wr.ParallelCoordinatesPlotColumn(metric=metric, log=metric is d)
                for metric in (method, d, imbalance, seed, macro, tail, top1)
            ],
        ),
    ]
    while_training: list[Any] = [
        wr.LinePlot(title=name, x="epoch", y=[name], groupby=method, groupby_rangefunc="stddev")
        for name in ("top1", "loss", "moved", "nc1", "cosine_mean")
    ]
    return ws.Workspace(
        entity=entity,
        project=project,
        name=NAME,
        sections=[
            ws.Section(name="across d and imbalance", panels=across, is_open=True),
            ws.Section(name="while they train", panels=while_training, is_open=True),
        ],
        runset_settings=ws.RunsetSettings(
            groupby=[ws.Config("method.name"), ws.Config("dimension"), ws.Config("imbalance")]
        ),
    )
