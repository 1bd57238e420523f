"""What an interrupted compression leaves beside its output, so that the same command goes on from there."""

from __future__ import annotations

import contextlib
import dataclasses
import json
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

from edgevit.errors import EdgevitError
from edgevit.files import resumable, staged_file
from edgevit.profiling.quantized import Candidate, MeasuredPlacement
from edgevit.quant.levels import Level


@dataclass(frozen=True)
class Unfinished:
    """Two files: what was learned, and which placement it was learned for.

    A placement is measured, and another measurement may come out otherwise: what was learned would not fit.

    Attributes:
        learned: what reconstruction keeps.
        placed: the placement that was measured.
    """

    learned: Path
    placed: Path

    @classmethod
    def beside(cls, output: Path) -> Unfinished:
        """The files that belong to an output file."""
        return cls(
            output.with_name(f"{output.stem}.partial"), output.with_name(f"{output.stem}.partial.json")
        )

    @contextlib.contextmanager
    def kept_when_interrupted(self) -> Iterator[None]:
        """Nothing is left when the block ends well, or is refused before anything was learned."""
        resumable.extend((self.learned, self.placed))
        try:
            yield
        except EdgevitError:
            if not self.learned.exists():
                self.placed.unlink(missing_ok=True)
            raise
        else:
            self.placed.unlink(missing_ok=True)
        finally:
            for path in (self.learned, self.placed):
                resumable.remove(path)

    def placement(self, run: str) -> MeasuredPlacement | None:
        """What an interrupted run measured; None where none was interrupted.

        Args:
            run: what has to be equal: model, bits, format and so on.

        Raises:
            EdgevitError: when another run was interrupted, and has learned something, or the file is
                damaged.
        """
        if self.placed.exists():
            try:
                kept = json.loads(self.placed.read_text(encoding="utf-8"))
                if kept["run"] == run:
                    return _placement(kept["placement"])
            except (ValueError, KeyError, TypeError) as error:
                raise EdgevitError(f"{self.placed} is no placement in progress; delete it") from error
        if self.learned.exists():
            raise EdgevitError(
                f"{self.learned} was left by a run with another model or other options; repeat that command "
                "to finish it, or delete the file"
            )
        return None

    def keep(self, run: str, placement: MeasuredPlacement) -> None:
        """Write what was measured, whole or not at all."""
        plain = dataclasses.asdict(placement)
        plain["levels"] = {name: level.name for name, level in placement.levels.items()}
        with staged_file(self.placed) as staged:
            staged.write_text(json.dumps({"run": run, "placement": plain}), encoding="utf-8")


def _placement(plain: dict[str, object]) -> MeasuredPlacement:
    values = dict(plain)
    levels, candidates = values.pop("levels"), values.pop("candidates")
    if not isinstance(levels, dict) or not isinstance(candidates, list):
        raise TypeError
    return MeasuredPlacement(
        levels={name: Level[level] for name, level in levels.items()},
        candidates=tuple(Candidate(**item) for item in candidates),
        **values,  # type: ignore[arg-type]
    )
