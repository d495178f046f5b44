"""``timm``: any image network of the package timm on every frame, then their mean: what is to be seen, not how it moves."""

from __future__ import annotations

from torch import Tensor

from vidgen.download import sha256_of
from vidgen.errors import UserError, did_you_mean
from vidgen.extractors.base import Extractor
from vidgen.extractors.frames import normalised, resize_smooth
from vidgen.extractors.transformer import fill
from vidgen.extractors.weights import Published, load, weights_file


class Timm(Extractor):
    """The features before the classifier, averaged over frames, of an image network whose weights the user has.

    Frames are squashed to the size that the network was trained at, with antialiasing, and normalised as it was trained.

    Args:
        model: timm's name of the network.
        path: the file with its weights, as timm's pages of the Hugging Face Hub have them, or its URL; null looks for
            ``<model>.safetensors`` where torch keeps downloads.
        sha256: what the file must have; null takes any.

    Raises:
        UserError: on an unknown name, or weights that are missing, damaged or another network's.
    """

    min_frames = 1

    def __init__(
        self, *, model: str = "vit_small_patch14_reg4_dinov2.lvd142m", path: str | None = None, sha256: str | None = None
    ) -> None:
        super().__init__()
        import timm
        from timm.data import resolve_model_data_config

        name = model.partition(".")[0]
        if not timm.is_model(name):
            raise UserError(f"timm has no network called '{model}'.{did_you_mean(name, timm.list_models())}")
        url = f"https://huggingface.co/timm/{model}/resolve/main/model.safetensors"
        file = weights_file("timm", path, sha256, Published(file=f"{model}.safetensors", url=url))
        self.network = timm.create_model(model, pretrained=False, num_classes=0)
        fill(self.network, load(file), str(file))
        trained = resolve_model_data_config(self.network)
        self.size = tuple(trained["input_size"][1:])
        self.mean, self.std = tuple(trained["mean"]), tuple(trained["std"])
        self.dim = int(self.network.num_features)  # type: ignore[arg-type]
        self.rule = {
            "extractor": "timm",
            "model": model,
            "weights": sha256_of(file),
            "feature": "before the classifier, mean over frames",
            "range": f"mean {list(self.mean)}, deviation {list(self.std)}",
            "size": list(self.size),
            "resize": "bilinear, antialias",
            "quantise": "none",
        }
        self.freeze()

    def features(self, video: Tensor) -> Tensor:
        frames = resize_smooth(normalised(video, self.mean, self.std), *self.size).transpose(1, 2).flatten(0, 1)
        found: Tensor = self.network(frames)
        return found.unflatten(0, (len(video), -1)).mean(1)
