"""``cliploom models check`` on PyTorch's files and folders, and presets with stand-ins of the published signatures."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch
import yaml

from cliploom.pipelines.models.published import check_preset
from cliploom.pipelines.planning.check import check_encoders
from cliploom.schemas.errors import CliploomError
from cliploom.schemas.spec_file import parse_document
from cliploom.transforms.model_files.apart import look_apart
from cliploom.transforms.model_files.found import spec_text
from cliploom.transforms.model_files.look import look


class Video(torch.nn.Module):
    """The signature of Omnivore Swin-L for video: [1, 3, 32, 224, 224] to [1, 1536]."""

    def __init__(self) -> None:
        super().__init__()
        torch.manual_seed(0)
        self.conv = torch.nn.Conv3d(3, 8, (2, 16, 16), stride=(8, 16, 16))
        self.head = torch.nn.Linear(8, 1536)

    def forward(self, clip: torch.Tensor) -> torch.Tensor:
        return self.head(torch.relu(self.conv(clip)).mean((2, 3, 4)))


class Attack:
    """Touches a file when it is unpickled."""

    def __init__(self, path: Path) -> None:
        self.path = path

    def __reduce__(self) -> object:
        return Path.touch, (self.path,)


def exported(path: Path) -> Path:
    program = torch.export.export(Video().eval(), (torch.zeros(1, 3, 32, 224, 224),), strict=False)
    torch.export.save(program, path)
    return path


def test_an_exported_omnivore_is_recognised_and_prepared(tmp_path: Path) -> None:
    found = look_apart(exported(tmp_path / "omnivore_swinL.pt2"), "omnivore_swinL.pt2")
    assert (found.kind, found.preset) == ("torch", "omnivore_swinl")
    text = spec_text(found)
    assert "trusted: true  # a program" in text
    check_encoders(parse_document(yaml.safe_load(text)))
    checked = check_preset("omnivore_swinl", tmp_path, print)
    assert (checked.right, checked.dims) == (True, {"pooled": (1536, 1536)})
    assert checked.agreement["pooled"] > 0.99999


def test_a_program_of_another_name_gets_its_input_from_the_file(tmp_path: Path) -> None:
    found = look(exported(tmp_path / "mine.pt2"), "mine.pt2")
    assert found.preset == ""
    assert found.options["input"] == {"layout": "ncthw", "frames": 32, "width": 224, "height": 224}
    assert found.sample == {"first": {"frames": 32}}


def test_torchscript_is_a_program_whose_input_is_a_guess(tmp_path: Path) -> None:
    torch.jit.save(torch.jit.script(Video().eval()), tmp_path / "script.pt")
    found = look(tmp_path / "script.pt", "script.pt")
    assert found.what == "a program of PyTorch (TorchScript)"
    assert any("the file does not say" in guess for guess in found.guesses)


@pytest.mark.parametrize("legacy", [False, True])
def test_weights_are_reported_from_programs_and_never_unpickled(tmp_path: Path, legacy: bool) -> None:
    state = {"weights": Video().state_dict(), "attack": Attack(tmp_path / "touched")}
    torch.save(state, tmp_path / "net.pth", _use_new_zipfile_serialization=not legacy)
    found = look(tmp_path / "net.pth", "net.pth")
    assert found.kind == ""
    assert "torchvision:NAME" in found.advice
    assert not (tmp_path / "touched").exists()


def test_a_pickle_that_is_no_checkpoint_is_refused(tmp_path: Path) -> None:
    import pickle

    (tmp_path / "model.pt").write_bytes(pickle.dumps(Attack(tmp_path / "touched")))
    with pytest.raises(CliploomError, match="is not a PyTorch file"):
        look(tmp_path / "model.pt", "model.pt")
    assert not (tmp_path / "touched").exists()
