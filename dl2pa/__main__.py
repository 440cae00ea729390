"""python -m dl2pa VERB ...: everything but composing a config, which is launch.py's."""

import signal
import sys
from collections.abc import Callable, Sequence
from importlib import import_module
from typing import TYPE_CHECKING

from dl2pa.errors import Stopped, UserError, told

if TYPE_CHECKING:
    from dl2pa.folder import RunFolder

USAGE = """\
usage: python -m dl2pa VERB ...

  run FOLDER...                                train planned run folders, or go on with them, from their frozen configs
  plan sweep=NAME [KEY=VALUE...]               what a sweep consists of, checked, what is left of it and what it takes
  status DIR [sweep=NAME]                      where runs stand: planned, queued, running, finished, failed or lost
  watch DIR [sweep=NAME]                       the same, until all have ended
  retry --failed DIR [sweep=NAME]              work off again what failed or was lost, as it was before
  cancel DIR [sweep=NAME]                      stop what is queued or running; nothing is lost
  logs RUN                                     what a run said, and how it ended
  report DIR... --out OUT [baseline=ROW]       finished runs as CSV, tables, figures and one page that sorts and hovers
  prototypes num_classes=C dimension=D kind=K  build prototypes, keep them, print how good they are
  predict RUN IMAGE... [top=5]                 the likeliest classes of images, by a finished run
  sync DIR... [sweep=NAME] [project=P]         mirror finished or stopped runs to Weights & Biases
  workspace [project=P] [entity=E]             make a view there that compares dimensions and imbalances

RUN and FOLDER are run folders: RUNS_DIR/DATASET/NAME; DIR is one, or a RUNS_DIR. python launch.py --help says how to
train."""

# verb: module and function, imported when asked for. fetch, probe and mirror are started by sweeps and runs.
VERBS = {
    "run": "dl2pa.__main__:run_folders",
    "plan": "dl2pa.sweep.plan:main",
    "status": "dl2pa.sweep.verbs:status",
    "watch": "dl2pa.sweep.verbs:watch",
    "retry": "dl2pa.sweep.verbs:retry",
    "cancel": "dl2pa.sweep.verbs:cancel",
    "logs": "dl2pa.sweep.verbs:logs",
    "report": "dl2pa.report.command:main",
    "fetch": "dl2pa.__main__:fetch",
    "probe": "dl2pa.probe:main",
    "prototypes": "dl2pa.prototypes.command:main",
    "predict": "dl2pa.predict:main",
    "sync": "dl2pa.sweep.verbs:sync",
    "workspace": "dl2pa.report.workspace:main",
    "mirror": "dl2pa.tracking:mirror",
}


def run_folders(arguments: Sequence[str]) -> None:
    """Work run folders off, several side by side; what is said and left behind is what launch.py would.

    In a SLURM job, SIGUSR2 (the time limit is near, or the job is preempted), or SIGTERM because the job is preempted,
    saves and queues the job again.

    Raises:
        UserError: not run folders, or a name is not the id of its config.
        Stopped: by a signal, with everything saved.
    """
    from dl2pa.folder import RunFolder

    if not arguments:
        raise UserError("usage: python -m dl2pa run FOLDER...")
    folders = [RunFolder.existing(path) for path in arguments]
    try:
        if len(folders) == 1:
            _run(folders[0])
        else:
            if any(folder.frozen()["runtime"].get("ddp", False) for folder in folders):
                raise UserError("runtime.ddp=true: the processes of a run train one run folder at a time; name one")
            from dl2pa.sweep import local

            local.side_by_side(folders)
    except Stopped as stopped:
        from dl2pa.sweep import slurm

        try:
            again = stopped.signal == signal.SIGUSR2 or (stopped.signal == signal.SIGTERM and slurm.preempted())
            queued = again and slurm.requeue()
        except UserError as refused:
            message = f"{stopped}; its job could not be queued again ({refused})"
            for folder in folders:
                folder.write_error(message)
            raise Stopped(message, stopped.signal) from None
        if queued:
            for folder in folders:  # the job begins them all again
                folder.write_error(None)
        raise
    signal.signal(signal.SIGUSR2, signal.SIG_IGN)  # with nothing left to save: a process that exits would die of it


def _run(folder: "RunFolder") -> None:
    from dl2pa import identity
    from dl2pa.folder import RunFolder

    cfg = folder.config()
    file = cfg.prototypes.file
    if file is not None and file.startswith("sha256:"):  # what stands there while the file itself is not found
        gone = folder.local().get("prototypes_file")
        raise UserError(f"prototypes.file={gone}: gone, and {folder.path} begins with it")
    if RunFolder.of(cfg).path != folder.path:
        if (
            file is not None
            and identity.result_config(cfg)["prototypes"]["file"] != folder.frozen()["prototypes"]["file"]
        ):
            raise UserError(f"prototypes.file={file}: not the points with which {folder.path} was planned")
        raise UserError(
            f"{folder.path}: its config.yaml is that of {cfg.dataset.name}/{identity.run_name(cfg)}; "
            f"it was renamed, or edited after it was prepared"
        )
    from dl2pa.run import run

    run(cfg)


def fetch(arguments: Sequence[str]) -> None:
    """Fetch the data of run folders; what cannot be had is said, and the rest goes on."""
    from dl2pa.assemble import load_data
    from dl2pa.folder import RunFolder

    for path in arguments:
        try:
            load_data(RunFolder.existing(path).config())
        except UserError as error:
            print(f"warning: {error}", file=sys.stderr)


def main(arguments: Sequence[str]) -> int:
    """Do what ``arguments`` say; the exit status: 0 done, 2 no such verb. A UserError is told, and exits with 1."""
    if not arguments or arguments[0] == "help" or {*arguments} & {"-h", "--help"}:
        print(USAGE)
        return 0
    verb, *rest = arguments
    if verb not in VERBS:
        print(f"python -m dl2pa {verb}: no such verb\n\n{USAGE}", file=sys.stderr)
        return 2
    module, name = VERBS[verb].split(":")
    command: Callable[[Sequence[str]], None] = getattr(import_module(module), name)
    with told():
        command(rest)
    return 0


if __name__ == "__main__":
    if {*sys.argv[1:2]} & {"plan", "status", "watch", "logs"}:
        signal.signal(signal.SIGPIPE, signal.SIG_DFL)  # these only print: `| head` ends them, without a traceback
    sys.exit(main(sys.argv[1:]))
