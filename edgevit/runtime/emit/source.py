"""A plan with the files of its stages, as every target is made of it."""

from __future__ import annotations

import functools
import shutil
from dataclasses import dataclass
from pathlib import Path

from edgevit.errors import EdgevitError
from edgevit.planning.plan_file import PlanFile
from edgevit.pruning.split import MANIFEST, Manifest
from edgevit.runtime.emit.options import EmitOptions
from edgevit.runtime.lanes import Layout
from edgevit.runtime.messages import COORDINATOR, check_name
from edgevit.runtime.models import Model, open_model
from edgevit.runtime.running import exported, origin_of, pieces_of

#: What the plan file is called where it is brought.
PLAN = "plan.yaml"


@dataclass(eq=False)
class Source:
    """What is emitted.

    Attributes:
        path: of the plan file.
        plan: what it says.
        model: that was planned.
        name: of the service.
    """

    path: Path
    plan: PlanFile
    model: Model
    name: str

    @functools.cached_property
    def layout(self) -> Layout:
        """Of the best plan; its files are exported when it is first asked for."""
        return self.model.layout(self.plan.plan)

    @property
    def devices(self) -> tuple[str, ...]:
        """Names of all devices of the plan, those among them that only take over for another."""
        return tuple(device.name for device in self.plan.devices)

    def copy_whole(self, folder: Path) -> Path:
        """Copy what a coordinator needs: the plan, its model, the exported files of this and of other plans.

        Returns:
            Where the model is in the folder.
        """
        folder.mkdir(parents=True)
        shutil.copyfile(self.path, folder / PLAN)
        layouts = [self.layout, *exported(self.plan, self.model, spares=True)]
        for made in {piece.path.parent for layout in layouts for piece in layout.pieces}:
            shutil.copytree(made, pieces_of(folder / PLAN) / made.name)
        origin = self.model.origin
        if origin.name != MANIFEST:
            shutil.copyfile(origin, folder / origin.name)
            return Path(origin.name)
        manifest = Manifest.read(origin)
        (folder / "split").mkdir()
        entries = (*manifest.parts, manifest.fusion, manifest.control)
        for name in (MANIFEST, *(entry.file for entry in entries)):
            shutil.copyfile(origin.parent / name, folder / "split" / name)
        return Path("split")


def open_source(path: Path, options: EmitOptions) -> Source:
    """Read a plan and its model; stages are exported beside the plan, as `edgevit run` does.

    Raises:
        EdgevitError: when plan or model cannot be used.
    """
    plan = PlanFile.read(path)
    for device in plan.devices:
        check_name(device.name, f"{path}: device")
        if device.name == COORDINATOR:
            raise EdgevitError(
                f"{path}: a device is called {COORDINATOR}, as whoever runs plans is; rename it"
            )
    model = open_model(plan, origin_of(plan, path, options.model), pieces_of(path))
    name = options.name or check_name(model.card.name, "model (name the service with --name):")
    return Source(path, plan, model, name)
