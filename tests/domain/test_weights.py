"""What can be pulled, and what the catalogue asks for, are the same."""

import pytest

from fluxserve.domain.catalog import ANNOTATORS, FAMILIES, LORA_FILES, LORAS, SAFETY
from fluxserve.domain.weights import ENDINGS, GROUPS, PACKAGES, Civitai, Package, package_of

PULLED = [package for package in PACKAGES.values() if package.source is not None]


def sources() -> set[str]:
    """All that flux1 draws with."""
    rows, annotators, watched = FAMILIES["flux1"].values(), ANNOTATORS["flux1"], SAFETY["flux1"]
    assert watched is not None
    named = [name for row in rows for name in (row.own, row.shared, row.image_prompt, row.control)]
    named += [annotators.soft_edge, annotators.depth, annotators.openpose, annotators.people, watched.classifier]
    return {name for name in (*named, *LORA_FILES["flux1"].values()) if name}


def test_every_source_of_the_catalogues_is_a_package_and_every_package_is_somebodys_source() -> None:
    assert {package_of(source)[0].name for source in sources()} == set(PACKAGES)


def test_a_file_of_a_package_is_one_that_is_pulled_with_it() -> None:
    files = [package_of(source) for source in sources() if "/" in source]

    assert len(files) == 3
    assert all(file in package.files for package, file in files)


def test_every_lora_of_the_vendors_is_a_package_and_all_but_two_have_a_source() -> None:
    loras = {name: package.source for name, package in PACKAGES.items() if package.kind == "lora"}

    assert set(loras) == set(LORAS)
    assert [name for name, source in loras.items() if source is None] == [
        "remes-abstract-poster-style",
        "mystic-realism",
    ]
    assert sum(isinstance(source, Civitai) for source in loras.values()) == 14


@pytest.mark.parametrize("package", PULLED, ids=lambda package: package.name)
def test_a_package_has_files_that_hold_no_code_a_size_and_a_licence_with_a_page(package: Package) -> None:
    patterns = [each for pattern in package.files for each in pattern.split("|")]

    assert all(pattern.endswith(tuple(ENDINGS)) for pattern in patterns)
    assert bool(patterns) != isinstance(package.source, Civitai)
    assert (package.size is None) == isinstance(package.source, Civitai)
    assert package.licence.page.startswith("https://")


def test_what_is_gated_or_has_no_open_licence_is_known() -> None:
    assert {name for name, package in PACKAGES.items() if package.is_gated} == {
        "flux1-dev", "flux1-fill-dev", "flux1-kontext-dev", "flux1-redux-dev",
    }  # fmt: skip
    assert {package.licence.name for package in PACKAGES.values() if package.licence.is_commercial} == {
        "Apache-2.0",
        "MIT",
    }


def test_what_is_needed_and_what_is_in_a_group_is_there() -> None:
    assert {name for package in PACKAGES.values() for name in package.needs} <= set(PACKAGES)
    assert {name for names in GROUPS.values() for name in names} <= set(PACKAGES)
    assert not set(GROUPS) & set(PACKAGES)
