"""Published autoencoders behind the contract, on small ones with random weights: against diffusers itself."""

from __future__ import annotations

import copy
import json
import re
import sys
from collections.abc import Callable
from dataclasses import replace
from functools import cache
from itertools import product
from pathlib import Path
from typing import Any

import pytest
import tiny
import torch

import vidgen
from vidgen import UserError, hub, registry
from vidgen.protocols import LatentSpace, Tokenizer
from vidgen.tokenizers.diffusers import Diffusers
from vidgen.tokenizers.tiling import tiled

diffusers = pytest.importorskip("diffusers")

WAN = {"base_dim": 4, "z_dim": 4, "dim_mult": [1, 1, 1, 1], "num_res_blocks": 1, "temperal_downsample": [False, True, True]}
TEMPORAL = {
    "block_out_channels": (32, 32),
    "down_block_types": ("DownEncoderBlock2D",) * 2,
    "layers_per_block": 1,
    "latent_channels": 4,
}
VIDTOK = {"ch": 32, "ch_mult": [1, 1, 1, 1], "num_res_blocks": 1, "z_channels": 4}
FSQ = VIDTOK | {"double_z": False, "regularizer": "fsq", "codebook_size": 4096}
COSMOS = {
    "encoder_block_out_channels": (8, 8, 8, 8),
    "decode_block_out_channels": (8, 8, 8, 8),
    "attention_resolutions": (8,),
    "resolution": 64,
    "num_layers": 1,
    "latent_channels": 4,
}
SMALL = {"block_out_channels": (8, 8, 8, 8), "layers_per_block": 1, "norm_num_groups": 2, "latent_channels": 4}
LTX = {"layers_per_block": (1,) * 5, "decoder_layers_per_block": (1,) * 5, "decoder_block_out_channels": (8, 8, 8, 8)}
LTX |= {"block_out_channels": (8, 8, 8, 8), "latent_channels": 4}
MOCHI = {"layers_per_block": (1,) * 5, "add_attention_block": (False,) * 5, "latents_mean": (0.0,) * 4, "latents_std": (1.0,) * 4}
MOCHI |= {"encoder_block_out_channels": (32,) * 4, "decoder_block_out_channels": (32,) * 4, "latent_channels": 4}
IMAGE = SMALL | {"block_out_channels": (8, 8), "down_block_types": ("DownEncoderBlock2D",) * 2}
IMAGE |= {"up_block_types": ("UpDecoderBlock2D",) * 2}
FAMILIES: dict[str, tuple[str, dict[str, Any], tuple[int, int, int], bool]] = {
    "wan": ("AutoencoderKLWan", WAN, (4, 8, 8), True),
    "cosmos": ("AutoencoderKLCosmos", COSMOS, (8, 8, 8), True),
    "temporal": ("AutoencoderKLTemporalDecoder", TEMPORAL, (1, 2, 2), False),
    "vidtok": ("AutoencoderVidTok", FSQ, (4, 8, 8), True),
    "vidtok_kl": ("AutoencoderVidTok", VIDTOK, (4, 8, 8), True),
    "cogvideox": ("AutoencoderKLCogVideoX", SMALL, (4, 8, 8), True),
    "ltx": ("AutoencoderKLLTXVideo", LTX, (8, 32, 32), True),
    "mochi": ("AutoencoderKLMochi", MOCHI, (6, 8, 8), True),
    "hunyuan": ("AutoencoderKLHunyuanVideo", SMALL, (4, 8, 8), True),
    "magvit": ("AutoencoderKLMagvit", SMALL, (4, 8, 8), True),
    "image": ("AutoencoderKL", IMAGE, (1, 2, 2), False),
}
"""Each class that docs/tokenizers.md names: its options, and the stride and the law of lengths that are to be found."""


@pytest.fixture(scope="module")
def folders(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder of each family as diffusers saves it."""
    root = tmp_path_factory.mktemp("published")
    for name, (cls, options, _, _) in FAMILIES.items():
        torch.manual_seed(0)
        tiny.stirred(getattr(diffusers, cls)(**options), 0.05).save_pretrained(root / name)
    return root


@pytest.fixture(scope="module")
def built(folders: Path) -> Callable[[str], Any]:
    return cache(lambda family: Diffusers(path=str(folders / family)))


@pytest.fixture(params=FAMILIES)
def family(request: pytest.FixtureRequest) -> str:
    return request.param


@pytest.fixture
def tokenizer(family: str, built: Callable[[str], Any]) -> Any:
    return copy.deepcopy(built(family))


def clip(tokenizer: Any, batch: int = 2) -> torch.Tensor:
    return tiny.video(tiny.shape_of(tokenizer, (3, 4, 2)), batch)


def test_strides_and_lengths_are_found(tokenizer: Any, family: str) -> None:
    assert isinstance(tokenizer, Tokenizer)
    assert isinstance(tokenizer.space, LatentSpace)
    _, _, stride, causal = FAMILIES[family]
    assert (tokenizer.spec.stride, tokenizer.spec.causal, tokenizer.spec.channels) == (stride, causal, 4)
    assert tokenizer.spec.levels == ((8, 8, 8, 8) if family == "vidtok" else None)
    assert not any(weight.requires_grad for weight in tokenizer.parameters())


def test_every_class_that_the_documentation_names_is_here() -> None:
    page = Path(__file__).parents[2].joinpath("docs/tokenizers.md").read_text(encoding="utf-8")
    assert {cls for cls, *_ in FAMILIES.values()} == set(re.findall(r"\bAutoencoder\w+", page))


def test_it_is_what_diffusers_gives(tokenizer: Any, family: str, folders: Path) -> None:
    """Latents and frames of the model itself, loaded and called as its own documents do."""
    cls, *_ = FAMILIES[family]
    model = getattr(diffusers, cls).from_pretrained(folders / family).eval()
    video = clip(tokenizer)
    with torch.no_grad():
        if family in ("temporal", "image"):
            frames = video.transpose(1, 2).flatten(0, 1)
            z = model.encode(frames).latent_dist.mean
            told = {"num_frames": video.shape[2]} if family == "temporal" else {}
            back = model.decode(z, **told).sample.unflatten(0, (2, -1)).transpose(1, 2)
            z = z.unflatten(0, (2, -1)).transpose(1, 2)
        elif family in ("vidtok", "vidtok_kl"):
            found = model(video, sample_posterior=False, encoder_mode=True)
            z = found[0] if family == "vidtok" else found
            back = model(video, sample_posterior=False).sample
        else:
            z = model.encode(video).latent_dist.mode()
            back = model.decode(z).sample
    latent = tokenizer.encode(video)
    torch.testing.assert_close(latent.z, z, rtol=1e-4, atol=1e-5)
    torch.testing.assert_close(tokenizer.decode(latent), back, rtol=1e-4, atol=1e-4)
    assert latent.grids == ((3, 4, 2),)


def test_measured_latents_are_standardised_and_decode_the_same(tokenizer: Any) -> None:
    video = clip(tokenizer)
    back = tokenizer.decode(tokenizer.encode(video))
    tokenizer.measure([video, -video])
    h = torch.cat([tokenizer.encode(one).h for one in (video, -video)])
    torch.testing.assert_close(h.mean(dim=(0, 2, 3, 4)), torch.zeros(4), rtol=0, atol=1e-4)
    torch.testing.assert_close(h.var(dim=(0, 2, 3, 4), correction=0), torch.ones(4), rtol=1e-3, atol=0)
    latent = tokenizer.encode(video)
    torch.testing.assert_close(tokenizer.decode(latent), back, rtol=1e-4, atol=1e-4)
    torch.testing.assert_close(tokenizer.decode(replace(latent, z=None, ids=None)), back, rtol=1e-3, atol=1e-3)


def test_other_lengths_are_filled_and_trimmed_and_sizes_told(tokenizer: Any) -> None:
    video = clip(tokenizer)
    short = video[:, :, :-1]
    latent = tokenizer.encode(short)
    assert latent.num_frames == short.shape[2]
    assert tokenizer.decode(latent).shape == short.shape
    with pytest.raises(UserError, match=r"^The height \d+ is not a multiple of the tokenizer's stride"):
        tokenizer.encode(video[:, :, :, 1:])


def meetings() -> list[Any]:
    """Every family with every generator: one of continuous latents and the one of ids in the fast tier."""
    return [
        pytest.param(*case, marks=() if case[0] in ("wan", "vidtok") else pytest.mark.slow, id="-".join(case))
        for case in product(FAMILIES, registry.parts("generators"))
    ]


@pytest.mark.parametrize(("family", "name"), meetings())
def test_every_generator_takes_a_step_and_a_sample(tokenizer: Any, family: str, name: str) -> None:
    """Of VidTok's ids too, but for ``var``, whose scales a frozen tokenizer of ids cannot be given."""
    if (family, name) == ("vidtok", "var"):
        with pytest.raises(UserError, match="this tokenizer's ids have a single scale"):
            tiny.generator(name, tokenizer.space, num_classes=2)
        return
    tokenizer.measure([clip(tokenizer)])
    generator = tiny.generator(name, tokenizer.space, num_classes=2)
    latent, condition = tokenizer.encode(clip(tokenizer)), tiny.labels(0, 1)
    generator.prepare(latent)
    generator.loss(latent, condition).total.backward()
    assert any(weight.grad is not None and weight.grad.abs().max() > 0 for weight in generator.parameters())
    assert all(weight.grad is None for weight in tokenizer.parameters())
    shape = tiny.shape_of(tokenizer, (3, 4, 2))
    drawn = generator.sample(2, shape, condition, seed=3)
    if latent.ids is not None and name != "dit":
        assert torch.equal(tokenizer.space.embed(drawn.ids, drawn.grids), drawn.z)
    video = tokenizer.decode(drawn)
    assert video.shape == (2, 3, *shape)
    assert bool(torch.isfinite(video).all())


def test_what_is_saved_refers_to_the_folder(folders: Path, tmp_path: Path) -> None:
    """A few hundred bytes, whatever the size of the model; other weights in its place are noticed."""
    folder = tmp_path / "wan"
    diffusers.AutoencoderKLWan.from_pretrained(folders / "wan").save_pretrained(folder)
    tokenizer = Diffusers(path=str(folder))
    video = clip(tokenizer)
    tokenizer.measure([video])
    recipe = {"name": "diffusers", "path": str(folder)}
    about = {"tokenizer": recipe, "generator": None, "num_classes": 0, "class_names": [], "shape": [9, 32, 16]}
    hub.save(tmp_path / "model", tokenizer=tokenizer, generator=None, config=about)
    assert (tmp_path / "model/tokenizer.safetensors").stat().st_size < 2000
    loaded = vidgen.load(tmp_path / "model").tokenizer
    assert torch.equal(loaded.encode(video).h, tokenizer.encode(video).h)
    assert hub.weights_hash(loaded) == hub.weights_hash(tokenizer)

    other = tiny.stirred(diffusers.AutoencoderKLWan.from_pretrained(folder))
    other.save_pretrained(folder)
    with pytest.raises(UserError, match=r"^The weights in tokenizer.path are not those that this model was made with"):
        vidgen.load(tmp_path / "model")
    assert hub.weights_hash(Diffusers(path=str(folder))) != hub.weights_hash(tokenizer)


def test_tiles_go_through_it_too(built: Callable[[str], Any]) -> None:
    tokenizer = built("wan")
    video = tiny.video((9, 64, 64), 1)
    latent = tiled(tokenizer, tile=(8, 8), overlap=0).encode(video)  # one tile
    torch.testing.assert_close(latent.z, tokenizer.encode(video).z, rtol=1e-4, atol=1e-5)


def test_what_it_cannot_do_is_one_sentence(built: Callable[[str], Any]) -> None:
    tokenizer = built("wan")
    video = clip(tokenizer)
    with pytest.raises(UserError, match=r"^tokenizer=diffusers is a trained model that stays as it is"):
        tokenizer(video)
    with pytest.raises(UserError, match="so tokenizer=diffusers has no streams"):
        next(tokenizer.encode_stream([video]))
    with pytest.raises(UserError, match="decode from the first frame on, and this latent starts at cell 1"):
        tokenizer.decode(tokenizer.encode(video).cells(1, 3))


def config(folder: Path, **changes: Any) -> Path:
    folder.mkdir(exist_ok=True)
    (folder / "config.json").write_text(json.dumps(changes))
    return folder


@pytest.mark.parametrize(
    ("name", "sentence"),
    [
        (None, "tokenizer=diffusers does not know which model: give tokenizer.path=FOLDER, with its config.json."),
        ("nowhere", "There is no folder tokenizer.path=nowhere; give the folder of a diffusers autoencoder, on this machine."),
        ("empty", "tokenizer.path=empty holds no autoencoder of diffusers; give one with a config.json."),
        ("pipeline", "tokenizer.path=pipeline holds no autoencoder of diffusers; give tokenizer.path=pipeline/vae."),
        ("json", "tokenizer.path=json cannot be read: "),
        ("unet", "tokenizer.path=unet cannot be read: UNet2DModel is no autoencoder of diffusers "),
        ("code", "tokenizer.path=code cannot be read: os.system is no autoencoder of diffusers "),
        ("pickled", "tokenizer.path=pickled cannot be read: "),
        ("quantized", "tokenizer.path=quantized cannot be read: its weights are quantized."),
        ("lacking", "tokenizer.path=lacking cannot be read: its weights lack "),
        ("allegro", "AutoencoderKLAllegro in tokenizer.path=allegro cannot be used as a video tokenizer: "),
    ],
)
def test_folders_that_cannot_be_used_are_one_sentence(
    name: str | None, sentence: str, folders: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    Path("empty").mkdir()
    Path("pipeline").mkdir()
    config(Path("pipeline/vae"), _class_name="AutoencoderKLWan")
    config(Path("json")).joinpath("config.json").write_text("{")
    config(Path("unet"), _class_name="UNet2DModel")
    config(Path("code"), _class_name="os.system")
    pickled = config(Path("pickled"), **json.loads((folders / "wan/config.json").read_text()))
    torch.save(diffusers.AutoencoderKLWan(**WAN).state_dict(), pickled / "diffusion_pytorch_model.bin")
    config(Path("quantized"), _class_name="AutoencoderKLWan", quantization_config={"quant_method": "bitsandbytes"})
    if name == "lacking":
        model = diffusers.AutoencoderKLWan(**WAN)
        model.save_pretrained("lacking")
        state = model.state_dict()
        del state["encoder.conv_in.weight"]
        hub.save_file(state, Path("lacking/diffusion_pytorch_model.safetensors"))
    if name == "allegro":
        sizes = {"block_out_channels": (8, 8, 8, 8), "layers_per_block": 1, "norm_num_groups": 2}
        diffusers.AutoencoderKLAllegro(**sizes).save_pretrained("allegro")
    with pytest.raises(UserError) as error:
        Diffusers(path=name)
    assert str(error.value).startswith(sentence)
    assert "\n" not in str(error.value)


def test_fit_trains_a_generator_on_it(folders: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """From one folder, by a relative path; used from another, with only the generator trained."""
    from vidgen.cli import main
    from vidgen.evaluation import rows

    monkeypatch.chdir(folders)
    monkeypatch.setattr("vidgen.cli.fit.MEASURED", 8)
    tiny_run = [
        *("data.frames=9", "data.height=32", "data.width=32", "data.families=[bounce,gravity]", f"runs={tmp_path / 'runs'}"),
        *("generator.width=16", "generator.depth=1", "generator.heads=1", "generator.steps=2", "generator.patch=[1,1,1]"),
        *("generator.training.steps=2", "generator.training.batch_size=2", "generator.training.clips=4"),
        *("evaluation.clips=2", "evaluation.samples=2", "evaluation.shown=1", "trainer.precision=fp32"),
    ]
    assert main(["fit", "tokenizer=diffusers", "tokenizer.path=wan", *tiny_run]) == 0
    run = (tmp_path / "runs/latest").resolve()
    assert run.name.endswith("-diffusers-dit")
    assert {row.stage for row in rows.read(run / "metrics.jsonl")} == {"generator", "evaluation"}
    assert (run / "report.html").is_file()
    monkeypatch.chdir(tmp_path)
    model = vidgen.load("runs/latest")
    assert float((model.tokenizer.standardise.std - 1).abs().min()) > 0
    assert model.sample(1, seed=0).shape == (1, 3, 9, 32, 32)
    assert main(["eval", "evaluation.clips=2", "evaluation.samples=2", "evaluation.shown=1"]) == 0


def test_files_go_through_it_whole(
    built: Callable[[str], Any], folders: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """It has no streams, so that chunk=0 is asked for."""
    from vidgen.cli import main
    from vidgen.data import decode
    from vidgen.data.batches import to_pixels
    from vidgen.viz import write_frames

    monkeypatch.chdir(tmp_path)
    recipe = {"name": "diffusers", "path": str(folders / "wan")}
    about = {"tokenizer": recipe, "generator": None, "num_classes": 0, "class_names": [], "shape": [9, 32, 16]}
    hub.save(tmp_path / "model", tokenizer=built("wan"), generator=None, config=about)
    write_frames("film.mp4", to_pixels(tiny.video((10, 32, 16), 1))[0], 8)
    words = ["run=model", "accelerator=cpu", "precision=fp32"]
    assert main(["encode", "input=film.mp4", *words]) == 2
    for command, name in (("encode", "film.mp4"), ("decode", "film.latents"), ("reconstruct", "film.mp4")):
        assert main([command, f"input={name}", *words, *(["chunk=0"] if command != "decode" else [])]) == 0
    back = decode.read("film-decoded.mp4")
    assert back.shape == (10, 32, 16, 3)
    assert (back == decode.read("film-reconstructed.mp4")).all()


def test_the_command_line_says_what_it_needs(capsys: pytest.CaptureFixture[str], tmp_path: Path, monkeypatch: Any) -> None:
    from vidgen.cli import main

    monkeypatch.chdir(tmp_path)
    assert main(["fit", "tokenizer=diffusers"]) == 2
    assert capsys.readouterr().err.startswith("vidgen: tokenizer=diffusers does not know which model: give tokenizer.path=FOLDER")
    assert main(["fit", "tokenizer=diffusers", "tokenizer.path=3"]) == 2
    assert capsys.readouterr().err.startswith("vidgen: 'tokenizer.path' is a word (null by default), and 3 is not.")


def test_without_the_package_it_says_which(folders: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "diffusers", None)
    with pytest.raises(UserError) as error:
        Diffusers(path=str(folders / "wan"))
    assert str(error.value) == ('tokenizer=diffusers needs a package that is not installed: pip install "vidgen[diffusers]".')
