"""I3D against two independent ones, its files' names, and what must and must not change its features."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import torch
from published_files import OURS_TO_STYLEGANV, OURS_TO_TATS, i3d_file, random_inception, renamed
from torch import Tensor, nn
from torch.nn import functional as F

from vidgen import UserError
from vidgen.extractors.frames import quantised, resize_tf1
from vidgen.extractors.i3d import I3D, Inception, matched, padded


@pytest.fixture(scope="module")
def state() -> dict[str, Tensor]:
    return random_inception()


@pytest.fixture(scope="module")
def file(tmp_path_factory: pytest.TempPathFactory, state: dict[str, Tensor]) -> str:
    return i3d_file(tmp_path_factory.mktemp("weights"), state)


def network(state: dict[str, Tensor], bn_eps: float = 1e-3) -> Inception:
    found = Inception(bn_eps=bn_eps).eval()
    found.load_state_dict(state)
    return found


@pytest.fixture(scope="module")
def found(state: dict[str, Tensor]) -> dict[float, Tensor]:
    """The logits of one clip by what normalisation adds to variances."""
    with torch.no_grad():
        return {eps: network(state, bn_eps=eps)(clips()) for eps in (1e-3, 1e-5)}


def clips(count: int = 1, frames: int = 9, size: int = 224) -> Tensor:
    return torch.rand(count, 3, frames, size, size, generator=torch.Generator().manual_seed(0)) * 2 - 1


# The network


def same(x: Tensor, kernel: tuple[int, ...], stride: tuple[int, ...], fill: float) -> Tensor:
    """TensorFlow's rule written out: (out - 1) * stride + kernel - size, half before, the rest after."""
    for dim, (k, s) in enumerate(zip(kernel, stride, strict=True), start=2):
        size = x.shape[dim]
        out = -(-size // s)
        missing = max(0, (out - 1) * s + k - size)
        ends = [missing // 2, missing - missing // 2]
        blocks = []
        for length, after in zip(ends, (False, True), strict=True):
            shape = list(x.shape)
            shape[dim] = length
            blocks.append((after, x.new_full(shape, fill)))
        x = torch.cat([blocks[0][1], x, blocks[1][1]], dim)
    return x


def from_the_paper(state: dict[str, Tensor], x: Tensor, eps: float) -> Tensor:
    """The table of the paper as plain functions: pooling pads with minus infinity, normalisation is written out."""

    def unit(name: str, x: Tensor, stride: int = 1) -> Tensor:
        kernel = state[f"{name}.conv.weight"]
        x = F.conv3d(same(x, kernel.shape[2:], (stride,) * 3, 0.0), kernel, stride=stride)
        mean, var, scale, shift = (
            state[f"{name}.norm.{part}"].view(1, -1, 1, 1, 1) for part in ("running_mean", "running_var", "weight", "bias")
        )
        return ((x - mean) / (var + eps).sqrt() * scale + shift).clamp(min=0)

    def pool(x: Tensor, kernel: tuple[int, ...], stride: tuple[int, ...]) -> Tensor:
        return F.max_pool3d(same(x, kernel, stride, float("-inf")), kernel, stride)

    def mixed(name: str, x: Tensor) -> Tensor:
        branches = [unit(f"{name}.b0", x)]
        branches += [unit(f"{name}.b{i}b", unit(f"{name}.b{i}a", x)) for i in (1, 2)]
        return torch.cat([*branches, unit(f"{name}.b3", pool(x, (3, 3, 3), (1, 1, 1)))], 1)

    x = pool(unit("conv_1a", x, 2), (1, 3, 3), (1, 2, 2))
    x = pool(unit("conv_2c", unit("conv_2b", x)), (1, 3, 3), (1, 2, 2))
    for name in ("3b", "3c"):
        x = mixed(f"mixed_{name}", x)
    x = pool(x, (3, 3, 3), (2, 2, 2))
    for name in ("4b", "4c", "4d", "4e", "4f"):
        x = mixed(f"mixed_{name}", x)
    x = pool(x, (2, 2, 2), (2, 2, 2))
    for name in ("5b", "5c"):
        x = mixed(f"mixed_{name}", x)
    pooled = torch.stack([x[:, :, t : t + 2].mean((2, 3, 4)) for t in range(x.shape[2] - 1)], 1)
    return (pooled @ state["logits.weight"].flatten(1).T + state["logits.bias"]).mean(1)


def test_it_is_the_network_of_the_paper(found: dict[float, Tensor], state: dict[str, Tensor]) -> None:
    with torch.no_grad():
        expected = from_the_paper(state, clips(), 1e-3)
    assert found[1e-3].shape == (1, 400)
    assert float(expected.std()) > 0.01
    torch.testing.assert_close(found[1e-3], expected, rtol=0, atol=1e-4 * float(expected.abs().max()))


def test_it_is_the_network_of_cd_fvd(found: dict[float, Tensor], state: dict[str, Tensor]) -> None:
    """Whose normalisation has TATS' epsilon."""
    theirs = pytest.importorskip("cdfvd.third_party.i3d.pytorch_i3d").InceptionI3d(400, in_channels=3).eval()
    theirs.load_state_dict(renamed(state, OURS_TO_TATS))
    with torch.no_grad():
        expected = theirs(clips())
    torch.testing.assert_close(found[1e-5], expected, rtol=0, atol=1e-5 * float(expected.abs().max()))


@pytest.mark.slow
@pytest.mark.parametrize("frames", [10, 16, 17, 30])
def test_it_is_the_network_of_cd_fvd_at_every_length(frames: int, state: dict[str, Tensor]) -> None:
    theirs = pytest.importorskip("cdfvd.third_party.i3d.pytorch_i3d").InceptionI3d(400, in_channels=3).eval()
    theirs.load_state_dict(renamed(state, OURS_TO_TATS))
    with torch.no_grad():
        ours, expected = network(state, bn_eps=1e-5)(clips(frames=frames)), theirs(clips(frames=frames))
    torch.testing.assert_close(ours, expected, rtol=0, atol=1e-5 * float(expected.abs().max()))


def test_it_has_as_many_parameters_as_published() -> None:
    assert sum(weight.numel() for weight in Inception(bn_eps=1e-3).parameters()) == 12_697_264


@pytest.mark.parametrize("size", range(1, 12))
@pytest.mark.parametrize(("kernel", "stride"), [(7, 2), (3, 1), (3, 2), (2, 2), (1, 1), (1, 2)])
def test_padding_is_tensorflow_s(size: int, kernel: int, stride: int) -> None:
    x = torch.rand(1, 1, size, 2, 3)
    found = padded(x, (kernel, 1, 1), (stride, 1, 1))
    assert torch.equal(found, same(x, (kernel, 1, 1), (stride, 1, 1), 0.0))
    assert F.max_pool3d(found, (kernel, 1, 1), (stride, 1, 1)).shape[2] == -(-size // stride)


def test_epsilon_matters(found: dict[float, Tensor]) -> None:
    assert float((found[1e-3] - found[1e-5]).abs().max()) > 1e-3 * float(found[1e-3].abs().max())


# The names in files


@pytest.mark.parametrize("names", [OURS_TO_TATS, OURS_TO_STYLEGANV], ids=["tats", "styleganv"])
def test_published_names_are_known(names: tuple[tuple[str, str], ...], state: dict[str, Tensor]) -> None:
    shuffled = dict(sorted(renamed(state, names).items(), key=lambda item: item[0][::-1]))
    found = matched(shuffled, state, "x.pt")
    assert found.keys() == state.keys()
    assert all(torch.equal(found[name], state[name]) for name in state)


def test_tats_names_are_those_of_its_code() -> None:
    theirs = pytest.importorskip("cdfvd.third_party.i3d.pytorch_i3d").InceptionI3d(400, in_channels=3)
    assert theirs.state_dict().keys() == renamed(random_inception(), OURS_TO_TATS).keys()


@pytest.mark.parametrize("logits_first", [False, True])
def test_unknown_names_go_by_order_and_shape(logits_first: bool, state: dict[str, Tensor]) -> None:
    tensors = [tensor for name, tensor in state.items() if not name.endswith("num_batches_tracked")]
    tensors = [*tensors[-2:], *tensors[:-2]] if logits_first else tensors
    found = matched({f"layer{i}": tensor for i, tensor in enumerate(tensors)}, state, "x.pt")
    assert all(torch.equal(found[name], state[name]) for name in state)


def test_weights_of_another_network_are_told(tmp_path: Path, state: dict[str, Tensor]) -> None:
    one_less = {name: tensor for name, tensor in state.items() if name != "mixed_4d.b1b.conv.weight"}
    swapped = {**state, "conv_2b.conv.weight": state["conv_2c.conv.weight"]}
    extra = {**state, "head.weight": torch.zeros(3)}
    for wrong in (one_less, swapped, extra, {}):
        with pytest.raises(UserError, match=r"i3d\.pt' holds \d+ tensors that are not those of Inception-I3D, which has 287 "):
            I3D(path=i3d_file(tmp_path, wrong))


# The extractor


@pytest.mark.parametrize(
    ("options", "sentence"),
    [
        ({"resize": "tf"}, "There is no resize of an extractor called 'tf'. Did you mean 'tf1'?"),
        ({"quantise": "rond"}, "There is no quantisation of an extractor called 'rond'. Did you mean 'round'?"),
        ({"weights": "tat"}, "There is no published file of i3d's weights called 'tat'. Did you mean 'tats'?"),
        ({"path": "nowhere.pt"}, "extractor=i3d needs the weights i3d_torchscript.pt, and there is no file 'nowhere.pt': "),
    ],
)
def test_mistakes_are_told(options: dict[str, Any], sentence: str, file: str) -> None:
    with pytest.raises(UserError) as error:
        I3D(**{"path": file} | options)
    assert str(error.value).startswith(sentence)


def test_absent_weights_are_one_sentence(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("TORCH_HOME", str(tmp_path))
    for weights, name, blob in (("styleganv", "i3d_torchscript.pt", "93daef59"), ("tats", "i3d_pretrained_400.pt", "a867b87a")):
        with pytest.raises(UserError) as error:
            I3D(weights=weights)
        said = str(error.value)
        for part in (name, "which vidgen does not bring", "https://", blob, "extractor.path=FILE", "extractor=motion", "not FVD"):
            assert part in said
        assert "\n" not in said


def test_the_published_file_is_found_among_downloads(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, file: str) -> None:
    monkeypatch.setenv("TORCH_HOME", str(tmp_path))
    folder = tmp_path / "hub/checkpoints"
    folder.mkdir(parents=True)
    (folder / "i3d_pretrained_400.pt").write_bytes(Path(file).read_bytes())
    assert I3D(weights="tats").rule["weights"] == I3D(path=file).rule["weights"]


def test_it_is_frozen_and_its_features_do_not_depend_on_the_batch(file: str, found: dict[float, Tensor]) -> None:
    extractor = I3D(path=file, quantise="none")
    nn.ModuleList([extractor]).train()
    assert not any(module.training for module in extractor.modules())
    assert not any(weight.requires_grad for weight in extractor.parameters())
    both = extractor(torch.cat([torch.zeros(1, 3, 9, 224, 224), clips()]).requires_grad_())
    assert both.shape == (2, extractor.dim)
    assert both.dtype == torch.float32
    assert not both.requires_grad
    torch.testing.assert_close(both[1:], found[1e-3], rtol=0, atol=1e-5 * float(found[1e-3].abs().max()))


def test_frames_are_quantised_then_resized(file: str, monkeypatch: pytest.MonkeyPatch) -> None:
    extractor = I3D(path=file, resize="tf1", quantise="truncate")
    monkeypatch.setattr(extractor.network, "forward", lambda video: video.flatten(1))
    video = clips(2, size=32)[..., :24]
    expected = resize_tf1(quantised(video, "truncate"), 224)
    assert torch.equal(extractor(video), expected.flatten(1))


def test_too_short_clips_and_other_shapes_are_told(file: str) -> None:
    extractor = I3D(path=file)
    with pytest.raises(UserError, match=r"^The i3d extractor needs clips of 9 frames or more, and these have 8: "):
        extractor(torch.zeros(1, 3, 8, 16, 16))
    with pytest.raises(UserError, match=r"takes videos \(B, 3, T, H, W\), and these are \(3, 9, 16, 16\)"):
        extractor(torch.zeros(3, 9, 16, 16))


def test_the_rule_tells_all_that_decides(tmp_path: Path, file: str, state: dict[str, Tensor]) -> None:
    rule = I3D(path=file).rule
    changed = {**state, "logits.bias": state["logits.bias"] + 1}
    others = [
        I3D(path=i3d_file(tmp_path, changed)).rule,
        *(I3D(path=file, **option).rule for option in ({"bn_eps": 1e-5}, {"resize": "tf1"}, {"quantise": "none"})),
    ]
    differing = [[key for key in rule if rule[key] != other[key]] for other in others]
    assert differing == [["weights"], ["bn_eps"], ["resize"], ["quantise"]]
