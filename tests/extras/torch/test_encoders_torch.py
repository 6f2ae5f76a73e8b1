"""PyTorch models after conversion, against PyTorch: programs, TorchScript, models by name, and what is refused."""

from __future__ import annotations

import io
import json
import subprocess
import sys
import zipfile
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from pydantic import ValidationError

from cliploom.schemas.errors import CliploomError
from cliploom.transforms.encoders import registry
from cliploom.transforms.encoders.agreement import golden_pictures, smallest_cosine
from cliploom.transforms.encoders.prepare import model_digest, prepare_model

SIZE = 16
INPUT = {"layout": "nchw", "width": SIZE, "height": SIZE, "offset": [120, 110, 100], "scale": 60}
CLIP = {"layout": "ncthw", "width": SIZE, "height": SIZE, "frames": 8, "offset": 128, "scale": 64}


class Pictures(torch.nn.Module):
    """Two outputs: a vector and a map of channels."""

    def __init__(self) -> None:
        super().__init__()
        torch.manual_seed(1)
        self.conv = torch.nn.Conv2d(3, 6, 3, stride=2)
        self.head = torch.nn.Linear(6, 5)

    def forward(self, pixels: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
        found = torch.relu(self.conv(pixels))
        return self.head(found.mean((2, 3))), found


class Clips(torch.nn.Module):
    """One vector of a clip; a branch on its length, which TorchScript keeps."""

    def __init__(self) -> None:
        super().__init__()
        torch.manual_seed(2)
        self.conv = torch.nn.Conv3d(3, 7, 3, stride=2)

    def forward(self, clip: torch.Tensor) -> torch.Tensor:
        found = self.conv(clip)
        if clip.shape[2] > 4:
            found = found * 2
        return found.mean((2, 3, 4))


class Attack:
    """Touches a file when it is unpickled."""

    def __init__(self, path: Path) -> None:
        self.path = path

    def __reduce__(self) -> Any:
        return Path.touch, (self.path,)


def options(**values: Any) -> Any:
    return registry.family("torch").Options.model_validate(values)


def exported(path: Path, batch: int = 2) -> Path:
    dimension = ({0: torch.export.Dim("n")},) if batch > 1 else None
    program = torch.export.export(
        Pictures().eval(), (torch.zeros(batch, 3, SIZE, SIZE),), dynamic_shapes=dimension, strict=False
    )
    torch.export.save(program, path)
    return path


def encoded(folder: Path, items: np.ndarray, name: str) -> np.ndarray:
    rows: list[Any] = registry.load(folder).encode(list(items))
    return np.stack([row[name] for row in rows])


def given(items: np.ndarray, declared: dict[str, Any]) -> torch.Tensor:
    values = ((items - np.array(declared["offset"])) / declared["scale"]).astype(np.float32)
    return torch.from_numpy(np.moveaxis(values, -1, 1).copy())


@pytest.mark.parametrize("batch", [1, 3])
def test_an_exported_program_agrees(tmp_path: Path, batch: int) -> None:
    path = exported(tmp_path / "model.pt2", 1 if batch == 1 else 2)
    outputs = {"vector": {}, "map": {"node": "1", "pool": "mean"}, "all": {"node": "1", "pool": "flatten"}}
    chosen = options(model=str(path), trusted=True, input=INPUT, outputs=outputs, batch=batch)
    folder, card = prepare_model("torch", chosen, tmp_path / "models")
    assert {name: output.dim for name, output in card.outputs.items()} == {"vector": 5, "map": 6, "all": 6 * 7 * 7}
    assert min(card.agreement.values()) >= 0.99999
    pictures = golden_pictures(SIZE, SIZE)[::-1]
    with torch.no_grad():
        vector, channels = Pictures().eval()(given(pictures, INPUT))
    assert smallest_cosine(encoded(folder, pictures, "vector"), vector.numpy()) >= 0.99999
    np.testing.assert_allclose(encoded(folder, pictures, "all"), channels.flatten(1).numpy(), atol=1e-4)
    assert not (folder / "golden.npz").exists()


def test_torchscript_of_clips_agrees(tmp_path: Path) -> None:
    torch.jit.script(Clips().eval()).save(tmp_path / "clips.pt")
    chosen = options(model=str(tmp_path / "clips.pt"), trusted=True, input=CLIP, outputs={"vector": {}})
    folder, card = prepare_model("torch", chosen, tmp_path / "models")
    assert (card.modality, card.clip_frames) == ("clip", 8)
    clips = golden_pictures(SIZE, SIZE, 8)
    with torch.no_grad():
        wanted = Clips().eval()(given(clips, CLIP)).numpy()
    assert smallest_cosine(encoded(folder, clips, "vector"), wanted) >= 0.99999


def test_a_program_that_nobody_vouches_for_is_not_run(tmp_path: Path) -> None:
    path = exported(tmp_path / "model.pt2")
    with pytest.raises(CliploomError, match=r"is a program that converting it runs; .* add trusted: true"):
        prepare_model("torch", options(model=str(path), input=INPUT, outputs={"v": {}}), tmp_path / "models")


def rewritten(path: Path, ending: str, content: bytes) -> Path:
    """The archive with one entry replaced."""
    other = path.with_name("other.pt2")
    with zipfile.ZipFile(path) as old, zipfile.ZipFile(other, "w") as new:
        for name in old.namelist():
            new.writestr(name, content if name.endswith(ending) else old.read(name))
    return other


def test_nothing_but_tensors_is_unpickled_even_from_a_trusted_program(tmp_path: Path) -> None:
    path = exported(tmp_path / "model.pt2")
    attack = io.BytesIO()
    torch.save((Attack(tmp_path / "ran"),), attack)
    with zipfile.ZipFile(path) as archive:
        config = next(name for name in archive.namelist() if name.endswith("weights_config.json"))
        entries = json.loads(archive.read(config))
    for entry in entries["config"].values():
        entry["use_pickle"] = True
    marked = rewritten(path, "weights_config.json", json.dumps(entries).encode())
    values = {"trusted": True, "input": INPUT, "outputs": {"v": {}}}
    with pytest.raises(CliploomError, match="holds pickled objects"):
        prepare_model("torch", options(model=str(marked), **values), tmp_path / "models")
    examples = rewritten(path, "sample_inputs/model.pt", attack.getvalue())
    with pytest.raises(CliploomError, match=r"example inputs .* are pickled objects"):
        prepare_model("torch", options(model=str(examples), **values), tmp_path / "models")
    torch.save({"state_dict": Attack(tmp_path / "ran")}, tmp_path / "weights.pth")
    named = {"model": "torchvision:squeezenet1_1", "weights": str(tmp_path / "weights.pth")}
    with pytest.raises(CliploomError, match=r"PyTorch can't load|needs the package torchvision"):
        prepare_model("torch", options(**named, input=INPUT, outputs={"v": {}}), tmp_path / "models")
    assert not (tmp_path / "ran").exists()


def test_files_that_are_no_program_are_refused(tmp_path: Path) -> None:
    torch.save(Pictures().state_dict(), tmp_path / "weights.pth")
    (tmp_path / "text.pt").write_text("no archive")
    for name, said in (("weights.pth", "holds weights without a program"), ("text.pt", "is not a PyTorch program")):
        chosen = options(model=str(tmp_path / name), trusted=True, input=INPUT, outputs={"v": {}})
        with pytest.raises(CliploomError, match=said):
            prepare_model("torch", chosen, tmp_path / "models")
    with pytest.raises(CliploomError, match="There is no PyTorch file"):
        prepare_model("torch", options(model="none.pt2", input=INPUT, outputs={"v": {}}), tmp_path / "models")


@pytest.mark.parametrize(
    ("changes", "said"),
    [
        ({"outputs": {"v": {"node": "3"}}}, "has no output '3'"),
        ({"outputs": {"v": {"node": "1"}}}, "not a vector; add pool: mean to outputs.v, or pool: flatten"),
        ({"input": INPUT | {"layout": "nhwc"}}, r"does not take \[1, 16, 16, 3\] \(nhwc\)"),
    ],
)
def test_inputs_and_outputs_that_are_others_are_said(tmp_path: Path, changes: dict[str, Any], said: str) -> None:
    path = exported(tmp_path / "model.pt2")
    values = {"model": str(path), "trusted": True, "input": INPUT, "outputs": {"v": {}}} | changes
    with pytest.raises(CliploomError, match=said):
        prepare_model("torch", options(**values), tmp_path / "models")


def test_names_need_weights_and_files_have_their_own() -> None:
    with pytest.raises(ValidationError, match="needs weights"):
        options(model="torchvision:vgg16_bn", input=INPUT, outputs={"v": {}})
    with pytest.raises(ValidationError, match="remove weights"):
        options(model="model.pt2", weights="w.pth", input=INPUT, outputs={"v": {}})


def test_the_digest_follows_the_file_and_the_declaration_and_not_the_place(tmp_path: Path) -> None:
    family = registry.family("torch")
    torch.jit.script(Clips().eval()).save(tmp_path / "a.pt")
    (tmp_path / "b.pt").write_bytes((tmp_path / "a.pt").read_bytes())
    first = options(model=str(tmp_path / "a.pt"), input=CLIP, outputs={"v": {}})
    again = options(model=str(tmp_path / "b.pt"), trusted=True, input=CLIP, outputs={"v": {}}, batch=2)
    other = options(model=str(tmp_path / "a.pt"), input=CLIP | {"rounding": "torchvision"}, outputs={"v": {}})
    assert model_digest(family, first) == model_digest(family, again)
    assert model_digest(family, first) != model_digest(family, other)


def test_a_worker_needs_no_torch(tmp_path: Path) -> None:
    path = exported(tmp_path / "model.pt2")
    chosen = options(model=str(path), trusted=True, input=INPUT, outputs={"v": {}})
    folder, _ = prepare_model("torch", chosen, tmp_path / "models")
    code = (
        "import sys, numpy as np; from pathlib import Path; from cliploom.transforms.encoders.registry import load\n"
        f"print(len(load(Path({str(folder)!r})).encode([np.zeros((16, 16, 3), np.uint8)])[0]['v']))\n"
        "print('torch' in sys.modules)"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.split() == ["5", "False"]


@pytest.mark.parametrize(("library", "name"), [("torchvision", "squeezenet1_1"), ("timm", "test_resnet")])
def test_a_model_by_name_gives_what_a_module_inside_gives(tmp_path: Path, library: str, name: str) -> None:
    package = pytest.importorskip(library)
    torch.manual_seed(3)
    model = package.models.get_model(name) if library == "torchvision" else package.create_model(name)
    torch.save(model.eval().state_dict(), tmp_path / "weights.pth")
    inside = "features" if library == "torchvision" else "layer2"
    size = 64
    chosen = options(
        model=f"{library}:{name}",
        weights=str(tmp_path / "weights.pth"),
        input=INPUT | {"width": size, "height": size},
        outputs={"map": {"node": inside, "pool": "flatten"}, "scores": {}},
    )
    folder, _ = prepare_model("torch", chosen, tmp_path / "models")
    pictures = golden_pictures(size, size)
    with torch.no_grad():
        caught: list[torch.Tensor] = []
        model.get_submodule(inside).register_forward_hook(lambda _module, _given, value: caught.append(value))
        scores = model(given(pictures, INPUT))
    assert smallest_cosine(encoded(folder, pictures, "scores"), scores.numpy()) >= 0.99999
    assert smallest_cosine(encoded(folder, pictures, "map"), caught[0].flatten(1).numpy()) >= 0.99999
    wrong = chosen.model_copy(update={"model": f"{library}:{name}x"})
    with pytest.raises(CliploomError, match=f"{library} has no model"):
        prepare_model("torch", wrong, tmp_path / "models")
