"""``diffusers``: a published video autoencoder from a folder of the diffusers library, frozen, behind the tokenizer contract.

Any generator can then be trained on its latents. The folder (``config.json`` and safetensors) is read and nothing in it is run:
the class that it names must be one of diffusers' own autoencoders, and weights that are pickled are refused. Needs
``pip install "vidgen[diffusers]"``.

A model that uses this tokenizer refers to the folder and does not copy it: weights of gigabytes that have a licence of their own
stay where they are, and their hash is kept, so that others in their place are noticed.
"""

from __future__ import annotations

import hashlib
import inspect
import json
from itertools import product
from pathlib import Path
from typing import Any

import torch
from safetensors import SafetensorError
from torch import Tensor, nn

from vidgen.errors import UserError
from vidgen.latents import Latent, Losses, Shape
from vidgen.nn.stream import Stream
from vidgen.quantizers.fsq import FSQ
from vidgen.quantizers.kl import KL
from vidgen.tokenizers.autoencoder import Autoencoder

KIND = "continuous"  # but for FSQ models of VidTok, whose ids are

SIZE = 64
"""Height and width of the frames with which strides are found; a multiple of every stride in use."""

LENGTHS = ((9, True), (7, True), (8, False), (6, False))
"""Frames that are tried, and whether the first would be a cell by itself: multiples of the strides 1, 2, 3, 4, 6 and 8."""

REFUSED = (OSError, RuntimeError, ValueError, TypeError, LookupError, AssertionError, AttributeError)
"""What diffusers raises for a folder that it cannot read, or a video that a model cannot take; it has no errors of its own."""


class Diffusers(Autoencoder):
    """An :class:`~vidgen.tokenizers.autoencoder.Autoencoder` around a model that is trained already: latents, without streams.

    Latents are the posterior's mean, standardised by what :meth:`measure` finds on the data at hand (the constants in published
    configs are those of the data they were published with); of VidTok's FSQ models its ids.

    Args:
        path: the folder; of a pipeline the ``vae`` folder in it.

    Raises:
        UserError: where diffusers is not installed, or the folder holds no model that can be used here.
    """

    def __init__(self, *, path: str | None = None) -> None:
        nn.Module.__init__(self)  # not Autoencoder's, which builds parts by their recipes
        folder = _existing_folder(path)
        backbone = _Backbone(_model(folder), folder)
        discrete = getattr(backbone.model, "regularizer", "kl") == "fsq"
        quantizer = FSQ(levels=(8,) * backbone.channels) if discrete else KL(channels=backbone.channels, weight=0)
        self._assemble(backbone, quantizer)
        self.requires_grad_(False)
        self.digest = torch.frombuffer(bytearray(_digest(folder)), dtype=torch.uint8)
        self.register_buffer("folder", self.digest.clone())
        self.register_state_dict_post_hook(_leave_out)
        self.register_load_state_dict_post_hook(_check_folder)

    @property
    def streams(self) -> bool:
        """The models of diffusers keep nothing between two calls."""
        return False

    def forward(self, video: Tensor) -> tuple[Tensor, Latent, Losses]:
        """A frozen tokenizer is not trained."""
        raise UserError("tokenizer=diffusers is a trained model that stays as it is; train a generator on its latents instead.")

    def _check_streams(self) -> None:
        raise UserError(
            "The models of diffusers keep nothing between two chunks of a video, so tokenizer=diffusers has no streams."
        )


class _Backbone(nn.Module):
    """A diffusers autoencoder as :class:`vidgen.protocols.Backbone`, for whole videos; its stride is found by trial.

    Raises:
        UserError: where no video comes back from it as long and as large as it was.
    """

    def __init__(self, model: Any, folder: Path) -> None:
        super().__init__()
        self.model = model.eval()
        self.lead = 0
        if type(model).__name__ == "AutoencoderVidTok" and model.is_causal:
            self.lead = model.temporal_compression_ratio - 1  # frames before the first, which it leaves to the caller
        self.channels, self.stride, self.causal, self.images = self._found(folder)

    def encode(self, video: Tensor, start: int = 0, stream: Stream | None = None) -> Tensor:
        """(B, C, T, H, W) from the first frame on -> (B, channels, t, h, w): the posterior's mean, or what FSQ rounds."""
        if self.lead:
            video = torch.cat([video[:, :, :1].expand(-1, -1, self.lead, -1, -1), video], dim=2)
        x = video.transpose(1, 2).flatten(0, 1) if self.images else video
        if getattr(self.model, "regularizer", "kl") == "fsq":
            z = self.model._encode(x)  # encode gives what is rounded already
        else:
            found = self.model.encode(x)
            z = found.latent_dist.mode() if hasattr(found, "latent_dist") else found.latent
        return z.unflatten(0, (len(video), -1)).transpose(1, 2) if self.images else z

    def decode(self, z: Tensor, start: int = 0, stream: Stream | None = None) -> Tensor:
        """(B, channels, t, h, w) from cell 0 on -> (B, C, T, H, W).

        Raises:
            UserError: where the latent starts further on, for what comes before is not known.
        """
        if start and self.causal:
            raise UserError(f"The models of diffusers decode from the first frame on, and this latent starts at cell {start}.")
        frames = {"num_frames": z.shape[2]} if "num_frames" in inspect.signature(self.model.decode).parameters else {}
        found = self.model.decode(z.transpose(1, 2).flatten(0, 1) if self.images else z, **frames)
        video = found if isinstance(found, Tensor) else found.sample
        return video.unflatten(0, (len(z), -1)).transpose(1, 2) if self.images else video

    @torch.no_grad()
    def _found(self, folder: Path) -> tuple[int, Shape, bool, bool]:
        """Channels, stride, whether the first frame is a cell by itself, and whether frames go through one by one."""
        reasons = []
        for self.images, (frames, causal) in product((False, True), LENGTHS):
            video = torch.zeros(1, 3, frames, SIZE, SIZE)
            try:
                z = self.encode(video)
                _, channels, cells, height, width = z.shape
                whole = cells > causal and (frames - causal) % (cells - causal) == 0 and self.decode(z).shape == video.shape
                if whole and (not causal or self.encode(video[:, :, :1]).shape[2] == 1):
                    stride = (frames - causal) // (cells - causal), SIZE // height, SIZE // width
                    return channels, stride, causal and stride[0] > 1, self.images
                reasons.append(f"of {frames} frames not all come back")
            except REFUSED as error:
                reasons.append(_first_line(error))
        name = type(self.model).__name__
        raise UserError(f"{name} in tokenizer.path={folder} cannot be used as a video tokenizer: {reasons[0]}.")


def _existing_folder(path: str | None) -> Path:
    if path is None:
        raise UserError("tokenizer=diffusers does not know which model: give tokenizer.path=FOLDER, with its config.json.")
    folder = Path(path)
    if not folder.is_dir():
        raise UserError(f"There is no folder tokenizer.path={path}; give the folder of a diffusers autoencoder, on this machine.")
    if not (folder / "config.json").is_file():
        hint = f"tokenizer.path={folder / 'vae'}" if (folder / "vae" / "config.json").is_file() else "one with a config.json"
        raise UserError(f"tokenizer.path={path} holds no autoencoder of diffusers; give {hint}.")
    return folder


def _model(folder: Path) -> Any:
    """The model in a folder, in float32, by a class of diffusers' own."""
    try:
        import diffusers
    except ImportError as error:
        raise UserError('tokenizer=diffusers needs a package that is not installed: pip install "vidgen[diffusers]".') from error
    try:
        config = json.loads((folder / "config.json").read_text(encoding="utf-8"))
        name = str(config["_class_name"])
        if not name.startswith("Autoencoder") or not issubclass(getattr(diffusers, name), diffusers.ModelMixin):
            raise ValueError(f"{name} is no autoencoder of diffusers {diffusers.__version__}")
        if "quantization_config" in config:
            raise ValueError("its weights are quantized")
        model, found = getattr(diffusers, name).from_pretrained(
            folder,
            use_safetensors=True,
            local_files_only=True,
            low_cpu_mem_usage=False,
            torch_dtype=torch.float32,
            output_loading_info=True,
        )
        if found["missing_keys"]:
            raise ValueError(f"its weights lack {found['missing_keys'][0]}")
    except (*REFUSED, SafetensorError) as error:
        raise UserError(f"tokenizer.path={folder} cannot be read: {_first_line(error)}.") from error
    return model


def _digest(folder: Path) -> bytes:
    """sha256 of the config and the weights in a folder."""
    digest = hashlib.sha256()
    for file in (folder / "config.json", *sorted(folder.glob("*.safetensors"))):
        with file.open("rb") as stream:
            digest.update(hashlib.file_digest(stream, "sha256").digest())
    return digest.digest()


def _leave_out(module: nn.Module, state: dict[str, Tensor], prefix: str, _: Any) -> None:
    """What is saved of the tokenizer: all but the weights that lie in the folder."""
    for key in [key for key in state if key.startswith(f"{prefix}backbone.")]:
        del state[key]


def _check_folder(module: Any, keys: Any) -> None:
    """What was not saved is not missing, provided that the folder is the one that was used."""
    keys.missing_keys[:] = [key for key in keys.missing_keys if not key.startswith("backbone.")]
    if not torch.equal(module.folder.cpu(), module.digest):
        raise UserError(
            "The weights in tokenizer.path are not those that this model was made with; put them back, or name their folder in "
            "the model's config.json."
        )


def _first_line(error: Exception) -> str:
    return (str(error).strip().splitlines() or [type(error).__name__])[0].rstrip(".")
