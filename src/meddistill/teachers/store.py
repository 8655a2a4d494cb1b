"""Trajectories on disk: one safetensors file a teacher, written atomically, read by the slice.

A teacher that is still training has its snapshots so far in a ``.part`` file; once complete it becomes a file of its
own.
"""

import contextlib
from dataclasses import dataclass
from pathlib import Path

import safetensors
import safetensors.torch
import torch
from torch import Tensor

from meddistill.runtime.errors import InputError
from meddistill.runtime.files import write_atomic


@dataclass(frozen=True)
class TrajectoryStore:
    """The trajectories in ``folder``, each ``(snapshots, parameters)`` float32."""

    folder: Path
    snapshots: int
    parameters: int

    def load_part(self, teacher: int) -> Tensor | None:
        """What an interrupted or finished training of that teacher has left: ``(n, P)``, or None."""
        for path in (self._path(teacher), self._part(teacher)):
            if path.exists():
                return self._checked(path, self._read(path, slice(None)))
        return None

    def is_complete(self, teacher: int) -> bool:
        """Whether the teacher's whole trajectory is there."""
        return self._path(teacher).exists()

    def save_part(self, teacher: int, trajectory: Tensor) -> None:
        """Keep the snapshots so far."""
        write_atomic(self._part(teacher), _encode(trajectory))

    def save(self, teacher: int, trajectory: Tensor) -> None:
        """Keep a whole trajectory and drop its part."""
        write_atomic(self._path(teacher), _encode(trajectory))
        self.drop_part(teacher)

    def drop_part(self, teacher: int) -> None:
        """Delete the part of a teacher that is complete: a process killed right after completing it leaves one."""
        with contextlib.suppress(OSError):
            self._part(teacher).unlink(missing_ok=True)

    def snapshot(self, teacher: int, index: int) -> Tensor:
        """One point of a trajectory, ``(P,)``: only its bytes are read."""
        return self._read(self._path(teacher), slice(index, index + 1))[0]

    def _path(self, teacher: int) -> Path:
        return self.folder / f"teacher-{teacher:04d}.safetensors"

    def _part(self, teacher: int) -> Path:
        return self.folder / f"teacher-{teacher:04d}.part.safetensors"

    @staticmethod
    def _read(path: Path, rows: slice) -> Tensor:
        try:
            with safetensors.safe_open(path, framework="pt") as file:
                part: Tensor = file.get_slice("trajectory")[rows]
                return part
        except (OSError, safetensors.SafetensorError) as error:
            raise InputError(
                f"cannot read the trajectory {path} ({error}): delete it to have it trained again"
            ) from None

    def _checked(self, path: Path, trajectory: Tensor) -> Tensor:
        if trajectory.dim() != 2 or trajectory.shape[1] != self.parameters or len(trajectory) > self.snapshots:
            raise InputError(
                f"{path} holds a trajectory of shape {tuple(trajectory.shape)}, expected up to {self.snapshots} "
                f"snapshots of {self.parameters} parameters: it belongs to another plan; delete it"
            )
        return trajectory


def _encode(trajectory: Tensor) -> bytes:
    return safetensors.torch.save({"trajectory": trajectory.to(torch.float32).contiguous()})
