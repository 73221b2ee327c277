"""What lies at the sources, made small."""

from pathlib import Path

ENCODERS = {
    "text_encoder/config.json": b"{}",
    "text_encoder/model.safetensors": b"clip",
    "text_encoder_2/config.json": b"{}",
    "text_encoder_2/model.safetensors.index.json": b"{}",
    "text_encoder_2/model-00001-of-00002.safetensors": b"t5, one",
    "text_encoder_2/model-00002-of-00002.safetensors": b"t5, two",
    "tokenizer/vocab.json": b"{}",
    "tokenizer/merges.txt": b"a b",
    "tokenizer/tokenizer_config.json": b"{}",
    "tokenizer_2/spiece.model": b"pieces",
    "tokenizer_2/tokenizer_config.json": b"{}",
    "vae/config.json": b"{}",
    "vae/diffusion_pytorch_model.safetensors": b"vae",
}
TRANSFORMER = {
    "scheduler/scheduler_config.json": b"{}",
    "transformer/config.json": b"{}",
    "transformer/diffusion_pytorch_model.safetensors.index.json": b"{}",
    "transformer/diffusion_pytorch_model-00001-of-00002.safetensors": bytes(range(256)) * 8000,
    "transformer/diffusion_pytorch_model-00002-of-00002.safetensors": b"the rest",
}
BESIDE = {  # what else is in such a repository
    "README.md": b"FLUX",
    "flux1.safetensors": b"all of it once more",
    "transformer/diffusion_pytorch_model.bin": b"a pickle",
    "transformer/model.ckpt": b"another",
}
FLUX = {**TRANSFORMER, **ENCODERS, **BESIDE}
CLASSIFIER = {"config.json": b"{}", "preprocessor_config.json": b"{}", "model.safetensors": b"a classifier"}
FIRST_SHARD = "transformer/diffusion_pytorch_model-00001-of-00002.safetensors"


def lay(folder: Path, files: dict[str, bytes]) -> Path:
    """Have the files there."""
    for name, data in files.items():
        (folder / name).parent.mkdir(parents=True, exist_ok=True)
        (folder / name).write_bytes(data)
    return folder


def lay_in_cache(cache: Path, repository: str, files: dict[str, bytes]) -> Path:
    """Have them in the hub's cache, as its library lays them out; the snapshot."""
    repo = cache / f"models--{repository.replace('/', '--')}"
    commit = "f" * 40
    snapshot = repo / "snapshots" / commit
    for number, (name, data) in enumerate(files.items()):
        blob = repo / "blobs" / f"{number:040x}"
        link = snapshot / name
        for path in (blob, link):
            path.parent.mkdir(parents=True, exist_ok=True)
        blob.write_bytes(data)
        link.symlink_to(Path(*[".."] * (len(Path(name).parts) + 1)) / "blobs" / blob.name)
    (repo / "refs").mkdir()
    (repo / "refs" / "main").write_text(commit)
    return snapshot
