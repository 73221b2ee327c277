"""What can be pulled: every package of weights, whence it comes, and what its licence asks.

One table, `PACKAGES`, by the names that people type. The catalogue's rows name these; what a package is good for is
said there, where it lies on a machine is the weights room's to find out.
"""

from dataclasses import dataclass
from typing import Literal

Kind = Literal["transformer", "encoders", "image prompt", "control", "annotator", "safety", "lora"]

# What a package may be besides a folder of its files: one file, which has its name and one of these endings.
FILE_ENDINGS: dict[Kind, tuple[str, ...]] = {"transformer": (".safetensors", ".gguf"), "lora": (".safetensors",)}
# All that is ever fetched. What is missing here can run code when it is read, as pickle can (.bin, .pt, .ckpt, .pth).
ENDINGS = frozenset({".safetensors", ".json", ".txt", ".model", ".onnx", ".gguf"})


@dataclass(frozen=True, slots=True)
class Hub:
    """A repository of the Hugging Face hub. `also` are others in which the same files lie."""

    repository: str
    also: tuple[str, ...] = ()

    @property
    def page(self) -> str:
        return f"https://huggingface.co/{self.repository}"


@dataclass(frozen=True, slots=True)
class Civitai:
    """A model of Civitai's, of which the newest version for FLUX.1 is meant."""

    model: int

    @property
    def page(self) -> str:
        return f"https://civitai.com/models/{self.model}"


@dataclass(frozen=True, slots=True)
class Licence:
    """`is_commercial`: whether it is known to allow commercial use. What is not is pulled only by who accepts it."""

    name: str
    page: str
    is_commercial: bool


@dataclass(frozen=True, slots=True)
class Package:
    """Weights that come, lie and go together.

    `files` are patterns, or some with | between them: at least one file of its folder matches each. Of what is a single
    file they are its place in the source. `source` is None where people have to find it themselves. `size` is about how
    many bytes it has, None if only its source knows. `needs` are packages that are pulled with it, for it draws nothing
    without them.
    """

    name: str
    kind: Kind
    purpose: str
    source: Hub | Civitai | None
    licence: Licence
    files: tuple[str, ...]
    size: int | None
    is_gated: bool = False
    needs: tuple[str, ...] = ()

    @property
    def is_one_file(self) -> bool:
        return self.kind == "lora"

    @property
    def file_endings(self) -> tuple[str, ...]:
        """Of the single file that it may be."""
        return FILE_ENDINGS.get(self.kind, ())


def _open(name: str, repository: str) -> Licence:
    return Licence(name, Hub(repository).page, is_commercial=True)


DEV_LICENCE = Licence(
    "FLUX.1 [dev] Non-Commercial License",
    "https://huggingface.co/black-forest-labs/FLUX.1-dev/blob/main/LICENSE.md",
    is_commercial=False,
)
SCHNELL_LICENCE = _open("Apache-2.0", "black-forest-labs/FLUX.1-schnell")
_CONTROL = "Shakker-Labs/FLUX.1-dev-ControlNet-Union-Pro-2.0"
_TRANSFORMERS_FILES = ("config.json", "preprocessor_config.json", "model.safetensors")


def _transformer(name: str, repository: str, purpose: str, licence: Licence) -> Package:
    return Package(
        name,
        "transformer",
        purpose,
        Hub(f"black-forest-labs/{repository}"),
        licence,
        (
            "transformer/config.json",
            "transformer/*.safetensors",
            "scheduler/scheduler_config.json",
            "transformer/*.json",
        ),
        size=23_800_000_000,
        is_gated=licence is DEV_LICENCE,
        needs=("flux1-encoders", "safety-classifier"),
    )


_PARTS = (
    _transformer("flux1-schnell", "FLUX.1-schnell", "pictures from words in four steps", SCHNELL_LICENCE),
    _transformer("flux1-dev", "FLUX.1-dev", "pictures from words and pictures; LoRAs", DEV_LICENCE),
    _transformer("flux1-fill-dev", "FLUX.1-Fill-dev", "filling and growing pictures", DEV_LICENCE),
    _transformer("flux1-kontext-dev", "FLUX.1-Kontext-dev", "changing a picture as the words say", DEV_LICENCE),
    Package(
        "flux1-redux-dev",
        "image prompt",
        "variations of a picture, by flux1-dev",
        Hub("black-forest-labs/FLUX.1-Redux-dev"),
        DEV_LICENCE,
        (
            "feature_extractor/preprocessor_config.json",
            "image_encoder/config.json",
            "image_encoder/*.safetensors",
            "image_embedder/config.json",
            "image_embedder/*.safetensors",
        ),
        size=986_000_000,
        is_gated=True,
    ),
    Package(
        "flux1-encoders",
        "encoders",
        "what all FLUX.1 share: two text encoders and the autoencoder",
        # Here, because everybody may have them here; the same lie beside FLUX.1-dev.
        Hub("black-forest-labs/FLUX.1-schnell", also=("black-forest-labs/FLUX.1-dev",)),
        SCHNELL_LICENCE,
        (
            "text_encoder/config.json",
            "text_encoder/*.safetensors",
            "text_encoder_2/config.json",
            "text_encoder_2/*.json",
            "text_encoder_2/*.safetensors",
            "tokenizer/vocab.json|tokenizer/tokenizer.json",  # the newer files have all in one
            "tokenizer/merges.txt|tokenizer/tokenizer.json",
            "tokenizer/tokenizer_config.json",
            "tokenizer/*.json",
            "tokenizer_2/spiece.model|tokenizer_2/tokenizer.json",
            "tokenizer_2/tokenizer_config.json",
            "tokenizer_2/*.json",
            "vae/config.json",
            "vae/*.safetensors",
        ),
        size=9_940_000_000,
    ),
    Package(
        "flux1-controlnet",
        "control",
        "controls: edges, depth and poses of a picture, by flux1-dev",
        Hub(_CONTROL),
        Licence(DEV_LICENCE.name, Hub(_CONTROL).page, is_commercial=False),
        ("config.json", "diffusion_pytorch_model.safetensors"),
        size=4_280_000_000,
    ),
    Package(
        "annotator-soft-edge",
        "annotator",
        "sees soft edges: DexiNed",
        Hub("opencv/edge_detection_dexined"),
        _open("MIT", "opencv/edge_detection_dexined"),
        ("edge_detection_dexined_2024sep.onnx",),
        size=47_200_000,
    ),
    Package(
        "annotator-depth",
        "annotator",
        "sees depth: Depth Anything V2, small",
        Hub("depth-anything/Depth-Anything-V2-Small-hf"),
        _open("Apache-2.0", "depth-anything/Depth-Anything-V2-Small-hf"),
        _TRANSFORMERS_FILES,
        size=99_000_000,
    ),
    Package(
        "annotator-openpose",
        "annotator",
        "sees poses: DWPose, and YOLOX that finds the people",
        Hub("yzd-v/DWPose"),
        _open("Apache-2.0", "yzd-v/DWPose"),
        ("dw-ll_ucoco_384.onnx", "yolox_l.onnx"),
        size=351_000_000,
    ),
    Package(
        "safety-classifier",
        "safety",
        "looks at each picture of FLUX.1's",
        Hub("Falconsai/nsfw_image_detection"),
        _open("Apache-2.0", "Falconsai/nsfw_image_detection"),
        _TRANSFORMERS_FILES,
        size=343_000_000,
    ),
)

_XLABS = Hub("XLabs-AI/flux-lora-collection")
_OF_XLABS = {
    "anime": 44_800_000,
    "art": 359_000_000,
    "disney": 44_800_000,
    "furry": 89_700_000,
    "mjv6": 44_800_000,
    "realism": 22_400_000,
    "scenery": 44_800_000,
}
_ON_CIVITAI = {
    "collage-artstyle": 748468,
    "creepcute": 788990,
    "cyberpunk-anime-style": 128568,
    "deco-pulse": 720587,
    "deep-sea-particle-enhencer": 15452,
    "faetastic-details": 643886,
    "fractal-geometry": 269592,
    "galactixy-illustrations-style": 747833,
    "geometric-woman": 103528,
    "graphic-portrait": 170039,
    "mat-miller-art": 894974,
    "moebius-style": 682651,
    "ob3d-isometric-3d-room": 555323,
    "paper-quilling-and-layering-style": 860403,
}


def _lora(
    name: str, source: Hub | Civitai | None, licence: Licence, files: tuple[str, ...], size: int | None = None
) -> Package:
    purpose = "a LoRA, on flux1-dev"
    return Package(name, "lora", purpose, source, licence, files, size)


_LORAS = (
    *(
        _lora(
            name,
            _XLABS,
            Licence(DEV_LICENCE.name, _XLABS.page, is_commercial=False),
            (f"{name}_lora.safetensors",),
            size,
        )
        for name, size in _OF_XLABS.items()
    ),
    *(
        _lora(name, Civitai(model), Licence("see its page", Civitai(model).page, is_commercial=False), ())
        for name, model in _ON_CIVITAI.items()
    ),
    *(
        _lora(name, None, Licence("as its maker says", "", is_commercial=False), ())
        for name in ("remes-abstract-poster-style", "mystic-realism")
    ),
)

PACKAGES: dict[str, Package] = {package.name: package for package in (*_PARTS, *_LORAS)}
GROUPS: dict[str, tuple[str, ...]] = {
    "flux1": tuple(package.name for package in _PARTS),
    "annotators": tuple(package.name for package in _PARTS if package.kind == "annotator"),
    "loras": tuple(package.name for package in _LORAS if package.source is not None),
}


def package_of(source: str) -> tuple[Package, str]:
    """The package that a source of the catalogue's names, and the file in it, or "" for all of it."""
    name, _, file = source.partition("/")
    return PACKAGES[name], file
