"""The mirror to W&B: what is sent, that nothing is sent twice, and that no trouble of W&B's reaches a run."""

import json
import os
import struct
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import yaml
from composing import compose_config
from processes import ROOT, SECONDS, wait_for
from wandb_server import serving

import dl2pa
from dl2pa import identity
from dl2pa.errors import UserError
from dl2pa.folder import RunFolder
from dl2pa.sweep import record as sweep_record
from dl2pa.sweep.verbs import sync
from dl2pa.tracking import Mirror, assignment_image, mirrored

ASSIGNMENTS = [[0, 1, 2], [1, 0, 2], [1, 0, 2]]


@pytest.fixture(autouse=True)
def alone(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    """No W&B account of this machine, and nothing left in the current folder."""
    for name in [name for name in os.environ if name.startswith("WANDB_")]:
        monkeypatch.delenv(name)
    monkeypatch.setenv("HOME", str(tmp_path))
    monkeypatch.setenv("NETRC", str(tmp_path / "none"))
    here = tmp_path / "here"
    here.mkdir()
    monkeypatch.chdir(here)
    yield
    assert list(here.iterdir()) == []


@pytest.fixture
def folder(tmp_path: Path) -> RunFolder:
    """A run of three epochs that has just been prepared."""
    cfg = compose_config("epochs=3", "logger=wandb", "logger.finish_seconds=60", f"runs_dir={tmp_path / 'runs'}")
    folder = RunFolder.of(cfg)
    folder.path.mkdir(parents=True)
    folder.write_config(cfg)
    folder.write_classes(["ant", "bee", "cat"])
    return folder


def write_epoch(folder: RunFolder, epoch: int) -> None:
    folder.append("metrics", {"epoch": epoch, "loss": 1 / epoch, "top1": 10.0 * epoch, "tail": None})
    folder.append("assignments", {"epoch": epoch, "assignment": ASSIGNMENTS[epoch - 1]})


def write_result(folder: RunFolder, **more: float) -> None:
    found = {"top1": 30.0, "hardware": "abacus", "tail": None, "per_class": [20.0, 30.0, None], "moved": [2]}
    folder.write_result({**found, **more})


def offline_records(path: Path) -> list[Any]:
    """The records of an offline run: LevelDB's log format, in blocks of 32 KiB, after a header of 7 bytes."""
    from wandb.proto import wandb_internal_pb2

    [log] = path.glob("*.wandb")
    data, at, part, records = log.read_bytes(), 7, b"", []
    while at + 7 <= len(data):
        if 32768 - at % 32768 < 7:
            at += 32768 - at % 32768
            continue
        _, length, kind = struct.unpack_from("<IHB", data, at)
        part += data[at + 7 : at + 7 + length]
        at += 7 + length
        if kind in (1, 4):  # a whole record, or the last part of one
            records.append(wandb_internal_pb2.Record.FromString(part))
            part = b""
    return records


def values(items: Any) -> dict[str, Any]:
    return {".".join(item.nested_key) or item.key: json.loads(item.value_json) for item in items}


def offline_history(folder: RunFolder) -> list[dict[str, Any]]:
    paths = sorted(folder.wandb_dir.glob("offline-run-*"))
    return [
        values(record.history.item) for path in paths for record in offline_records(path) if record.HasField("history")
    ]


def test_offline_kill_resume_and_what_is_sent(folder: RunFolder, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("WANDB_MODE", "offline")
    write_epoch(folder, 1)
    said: list[str] = []
    killed = Mirror.start(folder.config(), folder, said.append)
    assert killed is not None
    wait_for(lambda: list(folder.wandb_dir.glob("offline-run-*/*.wandb")))
    killed._process.kill()
    killed.finish(60)
    assert len(said) == 1
    assert f"sync {folder.path}" in said[0]

    write_epoch(folder, 2)
    sync([str(folder.path)])  # stopped: no result
    assert [row["epoch"] for row in offline_history(folder)] == [1, 2]
    folder.keep_epochs("metrics", 1)  # killed, and resumed at an earlier checkpoint
    folder.keep_epochs("assignments", 1)
    with mirrored(folder.config(), folder, said.append):
        write_epoch(folder, 2)
        write_epoch(folder, 3)
        write_result(folder)
    assert len(said) == 1

    history = offline_history(folder)
    assert [row.get("epoch") for row in history] == [1, 2, 3, None]
    assert [row.get("top1") for row in history] == [10.0, 20.0, 30.0, None]
    assert (history[3]["per_class._type"], history[3]["assignment._type"]) == ("table-file", "image-file")
    folders = sorted(folder.wandb_dir.glob("offline-run-*"))
    [table] = folders[1].glob("files/media/table/per_class*.json")
    assert json.loads(table.read_text()) == {
        "columns": ["class", "top1"],
        "data": [["ant", 20.0], ["bee", 30.0], ["cat", None]],
    }
    records = offline_records(folders[1])
    [run] = [record.run for record in records if record.HasField("run")]
    assert (run.run_id, run.project, run.job_type) == (folder.run_id, "dl2pa", "train")
    assert run.run_group == identity.group_name(folder.config())
    assert list(run.tags) == ["digits", "dl2pa"]
    config = values(run.config.update)
    assert config["assignment"]["freeze_after"] == folder.config().assignment.freeze_after
    assert set(config) == {*folder.frozen(), "_wandb"}
    steps = {record.metric.name: record.metric.step_metric for record in records if record.HasField("metric")}
    assert steps == {"epoch": "", "loss": "epoch", "top1": "epoch", "tail": "epoch"}
    summary = {}
    for record in records:
        summary |= values(record.summary.update)
    assert (summary["top1"], summary["hardware"]) == (30.0, "abacus")


def test_online_resume(folder: RunFolder, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> None:
    monkeypatch.setenv("WANDB_API_KEY", "a" * 40)
    cfg = folder.config()
    cfg.logger.project, cfg.logger.entity = "mine", "someone"
    said: list[str] = []
    with serving() as server:
        monkeypatch.setenv("WANDB_BASE_URL", server.url)
        write_epoch(folder, 1)
        write_epoch(folder, 2)
        with pytest.raises(UserError, match="stopped"), mirrored(cfg, folder, said.append):
            raise UserError("stopped")
        wait_for(lambda: server.only().exit_codes)
        assert server.only().epochs() == [1, 2]
        with folder.mirroring(60):  # the mirror has let go
            pass
        write_epoch(folder, 3)
        write_result(folder)
        sync([str(folder.path)])  # to where the run was mirrored, which its config does not say
        assert server.only().epochs() == [1, 2, 3, None]
        assert [row["_step"] for row in server.only().history] == [0, 1, 2, 3]
        sync([str(folder.path), "project=mine", "entity=someone"])
    ((key, run),) = server.runs.items()
    assert key == ("someone", "mine", folder.run_id)
    assert len(run.history) == 4
    assert run.exit_codes == [1, 0, 0]
    assert json.loads(run.summary)["hardware"] == "abacus"
    assert said == []
    printed = capsys.readouterr().out.splitlines()
    assert "epochs 3 to 3, finished: http" in printed[0]
    assert "no epoch after 3, finished: http" in printed[1]


def test_a_server_that_goes_away_half_way_costs_one_line(folder: RunFolder, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("WANDB_API_KEY", "a" * 40)
    cfg = folder.config()
    cfg.logger.finish_seconds = 1
    said: list[str] = []
    with serving() as server:
        monkeypatch.setenv("WANDB_BASE_URL", server.url)
        with mirrored(cfg, folder, said.append):
            write_epoch(folder, 1)
            wait_for(lambda: server.only().history)
            server.gone = True
            write_epoch(folder, 2)
            write_epoch(folder, 3)
            write_result(folder)
            start = time.monotonic()
        assert time.monotonic() - start < 10
        assert said == [
            f"warning: W&B lacks part of this run (after 1 s it is still being sent, which goes on); "
            f"python -m dl2pa sync {folder.path} sends what is missing"
        ]
        server.gone = False
        wait_for(lambda: server.only().exit_codes)  # the mirror, a process of its own, has kept trying
    assert server.only().epochs() == [1, 2, 3, None]


def test_unreachable_server_costs_a_run_one_line_and_no_time(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capfd: pytest.CaptureFixture[str]
) -> None:
    from dl2pa.run import run

    monkeypatch.setenv("WANDB_API_KEY", "a" * 40)
    monkeypatch.setenv("WANDB_BASE_URL", "http://127.0.0.1:9")
    words = ["epochs=2", "logger=wandb", "logger.finish_seconds=1", f"runs_dir={tmp_path / 'runs'}"]
    cfg = compose_config(*words, f"data_root={tmp_path / 'data'}", "prototypes=orthoplex", "dimension=8")
    waited: list[float] = []
    finish = Mirror.finish

    def watched(mirror: Mirror, seconds: float) -> None:
        start = time.monotonic()
        finish(mirror, seconds)
        waited.append(time.monotonic() - start)
        mirror._process.kill()
        mirror._watcher.join()

    monkeypatch.setattr(Mirror, "finish", watched)
    result = run(cfg)
    assert RunFolder.of(cfg).result() == result
    assert len(waited) == 1
    assert waited[0] < 10  # W&B alone would have taken half a minute
    printed = "".join(capfd.readouterr())
    assert [line for line in printed.splitlines() if "W&B" in line or "wandb" in line.lower()] == [
        f"warning: W&B lacks part of this run (after 1 s it is still being sent, which goes on); "
        f"python -m dl2pa sync {RunFolder.of(cfg).path} sends what is missing"
    ]
    assert [line["epoch"] for line in RunFolder.of(cfg).lines("metrics")] == [1, 2]


def test_a_search_on_a_run_that_is_finished_already(
    folder: RunFolder, monkeypatch: pytest.MonkeyPatch, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """The search's own run gets everything, whatever became of the folder before; a later sync makes no other."""
    from dl2pa.run import run

    for epoch in (1, 2, 3):
        write_epoch(folder, epoch)
    write_result(folder, val_macro=25.0, top1_best=30.0, seconds=1.0)
    monkeypatch.setenv("WANDB_API_KEY", "a" * 40)
    parameters = tmp_path / "parameters.yaml"  # as the agent writes it
    parameters.write_text(
        "wandb_version: 1\nmethod: {desc: null, value: dl2pa}\noptimizer.lr: {desc: null, value: 0.5}\n"
    )
    by_the_agent = {"SWEEP_ID": "s", "RUN_ID": "try7", "PROJECT": "searched", "SWEEP_PARAM_PATH": str(parameters)}
    with serving() as server:
        monkeypatch.setenv("WANDB_BASE_URL", server.url)
        sync([str(folder.path)])
        for name, value in by_the_agent.items():
            monkeypatch.setenv(f"WANDB_{name}", value)
        run(folder.config())
        for name in by_the_agent:
            monkeypatch.delenv(f"WANDB_{name}")
        run(folder.config())  # outside of the search nothing is sent
        sync([str(folder.path)])
    assert set(server.runs) == {("someone", "dl2pa", folder.run_id), ("someone", "searched", "try7")}
    for found in server.runs.values():
        assert found.epochs() == [1, 2, 3, None]
        assert json.loads(found.summary)["val_macro"] == 25.0
    assert "no epoch after 3" in capsys.readouterr().out.splitlines()[-1]
    usual, searched = (
        {name: entry["value"] for name, entry in found.config().items()} for found in server.runs.values()
    )
    assert (searched["method"], searched["optimizer.lr"]) == ("dl2pa", 0.5)
    assert {name: searched[f"method.{name}"] for name in usual["method"]} == usual["method"]
    assert searched["optimizer"] == usual["optimizer"]


@pytest.mark.slow
def test_the_search_of_this_repository_with_wandbs_own_agent(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """sweeps/wandb, on fewer images: a try, and the same once more, both end with the metric that is searched by."""
    search = (ROOT / "sweeps" / "wandb" / "learning_rate.yaml").read_text()
    few = [f"runs_dir={tmp_path / 'runs_dir'}", "max_steps=2", "device=cpu", f"logger.finish_seconds={SECONDS}"]
    monkeypatch.setenv("WANDB_API_KEY", "a" * 40)
    monkeypatch.setenv("WANDB_DIR", str(tmp_path))
    monkeypatch.setenv("PATH", f"{Path(sys.executable).parent}{os.pathsep}{os.environ['PATH']}")
    with serving() as server:
        monkeypatch.setenv("WANDB_BASE_URL", server.url)
        server.search = search.replace("dataset=cifar10_lt", "\n  - ".join(["dataset=digits_lt", *few]))
        server.tries = [{"method": "etf", "optimizer.lr": 0.25, "optimizer.weight_decay": 0.001}] * 2
        agent = [sys.executable, "-m", "wandb", "agent", "--count", "2", "someone/dl2pa/search"]
        done = subprocess.run(agent, cwd=ROOT, capture_output=True, text=True, timeout=2 * SECONDS)
    assert done.returncode == 0, done.stderr
    assert "already finished" in done.stdout, done.stderr
    assert set(server.runs) == {("someone", "dl2pa", "left-1"), ("someone", "dl2pa", "left-0")}
    metric = yaml.safe_load(search)["metric"]["name"]
    (folder,) = RunFolder.below(tmp_path / "runs_dir")
    result = folder.result()
    assert result is not None
    for found in server.runs.values():
        assert metric in found.history[0]
        assert json.loads(found.summary)[metric] == result[metric]
    assert folder.frozen()["optimizer"]["lr"] == 0.25
    assert folder.frozen()["method"]["name"] == "etf"


def test_a_rerun_is_another_run(folder: RunFolder, monkeypatch: pytest.MonkeyPatch) -> None:
    """The epochs of the first stay where they are; under its id W&B would be taken to have those of the second."""
    monkeypatch.setenv("WANDB_API_KEY", "a" * 40)
    cfg = folder.config()
    with serving() as server:
        monkeypatch.setenv("WANDB_BASE_URL", server.url)
        for epoch in (1, 2):
            write_epoch(folder, epoch)
        sync([str(folder.path)])
        with folder.claimed():
            folder.set_aside()
        folder.plan(cfg)
        write_epoch(folder, 1)
        with mirrored(cfg, folder, pytest.fail):
            write_result(folder)
        sync([str(folder.path)])
    found = {name: run.epochs() for (_, _, name), run in server.runs.items()}
    assert found == {folder.run_id: [1, 2], f"{folder.run_id}-rerun1": [1, None]}


def test_no_key_is_said_and_not_asked_for(
    folder: RunFolder, capfd: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    write_epoch(folder, 1)
    write_result(folder)
    said: list[str] = []
    cfg = folder.config()
    cfg.logger.project = "mine"
    with mirrored(cfg, folder, said.append):
        pass
    assert len(said) == 1
    assert "No API key configured" in said[0]
    assert capfd.readouterr().out == ""
    monkeypatch.setenv("WANDB_API_KEY", "a" * 40)
    with serving() as server:
        monkeypatch.setenv("WANDB_BASE_URL", server.url)
        sync([str(folder.path)])
    ((_, project, _),) = server.runs
    assert project == "mine", "as was asked for when W&B was not to be had"


def test_two_mirrors_of_a_run(folder: RunFolder, capsys: pytest.CaptureFixture[str]) -> None:
    write_epoch(folder, 1)
    with folder.mirroring(0), pytest.raises(UserError, match="another process is mirroring this run"):
        sync([str(folder.path)])
    with folder.claimed():
        sync([str(folder.path)])
    assert "running; sync it when it has ended" in capsys.readouterr().out


def test_sync_of_no_run(tmp_path: Path) -> None:
    with pytest.raises(UserError, match="neither a run folder nor a runs_dir"):
        sync([str(tmp_path)])
    with pytest.raises(UserError, match=r"usage: python -m dl2pa sync DIR"):
        sync(["project=x"])


def test_sync_of_a_whole_runs_dir(
    folder: RunFolder, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    """What has begun and ended is sent; one that cannot be does not stop the others; a sweep's runs alone."""
    monkeypatch.setenv("WANDB_MODE", "offline")
    runs_dir = folder.path.parent.parent
    others = []
    for seed in (1, 2, 3):
        cfg = compose_config("epochs=3", f"seed={seed}", f"runs_dir={runs_dir}")
        others.append(RunFolder.of(cfg))
        others[-1].plan(cfg)
    write_epoch(folder, 1)
    write_epoch(others[0], 1)
    write_epoch(others[1], 1)
    others[1].wandb_dir.write_text("a file where W&B wants a folder")  # and others[2] has not begun
    with pytest.raises(UserError, match=others[1].run_id):
        sync([str(runs_dir)])
    sent = [line.split(":")[0] for line in capsys.readouterr().out.splitlines()]
    assert sorted(sent) == sorted([str(folder.path), str(others[0].path)])
    sweep_record.write(runs_dir, sweep_record.Record("mine", [others[0].key]))
    sync([str(runs_dir), "sweep=mine"])
    (line,) = capsys.readouterr().out.splitlines()
    assert line.startswith(f"{others[0].path}: no epoch after 1")


def test_another_id_is_another_run(folder: RunFolder, monkeypatch: pytest.MonkeyPatch) -> None:
    """W&B never takes the id of a deleted run again: with a suffix everything is sent to a new one."""
    monkeypatch.setenv("WANDB_MODE", "offline")
    write_epoch(folder, 1)
    write_epoch(folder, 2)
    sync([str(folder.path)])
    sync([str(folder.path), "id_suffix=-again"])
    sync([str(folder.path), "id_suffix=-again"])
    found = {}
    for path in sorted(folder.wandb_dir.glob("offline-run-*")):
        records = offline_records(path)
        [run] = [record.run for record in records if record.HasField("run")]
        epochs = [values(record.history.item)["epoch"] for record in records if record.HasField("history")]
        found.setdefault(run.run_id, []).extend(epochs)
    assert found == {folder.run_id: [1, 2], f"{folder.run_id}-again": [1, 2]}


def test_a_log_that_cannot_be_written(folder: RunFolder) -> None:
    folder.mirror_log.mkdir()
    said: list[str] = []
    with mirrored(folder.config(), folder, said.append):
        pass
    assert len(said) == 1
    assert "directory" in said[0]


def test_a_local_run_starts_nothing(folder: RunFolder, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(subprocess, "Popen", lambda *args, **options: pytest.fail("a process was started"))
    cfg = folder.config()
    cfg.logger.name = "local"
    with mirrored(cfg, folder, pytest.fail):
        pass


def test_the_assignment_as_a_picture() -> None:
    """Class 0 and 1 swap in the second epoch, class 2 never moves: cells of three shades, epochs across."""
    picture = assignment_image(ASSIGNMENTS, ["ant", "bee", "cat"])
    shades = {"final": (0xE8, 0xEE, 0xF4), "other": (0x7F, 0xB0, 0xD3), "changed": (0x12, 0x3A, 0x5E)}
    areas = {name: np.all(picture == shade, axis=2) for name, shade in shades.items()}
    body = areas["final"] | areas["other"] | areas["changed"]
    rows = np.flatnonzero(body.sum(1) > picture.shape[1] / 2)  # the legend's patches are narrow
    columns = np.flatnonzero(body[rows].all(0))
    cells = [
        [
            next(name for name, area in areas.items() if area[row, column])
            for column in columns[[len(columns) * k // 6 for k in (1, 3, 5)]]
        ]
        for row in rows[[len(rows) * k // 6 for k in (1, 3, 5)]]
    ]
    assert cells == [["other", "changed", "final"], ["other", "changed", "final"], ["final", "final", "final"]]


def test_the_mirror_needs_neither_torch_nor_data_and_wandb_is_imported_here_alone() -> None:
    heavy = {"torch", "wandb", "sklearn", "matplotlib"}
    check = f"import sys, dl2pa.__main__, dl2pa.tracking; print(sorted({heavy} & set(sys.modules)))"
    done = subprocess.run([sys.executable, "-c", check], capture_output=True, text=True, check=True)
    assert done.stdout == "[]\n"
    package = Path(dl2pa.__file__).parent
    importing = [path.name for path in package.rglob("*.py") if "import wandb" in path.read_text()]
    assert sorted(importing) == ["tracking.py", "workspace.py"]  # what runs, and a verb of its own
