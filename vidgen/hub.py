"""Saving and loading models: ``model/`` holds safetensors and a config.json, and loads with neither lightning nor hydra.

Nothing in such a folder can name code to run: parts are looked up by name among vidgen's own files and installed plug-ins.
"""

from __future__ import annotations

import hashlib
import json
import os
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from safetensors import SafetensorError
from safetensors.torch import load_file, save_file
from torch import Tensor, nn

from vidgen.errors import UserError, did_you_mean, first_line
from vidgen.files import replacing
from vidgen.latents import Condition, Latent, LatentSpec, Shape
from vidgen.registry import build, taken
from vidgen.rollout import Rollout

FORMAT = 1
FOR_FIT = ("training", "perceptual", "adversary", "from")
"""What a part's recipe holds that is none of the part's own options: how ``fit`` trains it."""
HUB = "hf-hub:"

Action = int | str
"""An action by index or by name."""


@dataclass(kw_only=True)
class Model:
    """A tokenizer and, where one was trained, a generator bound to it.

    Attributes:
        tokenizer: satisfies :class:`vidgen.protocols.Tokenizer`.
        generator: satisfies :class:`vidgen.protocols.Generator`, or None.
        config: everything ``config.json`` holds.
    """

    tokenizer: Any
    generator: Any | None
    config: dict[str, Any]

    @property
    def class_names(self) -> tuple[str, ...]:
        """Names of the labels the generator knows."""
        return tuple(self.config["class_names"])

    def to(self, device: torch.device | str) -> Model:
        """Moves both parts."""
        self.tokenizer.to(device)
        if self.generator is not None:
            self.generator.to(device)
        return self

    @torch.no_grad()
    def sample(
        self,
        num: int,
        shape: Shape | None = None,
        label: int | str | Tensor | None = None,
        *,
        text: str | Sequence[str] | None = None,
        action: Action | Sequence[Action] | Tensor | None = None,
        negative: str | Sequence[str] | None = None,
        seed: int = 0,
        first: int = 0,
        steps: int | None = None,
        guidance_scale: float | Mapping[str, float] | None = None,
        temperature: float = 1.0,
    ) -> Tensor:
        """``num`` videos (num, C, T, H, W) in [-1, 1].

        Args:
            num: how many.
            shape: (T, H, W); the size of training where None.
            label: a class by index or name, or one index a sample; None samples without a label.
            text: a caption, or one a sample.
            action: a move by index or name, the same at every frame; one a frame; or as a tensor (num, T) for each sample.
            negative: a caption that guidance leads away from, or one a sample.
            seed: sample i is a function of (seed, first + i).
            first: index of the first sample, so that batches continue one another.
            steps: the sampler's steps; the generator's own default where None.
            guidance_scale: 1 for none; the generator's own default where None; one for each condition by name, of generators
                that can tell them apart.
            temperature: of the sampler.

        Raises:
            UserError: where there is no generator, or it knows nothing of what it is told.
        """
        shape = tuple(self.config["shape"]) if shape is None else shape
        condition = self._condition(num, shape[0], label=label, text=text, action=action, negative=negative)
        latent: Latent = self._generator.sample(
            num,
            shape,
            condition,
            first=first,
            steps=steps,
            guidance_scale=guidance_scale,
            temperature=temperature,
            seed=seed,
        )
        return self.tokenizer.decode(latent).clamp(-1, 1)

    def stream(
        self,
        rollout: Rollout,
        num: int,
        label: int | str | Tensor | None = None,
        *,
        text: str | Sequence[str] | None = None,
        action: Action | Sequence[Action] | Tensor | None = None,
        negative: str | Sequence[str] | None = None,
        seed: int = 0,
        first: int = 0,
        steps: int | None = None,
        guidance_scale: float | Mapping[str, float] | None = None,
        temperature: float = 1.0,
    ) -> Iterator[Tensor]:
        """``num`` videos of any length as chunks (num, C, any number of frames, H, W) in [-1, 1], in memory that stays the same.

        The stages are those of :meth:`rollout`; all else is as in :meth:`sample`, ``action`` for every frame of the whole. Of a
        tokenizer that does not stream they are decoded at once, at the end, in memory that grows with the length.

        Raises:
            UserError: as :meth:`sample` does, and where the generator cannot make the stages; before anything is made.
        """
        rollout.check(self._generator)
        condition = self._condition(num, rollout.shape[0], label=label, text=text, action=action, negative=negative)

        def draw(shape: Shape, condition: Condition, *, start: int, seed: int) -> Latent:
            return self._generator.sample(
                num,
                shape,
                condition,
                start=start,
                first=first,
                steps=steps,
                guidance_scale=guidance_scale,
                temperature=temperature,
                seed=seed,
            )

        return self._frames(rollout.run(draw, num, condition, generator=self._generator, seed=seed))

    def rollout(
        self,
        frames: int,
        schedule: str = "autoregressive",
        overlap: int | None = None,
        *,
        size: tuple[int, int] | None = None,
        given: Sequence[Latent] = (),
    ) -> Rollout:
        """The stages of videos of ``frames`` frames, in windows as long as the clips of training.

        Args:
            frames: of the whole video, given ones included.
            schedule: of :data:`vidgen.samplers.rollout.SCHEDULES`.
            overlap: cells of a window that are observed; None: half of it.
            size: (H, W); that of training where None.
            given: latents of what is there already, as ``tokenizer.encode`` gives them.
        """
        length, *own = self.config["shape"]
        height, width = own if size is None else size
        spec: LatentSpec = self.tokenizer.spec
        window = spec.cells(length)
        return Rollout(spec, (frames, height, width), window=window, name=schedule, overlap=overlap, given=given)

    def _frames(self, latents: Iterator[Latent]) -> Iterator[Tensor]:
        """The videos of latents that follow one another; of a tokenizer that does not stream all at once, at the end."""
        with torch.no_grad():
            if self.tokenizer.streams:
                chunks = self.tokenizer.decode_stream(latents)
            else:
                chunks = iter([self.tokenizer.decode(Latent.cat(list(latents)))])
        while True:
            with torch.no_grad():
                chunk = next(chunks, None)
            if chunk is None:
                return
            yield chunk.clamp(-1, 1)

    @property
    def _generator(self) -> Any:
        if self.generator is None:
            raise UserError("This model has a tokenizer and no generator; train one with 'vidgen fit stage=all'.")
        return self.generator

    def _condition(self, num: int, frames: int, *, label: Any, text: Any, action: Any, negative: Any) -> Condition | None:
        """What ``num`` videos of ``frames`` frames are told; None where that is nothing."""
        condition = Condition(
            label=self._labels(label, num),
            text=_one_each(text, num, "text"),
            action=self._actions(action, num, frames),
            negative=None if negative is None else Condition(text=_one_each(negative, num, "negative")),
        )
        return None if condition.batch is None and negative is None else condition

    @property
    def action_names(self) -> tuple[str, ...]:
        """Names of the actions the generator knows."""
        return tuple(self.config.get("action_names", ()))

    def _labels(self, label: int | str | Tensor | None, num: int) -> Tensor | None:
        if label is None:
            return None
        if not self.class_names:
            raise UserError(f"This model was trained without labels, so label={label} says nothing to it: leave label out.")
        if isinstance(label, str):
            if label not in self.class_names:
                known = ", ".join(self.class_names)
                raise UserError(
                    f"This model knows no label '{label}'.{did_you_mean(label, self.class_names)} Its labels: {known}."
                )
            label = self.class_names.index(label)
        return _for_each(torch.as_tensor(label, device=self._device).reshape(-1), num, "label")

    def _actions(self, action: Action | Sequence[Action] | Tensor | None, num: int, frames: int) -> Tensor | None:
        """(num, frames) of indices."""
        if action is None:
            return None
        names = self.action_names
        if not names:
            raise UserError(f"This model was trained without actions, so action={action} says nothing to it: leave action out.")
        if not isinstance(action, Tensor):
            typed = [action] if isinstance(action, int | str) else list(action)
            for name in typed:
                if isinstance(name, str) and name not in names:
                    raise UserError(
                        f"This model knows no action '{name}'.{did_you_mean(name, names)} Its actions: {', '.join(names)}."
                    )
            action = torch.tensor([names.index(name) if isinstance(name, str) else name for name in typed])
        action = _for_each(torch.atleast_2d(action), num, "action")
        if action.shape[1] not in (1, frames):
            raise UserError(f"There are {action.shape[1]} actions for {frames} frames: give one for each, or one for all.")
        return action.to(self._device).expand(num, frames)

    @property
    def _device(self) -> torch.device:
        return next(self.generator.parameters()).device  # type: ignore[union-attr]


def _one_each(text: str | Sequence[str] | None, num: int, option: str) -> list[str] | None:
    """A text for each sample."""
    if text is None:
        return None
    texts = [text] * num if isinstance(text, str) else list(text)
    if len(texts) != num:
        raise UserError(f"'{option}' has {len(texts)} texts for {num} samples: give one for each, or one for all.")
    return texts


def _for_each(values: Tensor, num: int, option: str) -> Tensor:
    """The values of each sample (num, ...), of as many rows or of one for all."""
    if len(values) not in (1, num):
        raise UserError(
            f"'{option}' has values for {len(values)} samples, and there are {num}: give one for each, or one for all."
        )
    return values.expand(num, *values.shape[1:])


def save(folder: Path, *, tokenizer: nn.Module, generator: nn.Module | None, config: Mapping[str, Any]) -> None:
    """Writes ``folder``: the parts' weights as safetensors and ``config`` with what is needed to build them again.

    ``config`` holds ``tokenizer`` and ``generator`` (the parts' recipes or None), ``num_classes``, ``class_names``, ``shape``,
    ``action_names`` and ``vocabulary`` where the data has them, and whatever else its writer wants to keep. Every file appears
    whole (:func:`vidgen.files.replacing`), the config last.
    """
    from vidgen import __version__

    for name, part in (("tokenizer", tokenizer), ("generator", generator)):
        if part is not None:
            with replacing(folder / f"{name}.safetensors") as partial:
                save_file({key: value.detach().contiguous().cpu() for key, value in part.state_dict().items()}, partial)
    spec: LatentSpec = tokenizer.spec  # type: ignore[assignment]
    text = json.dumps({"format": FORMAT, "vidgen": __version__, "spec": spec.to_dict(), **config}, indent=2)
    with replacing(folder / "config.json") as partial:
        partial.write_text(text + "\n", encoding="utf-8")


def load(path: str | os.PathLike[str], device: torch.device | str = "cpu") -> Model:
    """The model in a folder (``runs/latest/model``), in a run's folder, or at ``hf-hub:organisation/name``; in evaluation mode.

    Raises:
        UserError: where there is no model, or its files do not fit this version of vidgen.
    """
    folder = resolve(path)
    config = read_config(folder)
    tokenizer = build_tokenizer(config["tokenizer"])
    _load_weights(tokenizer, folder / "tokenizer.safetensors")
    generator = None
    if config.get("generator") and (folder / "generator.safetensors").exists():
        generator = build_generator(config["generator"], space=tokenizer.space, **facts(config))
        _load_weights(generator, folder / "generator.safetensors")
    return Model(tokenizer=tokenizer, generator=generator, config=config).to(device)


def resolve(path: str | os.PathLike[str]) -> Path:
    """The folder that holds ``config.json``: ``path`` itself, its ``model`` folder, or the download of an ``hf-hub:`` name."""
    if str(path).startswith(HUB):
        from huggingface_hub import snapshot_download

        return Path(snapshot_download(str(path).removeprefix(HUB), allow_patterns=["*.safetensors", "config.json"]))
    for folder in (Path(path), Path(path) / "model"):
        if (folder / "config.json").is_file():
            return folder
    raise UserError(
        f"There is no model in '{path}': neither it nor its 'model' folder has a config.json, as 'vidgen fit' writes."
    )


def read_config(folder: Path) -> dict[str, Any]:
    """A model's ``config.json``, checked.

    Raises:
        UserError: where it is not one that :func:`save` of this version writes.
    """
    try:
        config = json.loads((folder / "config.json").read_text(encoding="utf-8"))
    except ValueError as error:
        raise UserError(f"'{folder / 'config.json'}' is not JSON: {error}.") from error
    if not isinstance(config, dict) or "vidgen" not in config:
        raise UserError(f"'{folder}' holds no model of vidgen's: its config.json is of another kind.")
    if config.get("format") != FORMAT:
        raise UserError(f"'{folder}' has model format {config.get('format')}, and this version of vidgen reads format {FORMAT}.")
    return config


def build_tokenizer(config: Mapping[str, Any]) -> Any:
    """A tokenizer from its recipe; what the recipe says of training is left aside."""
    return build("tokenizers", _parts(config))


def build_generator(
    config: Mapping[str, Any], *, space: Any, num_classes: int = 0, num_actions: int = 0, vocabulary: Sequence[str] = ()
) -> Any:
    """A generator from its recipe, bound to a tokenizer's latent space, given what it takes of the data's facts."""
    given = {"space": space, "num_classes": num_classes, "num_actions": num_actions, "vocabulary": tuple(vocabulary)}
    return build("generators", _parts(config), **taken("generators", config["name"], given))


def facts(config: Mapping[str, Any]) -> dict[str, Any]:
    """What a model's config keeps of the data that the generator was trained on, as :func:`build_generator` takes it."""
    return {
        "num_classes": config["num_classes"],
        "num_actions": len(config.get("action_names", ())),
        "vocabulary": tuple(config.get("vocabulary", ())),
    }


def _parts(config: Mapping[str, Any]) -> dict[str, Any]:
    return {key: value for key, value in config.items() if key not in FOR_FIT}


def _load_weights(part: nn.Module, file: Path) -> None:
    try:
        part.load_state_dict(load_file(file), strict=True)
    except (RuntimeError, OSError, SafetensorError) as error:
        raise UserError(f"The weights in '{file}' do not fit their config: {first_line(error)}") from error
    part.eval()


def weights_hash(part: nn.Module) -> str:
    """sha256 over names and values of all weights and buffers."""
    digest = hashlib.sha256()
    for name, value in sorted(part.state_dict().items()):
        digest.update(name.encode())
        digest.update(value.detach().cpu().contiguous().flatten().view(torch.uint8).numpy().tobytes())
    return digest.hexdigest()


def fingerprint(*parts: Any) -> str:
    """sha256 of the canonical JSON of ``parts``."""
    return hashlib.sha256(json.dumps(parts, sort_keys=True, separators=(",", ":"), default=list).encode()).hexdigest()
